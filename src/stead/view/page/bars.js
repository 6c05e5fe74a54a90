// One column of the map: the mappings of one process.
//
// Tint says mapped, solid width says which share is in memory: of each row of pixels by itself where it is known
// which pages are. Mappings thinner than two pixels share rows. A row has the share of all of them, and the colour
// of one kind in it; what the others have in it is carried on to the next row, so that over many rows each kind
// gets as many as it is due.

const THIN = 2;
const TINT = 0.36;
const UNKNOWN = 0.68; // where nobody could tell what is in memory

const KINDS = data.kinds.length;
const RESERVED = new Uint8Array(KINDS);
data.kinds.forEach((kind, i) => (RESERVED[i] = kind.pattern ? 1 : 0));
// What there are few of, and what is looked for, must not drown among libraries.
const WEIGHT = Float64Array.from(data.kinds, (kind) => (kind.state || ["heap", "stack"].includes(kind.key) ? 4 : 1));

class Rows {
  constructor(height) {
    const rows = Math.ceil(height) + 2;
    this.covered = new Float32Array(rows * KINDS);
    this.usable = new Float32Array(rows);
    this.resident = new Float32Array(rows);
    this.matched = new Uint8Array(rows);
    this.due = new Float64Array(KINDS);
    this.count = rows;
  }

  clear() {
    this.covered.fill(0);
    this.usable.fill(0);
    this.resident.fill(0);
    this.matched.fill(0);
    this.due.fill(0);
  }

  // The kind that is due in the row, or -1. Asked of each row in turn.
  kind(row) {
    let found = -1;
    let total = 0;
    for (let kind = 0, at = row * KINDS; kind < KINDS; kind++, at++) {
      if (!(this.covered[at] > 0.01)) continue;
      total += this.covered[at] * WEIGHT[kind];
      this.due[kind] += this.covered[at] * WEIGHT[kind];
      if (found < 0 || this.due[kind] > this.due[found]) found = kind;
    }
    if (found < 0) this.due.fill(0);
    else this.due[found] -= total;
    return found;
  }
}

class Bars {
  constructor(pen, view, palette, searching) {
    Object.assign(this, { pen, view, palette, searching });
    this.rows = new Rows(view.height);
  }

  // Of `process`, in the column from x, `width` wide.
  draw(process, x, width) {
    const [low, high] = this.visible(process);
    const tall = this._rows(process, low, high);
    this._drawRows(x, width);
    for (const i of tall) this._drawTall(process, i, x, width);
  }

  // The mappings in view: from the first to before the last.
  visible(process) {
    const from = this.view.pageAt(0);
    const to = this.view.pageAt(this.view.height);
    const low = Math.max(lastAtMost(process.start, from), 0);
    return [low, lastAtMost(process.start, to) + 1];
  }

  // What is thin, into rows. What is not is returned.
  _rows(process, low, high) {
    const { view, rows, searching } = this;
    const first = view.axis.first.get(process);
    const after = view.axis.after.get(process);
    const { kind, pages, resident, matched } = process;
    const { covered, usable } = rows;
    const tall = [];
    rows.clear();
    let bottom = view.edge(first[low]);
    let end = first[low];
    for (let i = low; i < high; i++) {
      const top = first[i] === end ? bottom : view.edge(first[i]);
      end = after[i];
      bottom = view.edge(end);
      const of = kind[i];
      if (hidden.kinds[of] || pages[i] < hidden.pages || bottom < 0 || top > view.height) continue;
      if (bottom - top >= THIN) {
        tall.push(i);
        continue;
      }
      const hit = searching && matched && matched[i];
      const share = resident[i] < 0 ? UNKNOWN : Math.min(resident[i] / pages[i], 1);
      // A mapping of less than two rows may lie in three.
      for (let row = Math.max(Math.floor(top), 0); row < bottom && row < rows.count; row++) {
        const part = Math.min(bottom, row + 1) - Math.max(top, row);
        covered[row * KINDS + of] += part;
        if (!RESERVED[of]) {
          usable[row] += part;
          rows.resident[row] += part * share;
        }
        if (hit) rows.matched[row] = 1;
      }
    }
    return tall;
  }

