// Find by address (0x…, or a range 0x…-0x…), or by a part of a name.

class Search {
  constructor(map, select, refit) {
    Object.assign(this, { map, select, refit });
    this.active = false;
    this.hits = [];
    this.at = -1;
    const field = $("find");
    field.addEventListener("input", () => this.run());
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.step(event.shiftKey ? -1 : 1);
      } else if (event.key === "Escape") {
        event.preventDefault();
        this.clear();
        this.map.canvas.focus();
      }
    });
  }

  clear() {
    $("find").value = "";
    this.run();
  }

  run() {
    const text = $("find").value.trim();
    const asked = parseRange(text);
    const page = asked ? null : parseAddress(text);
    this.at = -1;
    this.hits = [];
    // An address is gone to, and dims nothing.
    this.active = text !== "" && !asked && page === null;
    if (asked) this.hits = [asked];
    else if (page !== null) this.hits = this._at(page);
    this._match(this.active ? text.toLowerCase() : null);
    $("found").textContent = text === "" ? "" : this._told(asked, page);
    this.map.searching = this.active;
    this.map.redraw();
    this.refit();
  }

  _at(page) {
    const hits = [];
    for (const process of shownProcesses()) {
      const i = process.at(page);
      if (i >= 0) hits.push({ page, process, i });
    }
    return hits.length ? hits : page < LIMIT ? [gapAt(page, null)] : [];
  }

  _match(text) {
    const names = text === null ? null : data.names.map((each) => each.toLowerCase().includes(text));
    const kinds = text === null ? null : data.kinds.map((each) => each.label.toLowerCase() === text);
    for (const process of processes) {
      process.matched = names ? new Uint8Array(process.count) : null;
      if (!names || !process.shown) continue;
      for (let i = 0; i < process.count; i++) {
        if (!names[process.name[i]] && !kinds[process.kind[i]]) continue;
        process.matched[i] = 1;
        if (!isHidden(process, i)) this.hits.push({ page: process.start[i], process, i });
      }
    }
  }

  _told(asked, page) {
    if (asked) return `${size(asked.to - asked.from)}: Enter goes there`;
    if (page !== null) return this.hits.length ? sentence(this.hits[0]) : "above what programs may have";
    if (!this.hits.length) return "no such name";
    const total = counted(this.hits.length);
    return this.at < 0 ? `${total} found: Enter goes to the first` : `${counted(this.at + 1)} of ${total}`;
  }

  step(by) {
    if (!this.hits.length) return;
    this.at = this.at < 0 && by < 0 ? this.hits.length - 1 : (this.at + by + this.hits.length) % this.hits.length;
    const hit = this.hits[this.at];
    this.select(hit);
    if (this.active) $("found").textContent = this._told(null, null);
  }
}
