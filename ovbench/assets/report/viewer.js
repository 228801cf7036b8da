const VIEWS = ["image", "truth", "prediction", "error", "confidence"]; // the last one is not known of every picture
const SURE = [[0, 0, 4], [120, 28, 109], [237, 105, 37], [252, 255, 164]]; // colours of probabilities from 0 to 1
const SHOWN_HEIGHT = 26; // rem, at most
/* Colours are RGBA in one number, as a canvas keeps them: red is the lowest byte. */
const rgba = (r, g, b, a = 255) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
const [CLEAR, BLACK, WRONG, RIGHT] = [0, rgba(0, 0, 0), rgba(222, 60, 20, 200), rgba(0, 0, 0, 90)];
const STRIPES = [rgba(128, 128, 128), rgba(90, 90, 90)]; // not scored

/* The colour of a probability in 0..255. */
function sureness(value) {
  const place = value / 255 * (SURE.length - 1);
  const below = Math.min(Math.floor(place), SURE.length - 2);
  return rgba(...SURE[below].map((from, n) => Math.round(from + (SURE[below + 1][n] - from) * (place - below))));
}

/* One image: a slider from the image through truth and prediction to errors and confidence, and what was taken for what. */
class Viewer {
  constructor(step, other) {
    this.other = other;
    this.title = make("h3");
    this.back = make("button", { type: "button", click: () => step(-1) }, "Previous image");
    this.next = make("button", { type: "button", click: () => step(1) }, "Next image");
    this.facts = make("p", { class: "quiet" });
    this.canvas = make("canvas", { role: "img", pointermove: (event) => this.point(event), pointerleave: () => this.read("") });
    this.reading = make("p", { class: "reading" });
    this.slider = make("input", { type: "range", min: "0", max: "4", step: "0.05", value: "2", "aria-label": "View",
      input: () => this.draw(), keydown: (event) => this.key(event) });
    this.opacity = make("input", { type: "range", min: "0", max: "1", step: "0.05", value: "0.65", input: () => this.draw() });
    this.buttons = VIEWS.map((name, number) => make("button", { type: "button", click: () => this.view(number) }, name));
    this.scale = make("p", { class: "scale", hidden: true }, "unsure 0 %", make("i", { "aria-hidden": "true" }), "100 % sure");
    this.beside = make("canvas", { role: "img" });
    this.names = [make("figcaption"), make("figcaption")];
    this.figures = [make("figure", {}, this.canvas, this.names[0]), make("figure", { hidden: true }, this.beside, this.names[1])];
    this.picture = make("div", { hidden: true }, this.slider,
      make("div", { class: "views", role: "group", "aria-label": "View" }, ...this.buttons),
      make("div", { class: "pair" }, ...this.figures), this.scale, this.reading,
      make("label", { class: "field" }, "Opacity of the labels", this.opacity));
    this.missing = make("p", { class: "quiet", hidden: true });
    this.lists = make("div", { class: "lists" });
    this.element = make("div", { class: "viewer", hidden: true, role: "region", "aria-label": "Chosen image" },
      make("div", { "aria-live": "polite" }, this.title, this.facts),
      make("div", { class: "pager" }, this.back, this.next), this.picture, this.missing, this.lists);
  }

  async show(run, image, position) {
    Object.assign(this, { run, image, lit: null, layers: null, otherLayers: null });
    this.element.hidden = false;
    this.title.textContent = run.images.ids[image];
    this.back.disabled = position.first;
    this.next.disabled = position.last;
    const { loss, miou, wrong } = run.images;
    this.facts.textContent = `Loss of mIoU ${percent(loss[image], 3)} points (place ${whole(image + 1)} of `
      + `${whole(run.images.ids.length)}), mIoU of its own ${percent(miou[image], 1)} %, ${percent(wrong[image], 1)} % wrong.`;
    this.list();
    const known = run.pictures[run.images.ids[image]];
    this.missing.hidden = Boolean(known);
    this.missing.textContent = "No image: the file has only the images that cost most mIoU; --images sets their number.";
    if (!known) { this.picture.hidden = true; return; }
    const layers = await openPicture(run, documents(known.element));
    const second = this.other?.pictures[run.images.ids[image]];
    const otherLayers = second ? await openPicture(this.other, documents(second.element)) : null;
    if (this.run !== run || this.image !== image) return;
    Object.assign(this, { layers, otherLayers });
    for (const canvas of [this.canvas, this.beside]) {
      canvas.width = layers.width;
      canvas.height = layers.height;
      canvas.style.width = `min(100%, ${SHOWN_HEIGHT * layers.width / layers.height}rem)`;
    }
    this.figures[1].hidden = !otherLayers;
    const last = layers.confidence || otherLayers?.confidence ? 4 : 3;
    this.slider.max = String(last);
    this.buttons[4].hidden = last < 4;
    this.caption();
    this.picture.hidden = false;
    if (layers.moved) this.facts.textContent += ` The image was labelled again: ${whole(layers.moved)} of `
      + `${whole(layers.pixels)} pixels are not as the run counted them.`;
    this.draw();
  }

