// Colours and patterns, as the style sheet has them for the theme.

class Palette {
  constructor(ratio) {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(`--${name}`).trim();
    this.ratio = ratio;
    this.ink = read("ink");
    this.soft = read("soft");
    this.line = read("line");
    this.ground = read("ground");
    this.column = read("column");
    this.free = read("free");
    this.freeInk = read("free-ink");
    this.mark = read("mark");
    this.joint = read("joint");
    this.kinds = data.kinds.map((kind) => read(kind.color));
    this.patterns = data.kinds.map((kind, i) =>
      kind.pattern === "hatch" ? hatch(this.kinds[i], this.column, ratio, false)
      : kind.pattern === "cross" ? hatch(this.kinds[i], this.column, ratio, true)
      : null);
    this.beyond = hatch(this.line, this.ground, ratio, false);
  }
}

function hatch(color, ground, ratio, crossed) {
  const side = Math.round((crossed ? 6 : 8) * ratio);
  const tile = document.createElement("canvas");
  tile.width = tile.height = side;
  const pen = tile.getContext("2d");
  pen.fillStyle = ground;
  pen.fillRect(0, 0, side, side);
  pen.strokeStyle = color;
  pen.lineWidth = (crossed ? 1.3 : 1) * ratio;
  pen.beginPath();
  for (const shift of [-side, 0, side]) {
    pen.moveTo(shift - 1, side + 1);
    pen.lineTo(shift + side + 1, -1);
    if (!crossed) continue;
    pen.moveTo(shift - 1, -1);
    pen.lineTo(shift + side + 1, side + 1);
  }
  pen.stroke();
  const pattern = pen.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / ratio));
  return pattern;
}
