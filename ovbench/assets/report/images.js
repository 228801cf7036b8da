const IMAGES_AT_ONCE = 20;

/* The images of a run: filtered by what was taken for what, by name, sorted, and one of them large. */
class Browser {
  /* ``other`` is the run to compare with; ``before`` the browser shown until now, whose filters and image are kept where
     they fit. */
  constructor(run, other, body, before) {
    this.run = run;
    const { ids, loss, miou, wrong } = run.images;
    this.matching = new Uint32Array(ids.length);
    const places = new Map(other ? other.images.ids.map((id, n) => [id, n]) : []);
    const difference = (n) => minus(miou[n], places.has(ids[n]) ? other.images.miou[places.get(ids[n])] : null);
    const column = (title, values, digits) => ({ title, number: true, value: (n) => values[n], cell: (n) => percent(values[n], digits) });
    this.table = new Table({
      label: "Images", noun: "images", pageSize: IMAGES_AT_ONCE, order: { column: 1, down: true },
      columns: [
        { title: "image", head: true, value: (n) => ids[n], cell: (n) => this.link(n) },
        { title: "loss", number: true, value: (n) => loss[n], cell: (n) => this.file(n, percent(loss[n], 3)) }, column("own mIoU %", miou, 1),
        ...(other ? [differences(difference, 1)] : []), column("wrong %", wrong, 1),
        { title: "pixels", number: true, value: (n) => this.matching[n], cell: (n) => whole(this.matching[n]) },
        { title: "picture", value: (n) => Number(!(ids[n] in run.pictures)), cell: (n) => this.thumbnail(n) },
      ],
    });
    this.table.current = (n) => n === this.chosen;
    this.difference = other ? difference : null;
    this.viewer = new Viewer((step) => this.step(step), other);
    this.truth = this.select();
    this.guess = this.select();
    this.name = make("input", { type: "search", input: () => this.filter() });
    this.pictured = make("input", { type: "checkbox", change: () => this.filter() });
    const reset = make("button", { type: "button", click: () => this.reset() }, "Show all");
    const save = make("button", { type: "button", click: () => this.save() }, "Save list (CSV)");
    body.replaceChildren(
      make("p", { class: "quiet" }, "Loss: gain in mIoU of the run, in points, if only this image were labelled perfectly. "
        + "Own mIoU: mean IoU over the classes with pixels in the image. "
        + "The two class lists select images with pixels of the true class that were predicted as the other class, and count "
        + "these pixels. In the list, arrow keys select an image and page keys turn pages."),
      make("div", { class: "tools" },
        make("label", {}, "True class", this.truth), make("label", {}, "Predicted class", this.guess),
        make("label", {}, "Name contains", this.name),
        make("label", { class: "check" }, this.pictured, "with a picture"), reset, save),
      make("div", { class: "split" }, this.table.element, this.viewer.element));
    if (before) this.resume(before);
    this.filter();
    const same = before ? ids.indexOf(before.run.images.ids[before.chosen]) : -1;
    const first = this.table.rows.includes(same) ? same : this.table.rows[0];
    if (first !== undefined) this.choose(first);
  }

  resume(before) {
    this.viewer.slider.value = before.viewer.slider.value;
    this.viewer.opacity.value = before.viewer.opacity.value;
    this.name.value = before.name.value;
    if (!sameClasses(before.run, this.run)) return;
    this.pictured.checked = before.pictured.checked;
    this.truth.value = before.truth.value;
    this.guess.value = before.guess.value;
  }

  select() {
    const { classes } = this.run;
    const options = classes.map((name, number) => [name, number]).sort(([a], [b]) => collator.compare(a, b));
    const element = make("select", { change: () => this.filter() }, make("option", { value: "" }, "any"),
      ...options.map(([name, number]) => make("option", { value: String(number) }, name)));
    if (this.run.guesses.includes(classes.length) || this.run.labels.includes(classes.length)) {
      element.append(make("option", { value: String(classes.length) }, OUTSIDE));
    }
    return element;
  }

  filter() {
    const { run, matching } = this;
    const [truth, guess] = [this.truth, this.guess].map(({ value }) => (value === "" ? null : Number(value)));
    const right = truth !== null && truth === guess;
    for (let image = 0; image < matching.length; image++) {
      let pixels = 0;
      for (let n = run.starts[image]; n < run.starts[image + 1]; n++) {
        const fits = (truth === null || run.labels[n] === truth) && (guess === null || run.guesses[n] === guess);
        if (fits && (run.labels[n] === run.guesses[n]) === right) pixels += run.pixels[n];
      }
      matching[image] = pixels;
    }
    const text = this.name.value.toLowerCase();
    const filtered = truth !== null || guess !== null;
    this.table.show(run.images.ids.map((id, n) => n).filter((n) => (!filtered || matching[n] > 0)
      && run.images.ids[n].toLowerCase().includes(text) && (!this.pictured.checked || run.images.ids[n] in run.pictures)));
  }

  filterBy(truth, guess) {
    this.truth.value = truth === null ? "" : String(truth);
    this.guess.value = guess === null ? "" : String(guess);
    this.filter();
    if (this.table.rows.length) this.choose(this.table.rows[0]);
  }

  reset() {
    this.name.value = "";
    this.pictured.checked = false;
    this.filterBy(null, null);
  }

  /* A small picture of an image, if the page has it. */
  thumbnail(n) {
    const known = this.run.pictures[this.run.images.ids[n]];
    return known ? make("img", { class: "thumbnail", alt: "yes", src: photoOf(documents(known.element).input) }) : "";
  }

  /* A value that opens the file of the image. */
  file(n, text) {
    const file = this.run.files[n];
    return file ? make("a", { href: file, target: "_blank", rel: "noopener", title: "Open the image file" }, text) : text;
  }

  /* The rows of the list as text for a spreadsheet; no cell begins a formula. */
  csv() {
    const { ids, loss, miou, wrong } = this.run.images;
    const quoted = (value) => `"${String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
    const heads = ["image", "loss", "own mIoU", "wrong", "pixels", ...(this.difference ? ["difference of own mIoU"] : [])];
    const rows = this.table.rows.map((n) => [quoted(ids[n]), loss[n], miou[n], wrong[n], this.matching[n],
      ...(this.difference ? [this.difference(n)] : [])].map((value) => value ?? "").join(","));
    return [heads.join(","), ...rows, ""].join("\n");
  }

  save() {
    const address = URL.createObjectURL(new Blob([this.csv()], { type: "text/csv" }));
    make("a", { href: address, download: "images.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  link(n) {
    return make("button", { type: "button", class: "link", click: () => this.choose(n, true) }, this.run.images.ids[n]);
  }

  choose(n, stay = false) {
    this.chosen = n;
    const place = this.table.rows.indexOf(n);
    this.table.showRow(n);
    if (stay) find("tr[aria-current] button", this.table.body)?.focus();
    this.viewer.show(this.run, n, { first: place <= 0, last: place >= this.table.rows.length - 1 });
  }

  step(step) {
    const place = this.table.rows.indexOf(this.chosen);
    const next = this.table.rows[Math.min(Math.max(place + step, 0), this.table.rows.length - 1)];
    if (next !== undefined) this.choose(next);
  }
}
