"use strict";
/* Filters and order of the table of all rows. */
(() => {
  const form = document.getElementById("filters");
  const body = document.querySelector("#rows tbody");
  const heads = [...document.querySelectorAll("#rows thead th")].map((head) => head.textContent.trim());
  const rows = [...body.rows];

  function value(row, column) {
    const text = row.cells[column].dataset.value;
    return text === undefined ? -1 : Number(text);
  }

  function show() {
    const wanted = Object.fromEntries(new FormData(form));
    const text = wanted.text.toLowerCase().trim();
    let count = 0;
    for (const row of rows) {
      const fits = Object.entries(wanted).every(([name, one]) => one === "" || name === "text" || name === "sort"
        || row.dataset[name].split("|").includes(one)) && row.dataset.text.includes(text);
      row.hidden = !fits;
      count += fits;
    }
    const column = wanted.sort ? heads.indexOf(wanted.sort) : -1;
    body.replaceChildren(...(column < 0 ? rows : [...rows].sort((a, b) => value(b, column) - value(a, column))));
    document.getElementById("count").textContent = `${count} of ${rows.length} rows`;
  }

  for (const event of ["input", "change"]) form.addEventListener(event, show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  form.hidden = false;
  show();
  document.documentElement.dataset.ready = "yes";
})();