  /* The names of two runs below their pictures, with the scores of the image. */
  caption() {
    const options = [...document.querySelectorAll("#run option")];
    const name = (run) => options.find((option) => run && option.dataset.element === run.element)?.textContent ?? "";
    const score = (run, n) => (n < 0 ? "" : `: mIoU ${percent(run.images.miou[n], 1)} %, ${percent(run.images.wrong[n], 1)} % wrong`);
    const place = this.other ? this.other.images.ids.indexOf(this.run.images.ids[this.image]) : -1;
    this.names[0].textContent = this.otherLayers ? name(this.run) + score(this.run, this.image) : "";
    this.names[1].textContent = this.otherLayers ? name(this.other) + score(this.other, place) : "";
  }

  key(event) {
    const now = Number(this.slider.value);
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.view(Math.min(Math.max(step > 0 ? Math.floor(now + 1) : Math.ceil(now - 1), 0), Number(this.slider.max)));
  }

  view(number) { this.slider.value = String(number); this.draw(); }

  draw() {
    if (!this.layers) return;
    const value = Number(this.slider.value);
    const below = Math.floor(value);
    for (const [canvas, layers] of [[this.canvas, this.layers], [this.beside, this.otherLayers]]) {
      if (!layers) continue;
      const pen = canvas.getContext("2d");
      pen.globalAlpha = 1;
      this.paint(pen, layers, below, 1);
      if (value > below) this.paint(pen, layers, below + 1, value - below);
    }
    const name = value > below ? `between ${VIEWS[below]} and ${VIEWS[below + 1]}` : VIEWS[below];
    this.scale.hidden = value <= 3;
    this.slider.setAttribute("aria-valuetext", name);
    this.canvas.setAttribute("aria-label", `${this.run.images.ids[this.image]}: ${name}`);
    this.beside.setAttribute("aria-label", `${this.run.images.ids[this.image]}, the other run: ${name}`);
    this.buttons.forEach((button, number) => button.setAttribute("aria-pressed", String(number === value)));
  }

  paint(pen, layers, view, alpha) {
    pen.globalAlpha = alpha;
    pen.drawImage(layers.photo, 0, 0);
    if (view === 0 || (view === 4 && !layers.confidence)) return;
    if (view === 3) { // on grey, so that no colour of the image is taken for an error
      pen.globalCompositeOperation = "saturation";
      pen.fillStyle = "#808080";
      pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
      pen.globalCompositeOperation = "source-over";
    }
    pen.globalAlpha = view >= 3 ? alpha : alpha * Number(this.opacity.value);
    pen.drawImage(layers.overlay(VIEWS[view], this.lit), 0, 0);
  }

