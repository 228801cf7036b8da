const CONFUSIONS_AT_ONCE = 15;

/* IoU of every class, with its interval, and minus another run's; the name of a class filters the images by it. */
function showClasses(run, other, body, choose) {
  const { iou, acc, low, high, labelled, predicted } = run.perClass;
  const total = labelled.reduce((sum, pixels) => sum + pixels, 0) || 1;
  const rows = run.classes.map((name, number) => number);
  const link = (number) => (run.images.ids.length
    ? named(run, number, make("button", { type: "button", class: "link", click: () => choose(number, null) }, run.classes[number]))
    : named(run, number));
  const range = (number) => (low[number] === null ? "–" : `${percent(low[number], 1)} to ${percent(high[number], 1)}`);
  const table = new Table({
    label: "IoU of every class", noun: "classes", tall: true, order: { column: 2, down: false },
    columns: [
      { title: "class", head: true, value: (n) => run.classes[n], cell: link },
      { title: "", wide: true, cell: (n) => bar(iou[n], low[n], high[n]) },
      { title: "IoU %", number: true, value: (n) => iou[n], cell: (n) => percent(iou[n]) },
      { title: "95 % interval", cell: range },
      ...(other ? [differences((n) => minus(iou[n], other.perClass.iou[n]), 2)] : []),
      { title: "accuracy %", number: true, value: (n) => acc[n], cell: (n) => percent(acc[n]) },
      { title: "labelled %", number: true, value: (n) => labelled[n], cell: (n) => percent(labelled[n] / total) },
      { title: "predicted %", number: true, value: (n) => predicted[n], cell: (n) => percent(predicted[n] / total) },
    ],
  });
  const search = make("input", { type: "search", input: () => narrow() });
  const narrow = () => table.show(rows.filter((n) => run.classes[n].toLowerCase().includes(search.value.toLowerCase())));
  narrow();
  body.replaceChildren(
    make("p", { class: "quiet" }, "Labelled and predicted: fraction of all labelled pixels. ",
      run.images.ids.length ? "Intervals: jackknife over images. Click a class to list the images with errors in it." : ""),
    make("div", { class: "tools" }, make("label", {}, "Find a class", search)), table.element);
}

/* The column of what this run has more than the other. */
function differences(value, digits) {
  return { title: "difference", number: true, value, cell: (row) => signed(value(row), digits) };
}

/* True class, what it was taken for, and how much of it; a pair filters the images. */
function showConfusions(run, body, choose) {
  if (!run.confusions.length) {
    body.replaceChildren(make("p", {}, run.images.ids.length ? "No pixel was labelled wrongly."
      : "Unknown, because there is no ledger beside this record."));
    return;
  }
  const table = new Table({
    label: "Largest confusions", noun: "pairs", pageSize: CONFUSIONS_AT_ONCE, order: { column: 2, down: true },
    columns: [
      { title: "true class", head: true, value: ([t]) => className(run, t), cell: ([t, p]) => named(run, t,
        make("button", { type: "button", class: "link", click: () => choose(t, p),
          "aria-label": `${className(run, t)} taken for ${className(run, p)}: show images` }, className(run, t))) },
      { title: "predicted as", value: ([, p]) => className(run, p), cell: ([, p]) => named(run, p) },
      { title: "pixels", number: true, value: ([, , pixels]) => pixels, cell: ([, , pixels]) => whole(pixels) },
      { title: "% of the true class", number: true, value: ([, , , share]) => share, cell: ([, , , share]) => percent(share) },
      { title: "", wide: true, cell: ([, , , share]) => bar(share) },
    ],
  });
  const search = make("input", { type: "search", input: () => narrow() });
  const narrow = () => table.show(run.confusions.filter((pair) => pair.slice(0, 2)
    .some((n) => className(run, n).toLowerCase().includes(search.value.toLowerCase()))));
  narrow();
  body.replaceChildren(
    make("p", { class: "quiet" }, "The largest pairs by pixels and by fraction, and some pairs of every class. Click a pair to list its images."),
    make("div", { class: "tools" }, make("label", {}, "Find a class", search)), table.element);
}
