// What the page does; the other files say how.

class App {
  constructor() {
    this.place = new Place(() => this.restore());
    const asked = this.place.parse();
    for (const process of processes) process.shown = !asked.off.includes(process.number);
    this.map = new SpaceMap($("map"), asked.trueScale);
    this.panel = new Panel(this.map, (gap) => this.select({ ...gap, page: gap.from, taken: [], owner: null }, true));
    this.table = new Table(
      (this.search = new Search(this.map, (hit) => this.found(hit), () => this.table.show())),
      (row) => {
        this.toggleTable(false);
        this.select({ page: row.process.start[row.i], ...row }, true);
      },
    );
    this.map.onDrawn = () => this.told();
    this.hovered = null;
    this.pointer = null;
    this.show(asked.range);
    this.detail();
    this.place.follow();
  }

  // ---- what is in view ----

  moved() {
    this.map.redraw();
    this.place.write(this.map);
  }

  told() {
    const { view } = this.map;
    const [from, to] = view.range();
    const end = from < LIMIT ? Math.min(to, LIMIT) : to; // without the kernel's 16 EiB
    $("range").textContent = `${hexRange(from, end)} · ${size(end - from)} in view`;
    // What is under a pointer that rests may be another thing now.
    if (this.pointer) this.hover(this.map.at(this.pointer.x, this.pointer.y), this.pointer);
  }

  restore() {
    const asked = this.place.parse();
    for (const process of processes) process.shown = !asked.off.includes(process.number);
    this.map.trueScale = asked.trueScale;
    this.map.rebuild();
    this.show(asked.range);
  }

  show(range) {
    const { map } = this;
    $("scale").setAttribute("aria-pressed", String(map.trueScale));
    const { end } = map.axis;
    if (range && range.from < end) map.view.fit(range.from, Math.min(range.to, end), 0);
    else map.view.showAll();
    this.panel.showProcesses((process, shown) => this.toggleProcess(process, shown));
    this.panel.showGaps();
    this.table.show();
    map.redraw();
  }

  zoom(factor) {
    const { map } = this;
    let pixel = map.height / 2;
    if (map.selected) {
      const [from, to] = rangeOf(map.selected);
      const middle = (map.view.pixel(from) + map.view.pixel(to, map.axis.segmentOf(to - 1))) / 2;
      if (middle > 0 && middle < map.height) pixel = middle;
    }
    map.view.zoom(factor, pixel);
    this.moved();
  }

  pan(share) {
    this.map.view.pan(share * this.map.height);
    this.moved();
  }

  goTo(page) {
    const { map } = this;
    const at = Math.floor(Math.min(Math.max(page, 0), LIMIT - 1));
    map.view.pan(map.view.pixel(at) - map.height / 2);
    this.select(gapAt(at, null).taken.length ? null : gapAt(at, null), false);
    this.moved();
  }

  showAll() {
    this.map.view.showAll();
    this.select(null, false);
    this.moved();
  }

  fitSelected() {
    if (!this.map.selected) return;
    this.map.view.fit(...rangeOf(this.map.selected));
    this.moved();
  }

  // ---- what is looked at ----

  // `where` the pointer is; null: not on the map, or dragging it.
  hover(what, where) {
    const tip = $("tip");
    this.hovered = what;
    this.pointer = where;
    if (!what) tip.hidden = true;
    else {
      tip.textContent = sentence(what);
      tip.hidden = false;
      const left = Math.min(where.x + 14, this.map.width - tip.offsetWidth - 6);
      const below = where.y + 18;
      const fits = below + tip.offsetHeight <= this.map.canvas.clientHeight;
      const top = fits ? below : where.y - tip.offsetHeight - 8;
      tip.style.setProperty("left", `${Math.max(left, 4)}px`);
      tip.style.setProperty("top", `${top}px`);
    }
    this.detail();
  }

  detail() {
    const { selected } = this.map;
    if (this.hovered) this.panel.showDetails(this.hovered, "Under the pointer");
    else this.panel.showDetails(selected, selected ? "Selected" : "Snapshot");
  }

  // `near`: so that it can be seen among its neighbours, wherever it is.
  select(what, near) {
    const { map } = this;
    map.selected = what;
    this.detail();
    if (!what) {
      map.redraw();
      return;
    }
    const [from, to] = rangeOf(what);
    const top = map.view.pixel(from);
    const bottom = map.view.pixel(to, map.axis.segmentOf(to - 1));
    if (near) map.view.fit(from, to, 0.36);
    else if (bottom < 0 || top > map.height) map.view.pan((top + bottom) / 2 - map.height / 2);
    say(sentence(what));
    this.moved();
  }

