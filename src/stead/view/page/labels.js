// Names beside the bars. What is tall enough gets its own; what is not shares a bracket: how many, how much, and
// the largest names. Where columns are too narrow for text there is one lane of labels for all of them.

const SHORT = 11; // pixels of height that earn a mapping its own label

class Labels {
  constructor(pen, view, palette) {
    Object.assign(this, { pen, view, palette });
    this.sums = new Float64Array(data.names.length);
  }

  // [{top, bottom, process, first, last, count, bracket}]: what there is to say of one column, from above.
  of(process, low, high) {
    const { view } = this;
    const first = view.axis.first.get(process);
    const after = view.axis.after.get(process);
    const { gapsBefore } = view.axis;
    const found = [];
    let begin = -1; // of the run of those that are too short
    let end = -1;
    let count = 0;
    const close = () => {
      if (begin < 0) return;
      const top = view.edge(first[begin]);
      const bottom = view.edge(after[end]);
      if (bottom - top >= SHORT) found.push({ top, bottom, process, first: begin, last: end, count, bracket: true });
      begin = -1;
    };
    for (let i = low; i < high; i++) {
      const top = view.edge(first[i]);
      const bottom = view.edge(after[i]);
      if (bottom < 0 || top > view.height || isHidden(process, i)) continue;
      const tall = bottom - top >= SHORT;
      // A gap between them ends a run: a bracket over it would claim it.
      if (tall || (begin >= 0 && gapsBefore[first[i]] !== gapsBefore[after[end]])) close();
      if (tall) {
        found.push({ top, bottom, process, first: i, last: i, count: 1, bracket: false });
        continue;
      }
      if (begin < 0) {
        begin = i;
        count = 0;
      }
      end = i;
      count++;
    }
    close();
    return found;
  }

  // Beside the bar of one column, in the room between two heights that is in view.
  draw(labels, x, right) {
    const { pen, view } = this;
    pen.font = FONT;
    pen.textBaseline = "middle";
    let last = -Infinity;
    for (const label of labels) {
      const top = Math.max(label.top, 0);
      const bottom = Math.min(label.bottom, view.height);
      if (bottom - top < SHORT - 1) continue;
      if (!label.bracket) {
        const y = Math.max((top + bottom) / 2, 6);
        if (y - last < LINE - 1 && last > 0) continue;
        last = y;
        this._line(this.texts(label), size(label.process.pages[label.first]), x, right, y);
        continue;
      }
      this._bracket(label, x, right, top, bottom);
      last = bottom - 6;
    }
  }

  // From the longest.
  texts(label) {
    if (label.bracket) {
      const { process, first, last, count } = label;
      const [from, to] = [process.start[first], process.stop(last)];
      const whole = process.raw.reservations.find((each) => each.start <= from && to <= each.start + each.pages);
      if (whole && whole.name) return [`${whole.name} · ${plural(count, "part")}`, whole.name];
      return [plural(count, "mapping"), `${counted(count)} maps`];
    }
    return [shortName(label.process, label.first), shortName(label.process, label.first, false)];
  }

  // The first of `texts` that there is room for, and an amount where there is room for that too.
  _line(texts, amount, x, right, y, soft = false) {
    const { pen, palette } = this;
    const column = Math.min(right, x + 330);
    const wide = pen.measureText(amount).width;
    const tight = column - x < 170 && texts.every((each) => pen.measureText(each).width > column - x - wide - 10);
    const both = column - x >= wide + 60 && !tight;
    const room = column - x - (both ? wide + 10 : 0);
    const text = texts.find((each) => pen.measureText(each).width <= room) || texts.at(-1);
    pen.textAlign = "left";
    pen.fillStyle = soft ? palette.soft : palette.ink;
    pen.fillText(this.shorten(text, room), x, y);
    if (!both) return;
    pen.textAlign = "right";
    pen.fillStyle = palette.soft;
    pen.fillText(amount, column, y);
  }

