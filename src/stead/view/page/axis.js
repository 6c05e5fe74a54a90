// The folded axis: address → height, monotone, piecewise linear, and the same for every shown process.
//
// It is cut at every edge of every shown mapping. Runs that 1 GiB or more of space free in all processes keeps
// apart are clusters. A cluster gets height by the logarithm of what is in it, so that 250 libraries do not take
// the screen from a single reservation of 1 TiB, nor the reservation from them; so does a gap by its size.

const BIG_GAP = Math.max(Number((1n << 30n) / PAGE), 1);
const MAPPED = 0;
const FREE = 1; // in all shown processes
const BEYOND = 2; // what no program may have

class Axis {
  // `trueScale`: every page as high as any other.
  constructor(shown, trueScale) {
    this.trueScale = trueScale;
    this.start = cuts(shown);
    const count = (this.count = this.start.length - 1);
    const depth = new Int32Array(count + 1);
    // Of each shown process, by mapping: the first of its segments, and the first after it.
    this.first = new Map();
    this.after = new Map();
    for (const process of shown) this._place(process, depth);
    this.kind = new Uint8Array(count);
    this.empty = new Uint8Array(count); // mapped nowhere, whatever its size
    this.gaps = []; // the segments that are free or beyond
    this.gapsBefore = new Int32Array(count + 1);
    for (let i = 0, deep = 0; i < count; i++) {
      deep += depth[i];
      this.gapsBefore[i] = this.gaps.length;
      if (deep) continue;
      this.empty[i] = 1;
      if (this.start[i] >= LIMIT) this.kind[i] = BEYOND;
      else if (this.start[i + 1] - this.start[i] >= BIG_GAP || count === 1) this.kind[i] = FREE;
      if (this.kind[i] !== MAPPED) this.gaps.push(i);
    }
    this.gapsBefore[count] = this.gaps.length;
    this.top = new Float64Array(count + 1);
    this.clusters = []; // [first segment, first after it]
    if (trueScale) this._linear();
    else this._folded();
    this.height = this.top[count];
  }

  _place(process, depth) {
    const first = new Int32Array(process.count);
    const after = new Int32Array(process.count);
    let at = 0;
    for (let i = 0; i < process.count; i++) {
      while (this.start[at] < process.start[i]) at++;
      first[i] = at;
      depth[at]++;
      const stop = process.stop(i);
      while (this.start[at] < stop) at++;
      after[i] = at;
      depth[at]--;
    }
    this.first.set(process, first);
    this.after.set(process, after);
  }

  _folded() {
    const { start, top, kind, count } = this;
    let height = 0;
    for (let i = 0; i < count; ) {
      const pages = start[i + 1] - start[i];
      if (kind[i] !== MAPPED) {
        height += kind[i] === BEYOND ? 18 : 16 + 1.2 * Math.max(Math.log2(pages / BIG_GAP), 0);
        top[++i] = height;
        continue;
      }
      let end = i;
      let weight = 0;
      for (; end < count && kind[end] === MAPPED; end++) {
        const more = Math.log2(start[end + 1] - start[end]);
        weight += this.empty[end] ? 0.5 + 0.2 * more : 1 + more;
        top[end + 1] = weight;
      }
      const share = (8 + 9 * Math.log2(1 + weight)) / weight;
      for (let each = i; each < end; each++) top[each + 1] = height + top[each + 1] * share;
      this.clusters.push([i, end]);
      height = top[end];
      i = end;
    }
  }

  _linear() {
    const { start, top, count } = this;
    let height = 0;
    let cluster = -1;
    for (let i = 0; i < count; i++) {
      const pages = start[i + 1] - start[i];
      // The kernel's own, 16 EiB away, would leave nothing of the rest.
      height += start[i] >= LIMIT ? 8 : (1000 * pages) / LIMIT;
      top[i + 1] = height;
      if (this.kind[i] !== MAPPED) cluster = -1;
      else if (cluster < 0) cluster = this.clusters.push([i, i + 1]) - 1;
      else this.clusters[cluster][1] = i + 1;
    }
  }

  // Units for each page.
  unit(segment) {
    return (this.top[segment + 1] - this.top[segment]) / (this.start[segment + 1] - this.start[segment]);
  }

  segmentOf(page) {
    return Math.min(Math.max(lastAtMost(this.start, page), 0), this.count - 1);
  }

  get end() {
    return this.start[this.count];
  }
}

// Every edge once, in order, with both ends of the space.
function cuts(shown) {
  let found = Float64Array.of(0, LIMIT);
  for (const process of shown) found = merged(found, process);
  return found;
}

// Both are in order already, which sorting would not use.
function merged(others, process) {
  const { start, pages, count } = process;
  const total = others.length + 2 * count;
  const edges = new Float64Array(total);
  let kept = 0;
  let last = -1;
  for (let next = 0, own = 0; next < others.length || own < 2 * count; ) {
    const i = own >> 1;
    const mine = own === 2 * count ? Infinity : own & 1 ? start[i] + pages[i] : start[i];
    const other = next < others.length ? others[next] : Infinity;
    const edge = mine < other ? mine : other;
    if (mine < other) own++;
    else next++;
    if (edge !== last) edges[kept++] = last = edge;
  }
  return edges.subarray(0, kept);
}
