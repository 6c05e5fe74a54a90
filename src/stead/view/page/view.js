// What is in view: the place at the map's upper edge, and how many pixels a unit of the axis has.
//
// The place is a segment, a whole page in it and a fraction of that page. One Number of axis units would do for
// 47-bit addresses; with 57 bits a page at the far end is smaller than the Number's last bit.

class View {
  constructor(axis, height) {
    this.axis = axis;
    this.height = height;
    this.showAll();
  }

  get smallestScale() {
    return this.height / this.axis.height;
  }

  get isAll() {
    return this.scale <= this.smallestScale * 1.0001;
  }

  showAll() {
    this._at({ segment: 0, page: 0, rest: 0 });
    this.scale = this.smallestScale;
  }

  _at(place) {
    this.segment = place.segment;
    this.page = place.page;
    this.rest = place.rest;
    const { axis } = this;
    const unit = axis.unit(this.segment);
    // Units from the upper edge to where its segment began, and to where it ends.
    this.head = (this.page - axis.start[this.segment] + this.rest) * unit;
    this.tail = (axis.start[this.segment + 1] - this.page - this.rest) * unit;
  }

  // The height in pixels, below the map's upper edge, at which segment i begins.
  edge(i) {
    const { top } = this.axis;
    return i > this.segment
      ? (this.tail + (top[i] - top[this.segment + 1])) * this.scale
      : -(this.head + (top[this.segment] - top[i])) * this.scale;
  }

  // The same of any page. Differences of pages come first: they are exact.
  pixel(page, segment = this.axis.segmentOf(page)) {
    const { axis } = this;
    if (segment === this.segment) return (page - this.page - this.rest) * axis.unit(segment) * this.scale;
    const inside = (page - axis.start[segment]) * axis.unit(segment) * this.scale;
    return this.edge(segment) + inside;
  }

  // The place at a height in pixels.
  place(pixel) {
    const { axis } = this;
    const units = pixel / this.scale;
    if (units >= -this.head && units < this.tail) {
      return settled(axis, this.segment, this.page, this.rest + units / axis.unit(this.segment));
    }
    // Elsewhere: again differences first, and the segment next to this one to the last bit.
    const { top } = axis;
    if (units < 0) {
      const found = lastAtMost(top, top[this.segment] + this.head + units);
      const segment = Math.max(Math.min(found, this.segment - 1), 0);
      const back = -(this.head + units) - (top[this.segment] - top[segment + 1]);
      const pages = Math.min(Math.max(back / axis.unit(segment), 0), axis.start[segment + 1] - axis.start[segment]);
      const whole = Math.ceil(pages);
      return { segment, page: axis.start[segment + 1] - whole, rest: whole - pages };
    }
    const found = lastAtMost(top, top[this.segment + 1] + units - this.tail);
    const segment = Math.min(Math.max(found, this.segment + 1), axis.count - 1);
    const ahead = Math.max(units - this.tail - (top[segment] - top[this.segment + 1]), 0);
    return settled(axis, segment, axis.start[segment], ahead / axis.unit(segment));
  }

  pageAt(pixel) {
    return this.place(pixel).page;
  }

  pan(pixels) {
    this._at(this.place(pixels));
    this._clamp();
  }

  // `factor` > 1 comes nearer; what is at `pixel` stays there.
  zoom(factor, pixel) {
    const place = this.place(pixel);
    // Nearer than one page in half the map there is nothing to see.
    const nearest = this.height / (2 * this.axis.unit(place.segment));
    const limit = factor > 1 ? Math.max(nearest, this.scale) : Infinity;
    this.scale = Math.min(Math.max(this.scale * factor, this.smallestScale), limit);
    this._at(place);
    this._at(this.place(-pixel));
    this._clamp();
  }

  // The range [from, to) fills the map but for a margin, a share of its height on either side.
  fit(from, to, margin = 0.06) {
    const { axis } = this;
    const segment = axis.segmentOf(from);
    this.scale = 1;
    this._at({ segment, page: from, rest: 0 });
    const last = axis.segmentOf(to - 1);
    const units = last === segment ? (to - from) * axis.unit(segment) : this.pixel(to, last);
    const wanted = (this.height * (1 - 2 * margin)) / units;
    this.scale = Math.max(wanted, this.smallestScale);
    this._at(this.place(-this.height * margin));
    this._clamp();
  }

  // After the axis or the height has changed: the same range, as far as it goes.
  carry(axis, height) {
    if (this.isAll) {
      this.axis = axis;
      this.height = height;
      this.showAll();
      return;
    }
    const [from, to] = this.range();
    this.axis = axis;
    this.height = height;
    this.fit(from, Math.min(to, axis.end), 0);
  }

  // Whole pages.
  range() {
    const last = this.place(this.height);
    return [this.page, Math.min(last.page + (last.rest > 1e-6 ? 1 : 0), this.axis.end)];
  }

  _clamp() {
    const { axis } = this;
    if (this.edge(0) >= 0 || this.scale <= this.smallestScale) {
      this._at({ segment: 0, page: 0, rest: 0 });
    } else if (this.edge(axis.count) < this.height) {
      const last = axis.count - 1;
      this._at({ segment: last, page: axis.end, rest: 0 });
      this._at(this.place(-this.height));
    }
  }
}

// `rest` pages after `page`, as a whole page and a fraction.
function settled(axis, segment, page, rest) {
  const whole = Math.floor(rest);
  const last = axis.start[segment + 1];
  return page + whole >= last ? { segment, page: last, rest: 0 } : { segment, page: page + whole, rest: rest - whole };
}