  _drawRows(x, width) {
    const { pen, rows, palette } = this;
    for (let row = 0; row < rows.count; row++) {
      const kind = rows.kind(row);
      if (kind < 0) continue;
      const matched = this.searching && rows.matched[row];
      const strength = this.searching && !matched ? 0.25 : 1;
      if (matched) this._tick(x, row, 2);
      if (palette.patterns[kind]) {
        pen.globalAlpha = strength;
        pen.fillStyle = palette.patterns[kind];
        pen.fillRect(x, row, width, 1);
        continue;
      }
      pen.fillStyle = palette.kinds[kind];
      pen.globalAlpha = TINT * strength;
      pen.fillRect(x, row, width, 1);
      pen.globalAlpha = strength;
      pen.fillRect(x, row, solid(width, rows.resident[row] / rows.usable[row]), 1);
    }
    pen.globalAlpha = 1;
  }

  _drawTall(process, i, x, width) {
    const { pen, view, palette } = this;
    const top = Math.max(Math.round(view.edge(view.axis.first.get(process)[i])), -4);
    const bottom = Math.min(Math.round(view.edge(view.axis.after.get(process)[i])), view.height + 4);
    const height = Math.max(bottom - top, 1);
    const kind = process.kind[i];
    const matched = this.searching && process.matched && process.matched[i];
    const strength = this.searching && !matched ? 0.25 : 1;
    pen.globalAlpha = strength;
    if (palette.patterns[kind]) {
      pen.fillStyle = palette.patterns[kind];
      pen.fillRect(x, top, width, height);
      if (height >= 5) {
        pen.strokeStyle = palette.kinds[kind];
        pen.lineWidth = 1;
        pen.strokeRect(x + 0.5, top + 0.5, width - 1, height - 1);
      }
    } else {
      pen.fillStyle = palette.kinds[kind];
      pen.globalAlpha = TINT * strength;
      pen.fillRect(x, top, width, height);
      pen.globalAlpha = strength;
      this._drawResident(process, i, x, width, top, top + height);
      if (height >= 6) {
        // Neighbours of one kind are told apart by a line of ground.
        pen.fillStyle = palette.ground;
        pen.fillRect(x, top + height - 1, width, 1);
      }
    }
    if (matched) this._tick(x, top, height);
    pen.globalAlpha = 1;
  }

  _drawResident(process, i, x, width, top, bottom) {
    const { pen, view } = this;
    const share = process.share(i);
    if (share < 0) {
      pen.globalAlpha *= UNKNOWN;
      pen.fillRect(x, top, width, bottom - top);
      return;
    }
    if (!process.tellsPages(i)) {
      pen.fillRect(x, top, solid(width, share), bottom - top);
      return;
    }
    // Row by row, rows of one width in one rectangle.
    const from = process.start[i];
    const to = process.stop(i);
    const page = (pixel) => {
      const place = view.place(pixel);
      return Math.min(Math.max(place.page + place.rest, from), to);
    };
    const first = Math.max(top, 0);
    const last = Math.min(bottom, Math.ceil(view.height));
    let began = first;
    let wide = -1;
    let at = page(first);
    for (let row = first; row <= last; row++) {
      const next = row < last ? page(row + 1) : at;
      const now = row < last ? solid(width, next > at ? process.runs.pages(at, next) / (next - at) : 0) : -1;
      if (now !== wide) {
        if (wide > 0) pen.fillRect(x, began, wide, row - began);
        began = row;
        wide = now;
      }
      at = next;
    }
  }

  // To the left of what a search has found.
  _tick(x, top, height) {
    const { pen, palette } = this;
    pen.globalAlpha = 1;
    pen.fillStyle = palette.mark;
    pen.fillRect(x - 6, top, 4, Math.max(height, 2));
  }
}

// Some of it is in memory: at least a pixel. Not all of it: not the last.
function solid(width, share) {
  if (!(share > 0)) return 0;
  return share >= 1 ? width : Math.min(Math.max(Math.round(width * share), 1), width - 1);
}
