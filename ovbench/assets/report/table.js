const collator = new Intl.Collator("en", { numeric: true });

/* A table that is sorted by its column heads and shows one page of its rows.
   columns: [{ title, number, value(row) to sort by, cell(row) -> text or element, head: the row's own name }] */
class Table {
  constructor({ label, columns, pageSize = Infinity, order, tall = false, noun }) {
    Object.assign(this, { columns, pageSize, order, noun, label, rows: [], page: 0 });
    this.buttons = columns.map((column, number) =>
      column.value ? make("button", { type: "button", click: () => this.sortBy(number) }, column.title) : null);
    this.heads = columns.map((column, number) => make("th", { scope: "col", class: this.kind(column) },
      this.buttons[number] ?? column.title));
    this.body = make("tbody");
    const table = make("table", { "aria-label": label }, make("thead", {}, make("tr", {}, ...this.heads)), this.body);
    this.status = make("span", { role: "status" });
    this.back = make("button", { type: "button", click: () => this.turn(-1) }, "Previous page");
    this.next = make("button", { type: "button", click: () => this.turn(1) }, "Next page");
    this.pager = make("div", { class: "pager" }, this.status);
    if (pageSize < Infinity) this.pager.append(make("span", { class: "turn" }, this.back, this.next));
    this.scroll = make("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region",
      "aria-label": label, keydown: (event) => this.key(event) }, table);
    this.element = make("div", {}, this.pager, this.scroll);
  }

  kind(column) { return (column.number ? "number" : "") + (column.wide ? " wide" : ""); }

  show(rows, keepPage = false) {
    const { column, down } = this.order;
    const value = this.columns[column].value;
    const sign = down ? -1 : 1;
    this.rows = rows.map((row) => [value(row), row]).sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "string" ? collator.compare(a, b) : a - b);
    }).map(([, row]) => row);
    if (!keepPage) this.page = 0;
    this.draw();
  }

  sortBy(number) {
    const same = this.order.column === number;
    this.order = { column: number, down: same ? !this.order.down : Boolean(this.columns[number].number) };
    this.show(this.rows);
  }

  get pages() { return Math.max(1, Math.ceil(this.rows.length / this.pageSize)); }

  turn(step) {
    const page = Math.min(Math.max(this.page + step, 0), this.pages - 1);
    if (page === this.page) return;
    this.page = page;
    this.draw();
    this.scroll.scrollTop = 0;
  }

  showRow(row) {
    const place = this.rows.indexOf(row);
    if (place < 0) return;
    this.page = this.pageSize < Infinity ? Math.floor(place / this.pageSize) : 0;
    this.draw();
  }

  draw() {
    this.heads.forEach((head, number) => {
      const sorted = this.order.column === number;
      if (sorted) head.setAttribute("aria-sort", this.order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const first = this.pageSize < Infinity ? this.page * this.pageSize : 0;
    this.body.replaceChildren(...this.rows.slice(first, first + this.pageSize).map((row) => this.line(row)));
    const pages = this.pages > 1 ? `, page ${whole(this.page + 1)} of ${whole(this.pages)}` : "";
    this.status.textContent = `${whole(this.rows.length)} ${this.noun}${pages}`;
    this.back.disabled = this.page === 0;
    this.next.disabled = this.page >= this.pages - 1;
  }

  line(row) {
    const cells = this.columns.map((column) =>
      make(column.head ? "th" : "td", { class: this.kind(column), scope: column.head ? "row" : null }, column.cell(row)));
    const line = make("tr", {}, ...cells);
    if (this.current && this.current(row)) line.setAttribute("aria-current", "true");
    return line;
  }

  /* Page keys turn pages; arrows go from row to row where rows can be chosen. */
  key(event) {
    const step = { PageDown: 1, PageUp: -1 }[event.key];
    if (step && this.pages > 1) {
      event.preventDefault();
      this.turn(step);
      this.scroll.focus();
      return;
    }
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const choices = [...this.body.querySelectorAll("tr > th button")];
    if (!move || !choices.length) return;
    event.preventDefault();
    const place = choices.indexOf(document.activeElement);
    choices[Math.min(Math.max(place + move, 0), choices.length - 1)].focus();
  }
}