  point(event) {
    if (!this.layers) return;
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * this.layers.width);
    const y = Math.floor((event.clientY - box.top) / box.height * this.layers.height);
    const place = y * this.layers.width + x;
    if (!(place >= 0 && place < this.layers.truth.length)) return;
    const truth = this.layers.truth[place];
    const known = truth < this.run.classes.length;
    const sure = this.layers.confidence ? ` (${percent(this.layers.confidence[place] / 255, 0)} % sure)` : "";
    this.read(`truth: ${known ? className(this.run, truth) : "not scored"}, prediction: ${className(this.run, this.layers.prediction[place])}${sure}`);
  }

  read(text) { this.reading.textContent = text; }

  /* Classes of the image, each a switch that dims all others, and its largest errors. */
  list() {
    const { run, image } = this;
    const found = new Map();
    const errors = [];
    let total = 0;
    for (let n = run.starts[image]; n < run.starts[image + 1]; n++) {
      const [label, guess, pixels] = [run.labels[n], run.guesses[n], run.pixels[n]];
      total += pixels;
      for (const [number, key] of [[label, "labelled"], [guess, "predicted"]]) {
        if (!found.has(number)) found.set(number, { number, labelled: 0, predicted: 0, hit: 0 });
        found.get(number)[key] += pixels;
      }
      if (label === guess) found.get(label).hit += pixels;
      else errors.push([label, guess, pixels]);
    }
    errors.sort(([, , a], [, , b]) => b - a);
    const classes = [...found.values()].filter(({ number }) => number < run.classes.length)
      .sort((a, b) => b.labelled + b.predicted - a.labelled - a.predicted);
    this.lists.replaceChildren(
      this.listed("Classes, in % of the image", ["class", "true", "predicted", "IoU"], classes.map((row) => [this.switch(row.number),
        percent(row.labelled / total, 1), percent(row.predicted / total, 1),
        percent(row.hit / (row.labelled + row.predicted - row.hit), 1)])),
      this.listed("Largest errors, in % of the image", ["true", "predicted as", ""], errors.slice(0, 12).map(([label, guess, pixels]) =>
        [named(run, label), named(run, guess), percent(pixels / total, 1)])));
  }

  switch(number) {
    const button = make("button", { type: "button", class: "link", "aria-pressed": "false", title: "Show only this class" },
      this.run.classes[number]);
    button.addEventListener("click", () => {
      this.lit = this.lit === number ? null : number;
      for (const other of this.lists.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && this.lit === number));
      this.draw();
    });
    return named(this.run, number, button);
  }

  listed(title, heads, rows) {
    const numeric = (n) => (n >= heads.length - (heads.length === 4 ? 3 : 1) ? "number" : "");
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, make("table", {}, make("caption", {}, title),
      make("thead", {}, make("tr", {}, ...heads.map((head, n) => make("th", { scope: "col", class: numeric(n) }, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, n) => make("td", { class: numeric(n) }, cell)))))));
  }
}

/* Pixels of a picture; its overlays are drawn when they are first seen. */
async function openPicture(run, picture) {
  const input = documents(picture.input);
  const { width, height } = picture;
  const photo = new Image();
  photo.src = photoOf(picture.input);
  const [truth, prediction] = await Promise.all([input.truth, picture.prediction].map(async (text) => new Uint16Array(await unpack(text))));
  const confidence = picture.confidence ? new Uint8Array(await unpack(picture.confidence)) : null;
  await photo.decode();
  const classes = run.classes.length;
  const colours = run.colours.map((colour) => rgba(...[1, 3, 5].map((n) => parseInt(colour.slice(n, n + 2), 16))));
  const drawn = new Map();

  function draw(colourAt) {
    const canvas = make("canvas", { width, height });
    const pen = canvas.getContext("2d");
    const data = pen.createImageData(width, height);
    const colour = new Uint32Array(data.data.buffer);
    for (let n = 0; n < colour.length; n++) colour[n] = colourAt(n);
    pen.putImageData(data, 0, 0);
    return canvas;
  }

  const labelled = (labels, lit) => (n) => {
    if (labels[n] >= classes) return CLEAR;
    return lit === null || labels[n] === lit ? colours[labels[n]] : BLACK;
  };
  const errors = (n) => {
    if (truth[n] >= classes) return STRIPES[(n % width + Math.floor(n / width)) % 8 < 4 ? 0 : 1];
    return truth[n] === prediction[n] ? RIGHT : WRONG;
  };
  const rules = { truth: (lit) => labelled(truth, lit), prediction: (lit) => labelled(prediction, lit), error: () => errors,
    confidence: () => (n) => sureness(confidence[n]) };

  function overlay(view, lit) {
    const key = view === "error" || view === "confidence" ? view : `${view} ${lit}`;
    if (!drawn.has(key)) drawn.set(key, draw(rules[view](lit)));
    return drawn.get(key);
  }
  return { width, height, photo, truth, prediction, confidence, overlay, moved: picture.moved, pixels: picture.pixels };
}
