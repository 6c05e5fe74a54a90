// Beside the map: what is selected or under the pointer, the processes, where they could meet.

const $ = (id) => document.getElementById(id);

// An element with text and children. Text is never markup: names come from other programs.
function make(tag, text = "", ...children) {
  const element = document.createElement(tag);
  if (text !== "") element.textContent = text;
  element.append(...children);
  return element;
}

function makeButton(text, label, action) {
  const button = make("button", text);
  button.type = "button";
  if (label) button.setAttribute("aria-label", label);
  button.addEventListener("click", action);
  return button;
}

// [[what, text]] of a mapping or a gap.
function factsOf(what) {
  if (what.process) return mappingFacts(what.process, what.i);
  const facts = [["range", hexRange(what.from, what.to)], ["size", size(what.to - what.from)]];
  if (what.from >= LIMIT) return [["what", "the kernel's addresses"], ...facts.slice(0, 1)];
  const shown = shownProcesses();
  if (!what.taken.length) return [["what", shown.length > 1 ? `free in all ${shown.length}` : "free"], ...facts];
  const taken = what.taken.map((each) => each.short).join(", ");
  return [["what", what.owner ? `free in ${what.owner.short}` : "free"], ...facts, ["not free in", taken]];
}

function mappingFacts(process, i) {
  const kind = kindOf(process, i);
  const resident = process.resident[i];
  const facts = [
    ["what", kind.label],
    ["name", nameOf(process, i) || "none"],
    ["range", hexRange(process.start[i], process.stop(i))],
    ["size", `${size(process.pages[i])}, ${plural(process.pages[i], "page")}`],
    ["access", data.access[process.access[i]]],
  ];
  if (resident < 0) facts.push(["resident", "not told"]);
  else facts.push(["resident", `${size(resident)}, ${percent(resident / process.pages[i])}`]);
  if (process.swapped && process.swapped[i] > 0) facts.push(["swapped", size(process.swapped[i])]);
  for (const each of process.raw.reservations) {
    if (each.start <= process.start[i] && process.start[i] < each.start + each.pages) {
      facts.push(["reservation", `${each.name || "without a name"}, ${size(each.pages)} at ${hex(each.start)}`]);
    }
  }
  for (const each of process.raw.arenas) {
    if (each.start < process.stop(i) && process.start[i] < each.start + each.pages) {
      const filled = `${percent(each.used)} of ${size(each.pages)} used, at most ${percent(each.high)}`;
      facts.push([each.what, `${each.name ? `${each.name}: ` : ""}${filled}`]);
    }
  }
  if (processes.length > 1) facts.push(["process", process.label]);
  return facts;
}

// Of the snapshot itself, where nothing is looked at.
function aboutFacts() {
  const facts = [["taken", data.taken_at], ["pages of", size(1)], ["addresses", `${data.va_bits} bits`]];
  if (processes.length === 1) facts.unshift(["command", cut(processes[0].raw.command, 160) || "not told"]);
  else facts.unshift(["processes", counted(processes.length)]);
  return facts;
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

function percent(share) {
  const value = share * 100;
  return `${value > 0 && value < 1 ? "<1" : value > 99 && value < 100 ? ">99" : Math.round(value)} %`;
}

// One line of what there is: for the tooltip and for those who listen.
function sentence(what) {
  if (!what.process) return factsOf(what).map(([, text]) => text).join(" · ");
  const { process, i } = what;
  const who = processes.length > 1 ? `${process.short}: ` : "";
  const name = nameOf(process, i) ? shortName(process, i) : kindOf(process, i).label;
  return `${who}${name} · ${size(process.pages[i])} at ${hex(process.start[i])}`;
}

class Panel {
  constructor(map, go) {
    this.map = map;
    this.go = go;
    this.shownFor = undefined;
  }

  showDetails(what, title) {
    const whose = what && (what.process || what.owner);
    const key = what && [title, whose && whose.number, ...rangeOf(what)].join(" ");
    if (key === this.shownFor) return;
    this.shownFor = key;
    $("details-title").textContent = title;
    const list = $("details");
    list.replaceChildren();
    for (const [term, text] of what ? factsOf(what) : aboutFacts()) {
      list.append(make("div", "", make("dt", term), make("dd", text)));
    }
  }

  showProcesses(toggle) {
    if (processes.length < 2) {
      $("processes-part").hidden = true;
      return;
    }
    const list = $("processes");
    list.replaceChildren();
    for (const process of processes) {
      const box = make("input");
      box.type = "checkbox";
      box.checked = process.shown;
      box.addEventListener("change", () => {
        if (!toggle(process, box.checked)) box.checked = process.shown;
      });
      const label = make("label", "", box, make("span", process.label));
      list.append(make("li", "", label, make("small", this._summary(process))));
    }
  }

  _summary(process) {
    const { raw } = process;
    const host = raw.host ? `${raw.host} · ` : "";
    const incomplete = raw.notes.length ? " · incomplete" : "";
    return `${host}pid ${process.pid} · ${plural(process.count, "mapping")}${incomplete}`;
  }

  showGaps() {
    const shown = shownProcesses();
    const title = shown.length > 1 ? `Where all ${shown.length} could meet` : "Largest gaps";
    $("gaps-title").textContent = title;
    const list = $("gaps");
    list.replaceChildren();
    for (const gap of sharedGaps(this.map.axis, 8)) {
      const range = `${hex(gap.from)}-${hex(gap.to)}`;
      const jump = makeButton("", `Go to ${size(gap.to - gap.from)} at ${hex(gap.from)}`, () => this.go(gap));
      jump.className = "jump";
      jump.append(make("b", size(gap.to - gap.from)), " ", make("code", hex(gap.from)));
      const copy = makeButton("copy", `Copy ${range}`, () => copyText(range));
      list.append(make("li", "", jump, copy));
    }
    if (!list.children.length) list.append(make("li", "none"));
  }
}

// Where a page from disk may not use the clipboard, by way of a selection.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", text);
    area.className = "away";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`Copied ${text}`);
}

// To those who listen, and in the footer's corner.
function say(text) {
  $("said").textContent = text;
}
