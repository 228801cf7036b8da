const [chooser, otherChooser] = [find("#run"), find("#other")];
let browser = null;

/* The runs that the chosen one may be compared with: of the same benchmark. */
function offerOthers(chosen) {
  const before = otherChooser.value;
  const options = [...chooser.options].filter((option) => option !== chosen && option.dataset.benchmark === chosen.dataset.benchmark);
  otherChooser.replaceChildren(make("option", { value: "" }, "nothing"),
    ...options.map((option) => make("option", { value: option.value }, option.textContent)));
  otherChooser.value = options.some((option) => option.value === before) ? before : "";
}

async function openOther(run) {
  if (!otherChooser.value) return null;
  const other = await openRun(chooser.options[otherChooser.value].dataset.element);
  return sameClasses(run, other) ? other : null;
}

async function showRun() {
  const chosen = chooser.options[chooser.selectedIndex];
  offerOthers(chosen);
  const versus = otherChooser.value;
  const run = await openRun(chosen.dataset.element);
  const other = await openOther(run);
  if (chooser.value !== chosen.value || otherChooser.value !== versus) return; // chosen anew meanwhile
  const choose = (truth, guess) => {
    browser.filterBy(truth, guess);
    find("#images").scrollIntoView();
    find("#images h2").focus();
  };
  const several = chooser.options.length > 1;
  for (const line of document.querySelectorAll("#summary tr[data-run]")) {
    if (several && line.dataset.run === chosen.value) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
  const minusOther = other ? `, minus ${chooser.options[versus].textContent}` : "";
  for (const title of document.querySelectorAll(".which")) {
    title.textContent = several ? chosen.textContent + (title.classList.contains("alone") ? "" : minusOther) : "";
  }
  showClasses(run, other, find("#classes-body"), choose);
  showConfusions(run, find("#confusions-body"), choose);
  browser = run.images.ids.length ? new Browser(run, other, find("#images-body"), browser) : null;
  if (!browser) find("#images-body").replaceChildren(make("p", {}, "Unknown, because there is no ledger with the counts of every image beside this record."));
  document.documentElement.dataset.shown = [chosen.value, versus].filter(Boolean).join("-");
}

for (const element of [chooser, otherChooser]) element.addEventListener("change", showRun);
for (const button of document.querySelectorAll("[data-choose]")) {
  button.addEventListener("click", () => { chooser.value = button.dataset.choose; showRun(); });
}
find("#images h2").tabIndex = -1;
showRun();
