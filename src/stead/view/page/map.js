// The map: one column for each shown process, one axis for all of them. Draws at most once for each frame.

const WIDE = 190; // pixels of a column that has labels of its own
const LANE = 260; // pixels of the lane that they share otherwise

class SpaceMap {
  constructor(canvas, trueScale) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { alpha: false });
    this.trueScale = trueScale;
    this.searching = false;
    this.selected = null; // {process, i}, or {from, to} of a gap
    this.onDrawn = () => {};
    this.axis = new Axis(shownProcesses(), trueScale);
    this.view = new View(this.axis, 100);
    this._pending = false;
    this.resize();
  }

  get height() {
    return this.view.height;
  }

  resize(ratio = window.devicePixelRatio || 1, width = this.canvas.clientWidth, whole = this.canvas.clientHeight) {
    const height = Math.max(whole, 160);
    if (this.palette && this.palette.ratio === ratio && this.width === width && this.whole === height) return;
    this.width = Math.max(width, 320);
    this.whole = height;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.palette = new Palette(ratio);
    this.view.carry(this.axis, height - HEADER - 8);
    this._lay();
    this.redraw();
  }

  // Which processes are shown, or the scale, has changed.
  rebuild() {
    this.axis = new Axis(shownProcesses(), this.trueScale);
    this.view.carry(this.axis, this.view.height);
    this._lay();
    this.redraw();
  }

  recolor() {
    this.palette = new Palette(this.palette.ratio);
    this.redraw();
  }

  _lay() {
    const shown = shownProcesses();
    layOut(this.width);
    this.right = this.width - 10;
    const room = this.right - LAYOUT.gutter;
    const each = room / Math.max(shown.length, 1);
    this.lane = shown.length > 0 && each < WIDE ? Math.min(LANE, room / 2) : 0;
    const wide = (room - this.lane) / Math.max(shown.length, 1);
    this.columns = shown.map((process, number) => {
      const x = LAYOUT.gutter + number * wide;
      const alone = Math.max(wide - Math.min(10, wide / 4), 1.5);
      const labelled = Math.min(Math.max(wide * (shown.length > 2 ? 0.26 : 0.32), 56), 300);
      return { process, x, bar: this.lane ? alone : labelled, right: x + wide };
    });
    this.laneLeft = this.right - this.lane;
  }

  redraw() {
    if (this._pending) return;
    this._pending = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this._pending = false;
    const { pen, palette, view } = this;
    pen.globalAlpha = 1;
    pen.fillStyle = palette.ground;
    pen.fillRect(0, 0, this.width, this.canvas.height);
    pen.save();
    pen.translate(0, HEADER);
    pen.beginPath();
    pen.rect(0, -1, this.width, view.height + 2);
    pen.clip();
    pen.fillStyle = palette.column;
    for (const column of this.columns) pen.fillRect(column.x, 0, column.bar, view.height);
    const frame = new Frame(pen, view, palette);
    frame.drawGaps(this.lane ? this.laneLeft - 10 : this.right, this.columns.length);
    this._drawColumns();
    frame.drawStrip();
    frame.drawAddresses();
    this._drawSelection();
    pen.restore();
    this._drawHeads();
    this.onDrawn();
  }

  _drawColumns() {
    const { pen, palette, view } = this;
    const bars = new Bars(pen, view, palette, this.searching);
    const labels = new Labels(pen, view, palette);
    const all = [];
    for (const { process, x, bar, right } of this.columns) {
      if (!process.count) continue;
      bars.draw(process, x, bar);
      this._drawReservations(process, x, bar);
      const found = labels.of(process, ...bars.visible(process));
      if (this.lane) all.push(...found);
      else labels.draw(found, x + bar + 8, right - 8);
    }
    if (this.lane) labels.drawLane(all, this.laneLeft, this.right, this.columns.length);
  }

  // A line beside what belongs to one reservation, and its arenas as they fill up, upper end first.
  _drawReservations(process, x, bar) {
    const { pen, palette, view } = this;
    for (const { start, pages } of process.raw.reservations) {
      const top = Math.max(view.pixel(start), -5);
      const bottom = Math.min(view.pixel(start + pages), view.height + 5);
      if (bottom - top < 8 || bar < 20) continue;
      pen.fillStyle = palette.kinds[KIND.committed];
      pen.fillRect(x - 3, top, 2, bottom - top);
    }
    for (const { start, pages, used, high } of process.raw.arenas) {
      const top = view.pixel(start);
      const height = view.pixel(start + pages) - top;
      if (height < 8 || bar < 40 || top > view.height || top + height < 0) continue;
      const left = x + bar - 14;
      const upper = Math.max(top, -5);
      const lower = Math.min(top + height, view.height + 5);
      const filled = (share) => Math.min(Math.max(top + height * share, upper), lower);
      pen.fillStyle = palette.ground;
      pen.fillRect(left, upper, 10, lower - upper);
      pen.fillStyle = palette.kinds[KIND.committed];
      pen.fillRect(left, upper, 10, filled(used) - upper);
      pen.strokeStyle = palette.ink;
      pen.lineWidth = 1;
      pen.strokeRect(left + 0.5, upper + 0.5, 9, lower - upper - 1);
      if (high > used) {
        pen.fillStyle = palette.ink;
        pen.fillRect(left, filled(high) - 1, 10, 1.5);
      }
    }
  }

  _drawSelection() {
    const { pen, palette, view, selected } = this;
    if (!selected) return;
    const column = selected.process && this.columns.find((each) => each.process === selected.process);
    if (selected.process && !column) return;
    const [from, to] = rangeOf(selected);
    const top = Math.max(view.pixel(from), -10);
    const bottom = Math.min(view.pixel(to, view.axis.segmentOf(to - 1)), view.height + 10);
    if (bottom < 0 || top > view.height) return;
    const x = column ? column.x : LAYOUT.gutter;
    const width = column ? column.bar : (this.lane ? this.laneLeft - 10 : this.right) - LAYOUT.gutter;
    const height = Math.max(bottom - top, 3);
    pen.lineWidth = 4;
    pen.strokeStyle = palette.ground;
    pen.strokeRect(x - 2, top - 2, width + 4, height + 4);
    pen.lineWidth = 2;
    pen.strokeStyle = palette.mark;
    pen.strokeRect(x - 2, top - 2, width + 4, height + 4);
  }

  _drawHeads() {
    const { pen, palette } = this;
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    pen.fillStyle = palette.soft;
    pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillText("true scale", 2, HEADER - 9);
    pen.fillStyle = palette.ink;
    pen.font = "600 12px system-ui, 'DejaVu Sans', sans-serif";
    let reached = -Infinity;
    const fit = new Labels(pen, this.view, palette);
    for (const { process, x, right } of this.columns) {
      const text = this.lane ? process.short : process.label;
      const shown = this.lane ? text : fit.shorten(text, right - x - 12);
      if (x < reached) continue;
      pen.fillText(shown, x, HEADER - 9);
      reached = x + pen.measureText(shown).width + 8;
    }
  }

  // What is at a point of the canvas: a mapping {page, process, i}, a gap as of gapAt, or null outside of the
  // map and where what is there is switched off.
  at(x, y) {
    const row = y - HEADER;
    if (x < LAYOUT.gutter || row < 0 || row > this.view.height) return null;
    const { axis } = this.view;
    const page = Math.min(this.view.pageAt(row), axis.end - 1);
    const column = this.columns.find((each) => x >= each.x && x < each.right) || null;
    const process = column && column.process;
    if (process && process.count) {
      let i = process.at(page);
      if (i < 0) {
        // Thin ones can be pointed at too.
        const near = process.nearest(page);
        const first = this.view.edge(axis.first.get(process)[near]);
        const last = this.view.edge(axis.after.get(process)[near]);
        if (first - 2 <= row && row <= last + 2) i = near;
      }
      if (i >= 0) return isHidden(process, i) ? null : { page, process, i };
    }
    return gapAt(page, process);
  }
}

function rangeOf(what) {
  return what.process ? [what.process.start[what.i], what.process.stop(what.i)] : [what.from, what.to];
}