  _bracket(label, x, right, top, bottom) {
    const { pen, palette } = this;
    const { process, first, last } = label;
    pen.strokeStyle = palette.soft;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x - 2, Math.round(top) + 1.5);
    pen.lineTo(x + 2.5, Math.round(top) + 1.5);
    pen.lineTo(x + 2.5, Math.round(bottom) - 1.5);
    pen.lineTo(x - 2, Math.round(bottom) - 1.5);
    pen.stroke();
    const room = Math.max(Math.floor((bottom - top) / LINE), 1);
    const names = this.largest(process, first, last, Math.min(room - 1, 8));
    const total = names.total;
    let y = (top + bottom) / 2 - (names.list.length * LINE) / 2;
    this._line(this.texts(label), size(total), x + 9, right, y);
    const [, own] = this.texts(label);
    for (const [name, pages] of names.list) {
      if (name !== own) this._line([name], size(pages), x + 9, right, (y += LINE), true);
    }
  }

  // The names that have most pages among the mappings first..last, and the pages of all of them.
  largest(process, first, last, number) {
    const { sums } = this;
    const touched = [];
    let total = 0;
    for (let i = first; i <= last; i++) {
      if (isHidden(process, i)) continue;
      const name = process.name[i];
      if (sums[name] === 0) touched.push([name, i]);
      sums[name] += process.pages[i];
      total += process.pages[i];
    }
    // Not sorted whole: there may be as many names as mappings.
    const best = [];
    for (const each of number > 0 ? touched : []) {
      if (best.length === number && sums[each[0]] <= sums[best[number - 1][0]]) continue;
      let at = best.length;
      while (at > 0 && sums[best[at - 1][0]] < sums[each[0]]) at--;
      best.splice(at, 0, each);
      best.length = Math.min(best.length, number);
    }
    const called = (name, i) => (data.names[name] ? shortName(process, i, false) : "without a name");
    const list = best.map(([name, i]) => [called(name, i), sums[name]]);
    for (const [name] of touched) sums[name] = 0;
    return { list, total };
  }

  // One lane for all columns: equal labels at one height are one, and say of how many processes.
  drawLane(all, x, right, count) {
    const { pen, view, palette } = this;
    const groups = new Map();
    for (const label of all) {
      const top = Math.max(label.top, 0);
      const bottom = Math.min(label.bottom, view.height);
      if (bottom - top < SHORT - 1) continue;
      const text = this.texts(label)[0];
      const key = `${Math.round(label.top)} ${text}`;
      const known = groups.get(key);
      if (known) known.labels.push(label);
      else groups.set(key, { text, top, bottom, labels: [label], ours: !!kindOf(label.process, label.first).state });
    }
    const order = [...groups.values()].sort(
      (a, b) => b.ours - a.ours || b.labels.length - a.labels.length || b.bottom - b.top - (a.bottom - a.top));
    const taken = [];
    pen.font = FONT;
    pen.textBaseline = "middle";
    for (const each of order) {
      const y = (each.top + each.bottom) / 2;
      const isFree = (at) => !taken.some((other) => Math.abs(other - at) < LINE);
      if (!isFree(y)) continue;
      const { process, first, last } = each.labels[0];
      const many = each.labels.length;
      const who = many === count ? "all" : many > 1 ? `${many} of ${count}` : process.short;
      const bracket = each.labels[0].bracket;
      const most = Math.max(Math.min(Math.floor((each.bottom - each.top) / LINE) - 1, 6), 0);
      const names = bracket && this.largest(process, first, last, most);
      const lines = [[`${who}: ${each.text}`, size(bracket ? names.total : process.pages[first])]];
      if (bracket && many === 1) for (const [name, pages] of names.list) lines.push([name, size(pages)]);
      const heights = () => lines.map((_, number) => y + (number - (lines.length - 1) / 2) * LINE);
      if (!heights().every(isFree)) lines.length = 1;
      if (!heights().every(isFree)) continue;
      pen.strokeStyle = palette.line;
      pen.beginPath();
      pen.moveTo(x - 8, Math.round(y) + 0.5);
      pen.lineTo(x - 2, Math.round(y) + 0.5);
      pen.stroke();
      heights().forEach((at, number) => {
        taken.push(at);
        this._line([`${number ? "  " : ""}${lines[number][0]}`], lines[number][1], x, right, at, number > 0);
      });
    }
  }

  // `text` in at most so many pixels: the font has one width for all but a few characters.
  shorten(text, pixels) {
    const { pen } = this;
    if (pixels < 14) return "";
    if (pen.measureText(text).width <= pixels) return text;
    let room = Math.max(Math.floor(pixels / 6.6) - 1, 0);
    while (room > 0 && pen.measureText(`${text.slice(0, room)}…`).width > pixels) room--;
    return room > 0 ? `${text.slice(0, room)}…` : "";
  }
}
