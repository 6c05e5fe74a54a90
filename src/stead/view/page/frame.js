// What surrounds the columns: the strip in true scale with its connectors, the addresses, the gaps.

const FONT = "11px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
const LINE = 13; // pixels that a line of text needs
const STRIP = { x: 8, width: 16 };
const ADDRESS = Math.ceil((hex(LIMIT).length + 1) * 6.7);
// Where the connectors end, and where the columns begin.
const LAYOUT = { fan: 64, gutter: 0 };
const HEADER = 34; // pixels above the map, for the names of the columns

function layOut(width) {
  LAYOUT.fan = width < 640 ? 34 : 64;
  LAYOUT.gutter = LAYOUT.fan + ADDRESS + (width < 640 ? 22 : 16);
}

class Frame {
  constructor(pen, view, palette) {
    Object.assign(this, { pen, view, palette });
  }

  // Space that is free in all processes, over all columns.
  drawGaps(right, count) {
    const { pen, view, palette } = this;
    const { axis } = view;
    const what = count > 1 ? `free in all ${count}` : "free";
    for (const i of visibleOf(axis.gaps, view)) {
      const top = Math.max(Math.round(view.edge(i)), -20);
      const bottom = Math.min(Math.round(view.edge(i + 1)), view.height + 20);
      if (bottom <= top) continue;
      const beyond = axis.kind[i] === BEYOND;
      pen.fillStyle = beyond ? palette.beyond : palette.free;
      pen.fillRect(LAYOUT.gutter, top, right - LAYOUT.gutter, bottom - top);
      if (bottom - top >= 9 && !axis.trueScale && !beyond) this._torn(top, bottom, right);
      // Its label stays in view as long as the gap does.
      const upper = Math.max(top, 0);
      const lower = Math.min(bottom, view.height);
      if (lower - upper < 12) continue;
      const middle = (upper + lower) / 2;
      const pages = axis.start[i + 1] - axis.start[i];
      const texts = beyond ? [`the kernel's, from ${hex(axis.start[i])}`] : [`${what} · ${size(pages)}`, size(pages)];
      pen.font = FONT;
      const text = texts.find((each) => pen.measureText(each).width < right - LAYOUT.gutter - 16);
      if (!text) continue;
      const wide = pen.measureText(text).width;
      pen.fillStyle = beyond ? palette.ground : palette.free;
      pen.fillRect(LAYOUT.gutter + 6, middle - 7, wide + 8, 14);
      pen.fillStyle = beyond ? palette.soft : palette.freeInk;
      pen.textAlign = "left";
      pen.textBaseline = "middle";
      pen.fillText(text, LAYOUT.gutter + 10, middle + 0.5);
    }
  }

  // Torn edges: here the axis leaves something out.
  _torn(top, bottom, right) {
    const { pen, palette } = this;
    pen.strokeStyle = palette.freeInk;
    pen.globalAlpha = 0.55;
    pen.lineWidth = 1;
    pen.beginPath();
    const low = bottom - top < 18; // too low for two
    for (const [y, side] of low ? [[(top + bottom) / 2 - 1, 1]] : [[top + 1.5, 1], [bottom - 1.5, -1]]) {
      for (let x = LAYOUT.gutter, up = 0; x <= right; x += 6, up ^= 1) {
        if (x === LAYOUT.gutter) pen.moveTo(x, y);
        else pen.lineTo(Math.min(x, right), y + (up ? 2.5 * side : 0));
      }
    }
    pen.stroke();
    pen.globalAlpha = 1;
  }

