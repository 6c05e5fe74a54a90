// The range in view, what is switched off and the scale, in the URL's fragment: #0x7f00-0x7fff;off=1,3;scale=true

class Place {
  constructor(read) {
    this.read = read;
    this.timer = 0;
    this.written = location.hash;
  }

  // Soon, and once for many changes: browsers refuse too many.
  write(map) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const parts = [];
      const [from, to] = map.view.range();
      if (!map.view.isAll) parts.push(`${hex(from)}-${hex(to)}`);
      const off = processes.filter((each) => !each.shown).map((each) => each.number);
      if (off.length) parts.push(`off=${off.join(",")}`);
      if (map.trueScale) parts.push("scale=true");
      const hash = parts.length ? `#${parts.join(";")}` : "";
      // Another fragment has been asked for meanwhile, and comes next.
      if (hash === this.written || location.hash !== this.written) return;
      try {
        history.replaceState(null, "", hash || location.pathname + location.search);
        this.written = hash;
      } catch {
        // Inside of another page, as its srcdoc, this one has no URL to write to.
      }
    }, 200);
  }

  // What the fragment asks for; what it cannot mean is left out.
  parse() {
    const asked = { range: null, off: [], trueScale: false };
    for (const part of location.hash.slice(1).split(";")) {
      if (part.startsWith("off=")) asked.off = part.slice(4).split(",").map(Number);
      else if (part === "scale=true") asked.trueScale = true;
      else asked.range = parseRange(part) || asked.range;
    }
    if (asked.off.length >= processes.length) asked.off = [];
    return asked;
  }

  follow() {
    window.addEventListener("hashchange", () => {
      if (location.hash === this.written) return;
      this.written = location.hash;
      this.read();
    });
  }
}