  found(hit) {
    if (hit.process || hit.taken) this.select(hit, true);
    else {
      this.map.view.fit(hit.from, Math.min(hit.to, this.map.axis.end), 0);
      this.moved();
    }
  }

  step(by) {
    const { map } = this;
    const chosen = map.selected && (map.selected.process || map.selected.owner);
    const process = chosen || shownProcesses().find((each) => each.count);
    if (!process) return;
    let i;
    if (!map.selected) i = Math.max(lastAtMost(process.start, map.view.pageAt(0) - 1), -1) + (by > 0 ? 1 : 0);
    else if (map.selected.process) i = map.selected.i + by;
    else i = lastAtMost(process.start, map.selected.from) + (by > 0 ? 1 : 0);
    while (i >= 0 && i < process.count && isHidden(process, i)) i += by;
    if (i >= 0 && i < process.count) this.select({ page: process.start[i], process, i }, false);
  }

  sideways(by) {
    const { selected } = this.map;
    const shown = shownProcesses();
    if (!selected || !selected.process) {
      this.step(1);
      return;
    }
    const process = shown[shown.indexOf(selected.process) + by];
    if (!process) return;
    const page = selected.page;
    const i = process.at(page);
    this.select(i >= 0 ? { page, process, i } : { ...gapAt(page, process), owner: process }, false);
  }

  nextGap(by) {
    const { map } = this;
    const gaps = map.axis.gaps.filter((i) => map.axis.kind[i] === FREE);
    if (!gaps.length) return;
    const starts = gaps.map((i) => map.axis.start[i]);
    const now = map.selected ? rangeOf(map.selected)[0] : -1;
    const at = by > 0 ? lastAtMost(starts, now) + 1 : lastAtMost(starts, now - 1);
    const i = gaps[(at + gaps.length) % gaps.length];
    this.select(gapAt(map.axis.start[i], null), false);
  }

  // ---- what is shown ----

  toggleProcess(process, shown) {
    if (!shown && shownProcesses().length === 1) {
      say("One process stays shown");
      return false;
    }
    process.shown = shown;
    if (this.map.selected && !shown) this.map.selected = null;
    this.map.rebuild();
    this.search.run();
    this.panel.showGaps();
    this.table.show();
    this.place.write(this.map);
    return true;
  }

  toggleKind(number, shown) {
    hidden.kinds[number] = shown ? 0 : 1;
    this.map.redraw();
    this.table.show();
  }

  setLeast(pages) {
    hidden.pages = pages;
    this.map.redraw();
    this.table.show();
  }

  toggleTable(shown = $("table").hidden) {
    $("table").hidden = !shown;
    $("map-part").hidden = shown;
    $("as-table").setAttribute("aria-pressed", String(shown));
    this.table.show();
    if (shown) {
      $("table").focus();
      return;
    }
    this.map.resize();
    this.map.canvas.focus();
  }

  toggleScale() {
    this.map.trueScale = !this.map.trueScale;
    $("scale").setAttribute("aria-pressed", String(this.map.trueScale));
    this.map.rebuild();
    this.moved();
  }

  toggleTheme() {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const dark = (root.dataset.theme || system) === "dark";
    root.dataset.theme = dark ? "light" : "dark";
    this.map.recolor();
  }
}

function listenToButtons(app) {
  $("scale").addEventListener("click", () => app.toggleScale());
  $("as-table").addEventListener("click", () => app.toggleTable());
  $("theme").addEventListener("click", () => app.toggleTheme());
  $("least").addEventListener("change", () => app.setLeast(Number($("least").value) / data.page_size));
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const shown = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(shown));
      app.toggleKind(Number(chip.dataset.kind), shown);
    });
  }
}

// On paper: light, as wide as a page, and sharper than a screen.
function listenToPrinting(app) {
  let theme = null;
  window.addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme || "";
    document.documentElement.dataset.theme = "light";
    app.map.resize(2, 1040, 1000);
    app.map.draw();
  });
  window.addEventListener("afterprint", () => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    app.map.resize();
  });
}

const app = new App();
listenToButtons(app);
listenToKeys(app);
listenToPointer(app);
listenToPrinting(app);
new ResizeObserver(() => {
  if (!$("map-part").hidden) app.map.resize();
}).observe($("map-frame"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => app.map.recolor());