  drawStrip() {
    const { pen, view, palette } = this;
    const { axis, height } = view;
    const tall = (page) => (Math.min(page, LIMIT) / LIMIT) * height;
    pen.fillStyle = palette.column;
    pen.fillRect(STRIP.x, 0, STRIP.width, height);
    for (const [low, high] of axis.clusters) {
      const from = axis.start[low];
      if (from >= LIMIT) continue;
      const top = tall(from);
      const bottom = Math.max(tall(axis.start[high]), top + 1.5);
      pen.fillStyle = palette.ink;
      pen.fillRect(STRIP.x, top, STRIP.width, bottom - top);
      const upper = Math.max(view.edge(low), 0);
      const lower = Math.min(view.edge(high), height);
      if (lower - upper < 2) continue;
      pen.fillStyle = palette.joint;
      pen.beginPath();
      pen.moveTo(STRIP.x + STRIP.width, top);
      pen.lineTo(LAYOUT.fan, upper);
      pen.lineTo(LAYOUT.fan, lower);
      pen.lineTo(STRIP.x + STRIP.width, bottom);
      pen.fill();
    }
    pen.strokeStyle = palette.soft;
    pen.lineWidth = 1;
    pen.strokeRect(STRIP.x + 0.5, 0.5, STRIP.width - 1, height - 1);
    if (view.isAll) return;
    const [from, to] = view.range();
    const top = Math.min(tall(from), height - 3);
    pen.strokeStyle = palette.mark;
    pen.lineWidth = 2;
    pen.strokeRect(STRIP.x - 3, top - 1, STRIP.width + 6, Math.max(tall(to) - top, 1) + 2);
  }

  // Addresses: edges of clusters first, then of segments, then round ones inside what is tall.
  drawAddresses() {
    const { pen, view, palette } = this;
    const { axis, height } = view;
    const taken = [];
    pen.font = FONT;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const put = (page, y, strong) => {
      const written = Math.min(Math.max(y, 6), height - 6);
      if (y < -1 || y > height + 1 || taken.some((each) => Math.abs(each - written) < LINE)) return;
      taken.push(written);
      pen.fillStyle = strong ? palette.ink : palette.soft;
      pen.fillText(hex(page), LAYOUT.gutter - 10, written);
      pen.fillStyle = palette.line;
      pen.fillRect(LAYOUT.gutter - 7, Math.round(y), 6, 1);
    };
    let number = 0;
    for (const i of visibleOf(axis.gaps, view)) {
      if (number++ > 400) break;
      put(axis.start[i + 1], view.edge(i + 1), true);
      put(axis.start[i], view.edge(i), true);
    }
    for (let y = 0; y < height; ) {
      // The first edge at or below y; many segments may share a row.
      const i = Math.min(view.place(y).segment + 1, axis.count);
      const edge = view.edge(i);
      if (edge > height) break;
      put(axis.start[i], edge, false);
      y = Math.max(edge + LINE / 2, y + LINE / 2);
    }
    for (let y = 0; y < height; ) {
      const i = view.place(y).segment;
      const end = Math.min(view.edge(i + 1), height);
      if (axis.kind[i] === MAPPED && end - Math.max(y, 0) > 3 * LINE) this._ticks(i, Math.max(y, 0), end, put);
      y = Math.max(end, y) + 1;
    }
  }

  // Round addresses inside segment i, between two heights.
  _ticks(i, top, bottom, put) {
    const { view } = this;
    const { axis } = view;
    const each = axis.unit(i) * view.scale;
    const step = 2 ** Math.max(Math.ceil(Math.log2((2.5 * LINE) / each)), 0);
    const from = view.pageAt(top);
    const to = Math.min(view.pageAt(bottom) + 1, axis.start[i + 1]);
    for (let page = Math.ceil(from / step) * step; page < to; page += step) put(page, view.pixel(page, i), false);
  }
}

// Those of a sorted list of segments that are in view.
function* visibleOf(segments, view) {
  const from = view.place(0).segment;
  for (let at = Math.max(lastAtMost(segments, from), 0); at < segments.length; at++) {
    if (view.edge(segments[at]) > view.height) return;
    if (view.edge(segments[at] + 1) >= 0) yield segments[at];
  }
}
