const chooser = find("#run");
let browser = null;

async function showRun(number) {
  chooser.value = String(number);
  const option = chooser.options[number];
  const run = await openRun(option.dataset.element);
  if (chooser.value !== String(number)) return;
  const choose = (truth, guess) => {
    browser.filterBy(truth, guess);
    find("#images").scrollIntoView();
    find("#images h2").focus();
  };
  for (const line of document.querySelectorAll("#summary tr[data-run]")) {
    if (chooser.options.length > 1 && line.dataset.run === String(number)) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
  for (const name of document.querySelectorAll(".which")) name.textContent = chooser.options.length > 1 ? option.textContent : "";
  showClasses(run, find("#classes-body"), choose);
  showConfusions(run, find("#confusions-body"), choose);
  browser = run.images.ids.length ? new Browser(run, find("#images-body"), browser) : null;
  if (!browser) find("#images-body").replaceChildren(make("p", {}, "Not known: no ledger with the counts of every image was beside this record."));
  document.documentElement.dataset.shown = String(number);
}

chooser.addEventListener("change", () => showRun(Number(chooser.value)));
for (const button of document.querySelectorAll("[data-choose]")) {
  button.addEventListener("click", () => showRun(Number(button.dataset.choose)));
}
find("#images h2").tabIndex = -1;
showRun(0);
