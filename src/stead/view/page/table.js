// The same as a table: what a canvas cannot say to a screen reader, and what is easier to sort than to see.

const ROWS = 250;
const SORTS = {
  address: (a, b) => a.process.start[a.i] - b.process.start[b.i] || a.process.number - b.process.number,
  size: (a, b) => b.process.pages[b.i] - a.process.pages[a.i],
  resident: (a, b) => b.process.resident[b.i] - a.process.resident[a.i],
  name: (a, b) => nameOf(a.process, a.i).localeCompare(nameOf(b.process, b.i), "en"),
};

class Table {
  constructor(search, go) {
    this.search = search;
    this.go = go;
    this.page = 0;
    this.sort = "address";
    $("before").addEventListener("click", () => this.turn(-1));
    $("after").addEventListener("click", () => this.turn(1));
    for (const button of document.querySelectorAll("#table thead button")) {
      button.addEventListener("click", () => {
        this.sort = button.dataset.sort;
        this.show();
      });
    }
  }

  get visible() {
    return !$("table").hidden;
  }

  // From the first page, with what is shown and found now.
  show() {
    if (!this.visible) return;
    this.rows = [];
    for (const process of shownProcesses()) {
      for (let i = 0; i < process.count; i++) {
        if (isHidden(process, i) || (this.search.active && !(process.matched && process.matched[i]))) continue;
        this.rows.push({ process, i });
      }
    }
    if (this.sort !== "address" || shownProcesses().length > 1) this.rows.sort(SORTS[this.sort]);
    this.page = 0;
    for (const button of document.querySelectorAll("#table thead button")) {
      const chosen = button.dataset.sort === this.sort;
      const direction = this.sort === "size" || this.sort === "resident" ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", chosen ? direction : "none");
    }
    this._fill();
  }

  turn(pages) {
    const last = Math.max(Math.ceil(this.rows.length / ROWS) - 1, 0);
    this.page = Math.min(Math.max(this.page + pages, 0), last);
    this._fill();
    $("table").scrollTop = 0;
  }

  _fill() {
    const first = this.page * ROWS;
    const shown = this.rows.slice(first, first + ROWS);
    const body = document.createDocumentFragment();
    for (const row of shown) body.append(this._row(row));
    $("rows").replaceChildren(body);
    const of = `${counted(this.rows.length)} mapping${this.rows.length === 1 ? "" : "s"}`;
    $("rows-shown").textContent = shown.length
      ? `${counted(first + 1)}–${counted(first + shown.length)} of ${of}`
      : "no mapping to show";
    $("before").disabled = this.page === 0;
    $("after").disabled = first + ROWS >= this.rows.length;
  }

  _row(row) {
    const { process, i } = row;
    const kind = kindOf(process, i);
    const jump = makeButton(hex(process.start[i]), `Show ${hex(process.start[i])} on the map`, () => this.go(row));
    const resident = process.resident[i] < 0 ? "not told" : size(process.resident[i]);
    const swatch = make("i");
    swatch.className = `swatch ${kind.color}${kind.pattern ? ` ${kind.pattern}` : ""}`;
    const cells = [
      make("td", "", jump),
      make("td", size(process.pages[i])),
      make("td", "", swatch, kind.label),
      make("td", data.access[process.access[i]]),
      make("td", resident),
      make("td", nameOf(process, i)),
    ];
    if (processes.length > 1) cells.unshift(make("td", process.short));
    return make("tr", "", ...cells);
  }
}
