// The snapshot as typed arrays, and numbers as people read them. Addresses are page numbers, which stay below
// 2^52 even for 64-bit addresses and so are exact in a Number; bytes are only ever parsed and printed, by BigInt.

const data = JSON.parse(document.getElementById("snapshot").textContent);
const PAGE = BigInt(data.page_size);
// The first page that no program may have: what lies above is the kernel's.
const LIMIT = Number((1n << BigInt(data.va_bits)) / PAGE);
const LOWEST = data.lowest;
const KIND = Object.fromEntries(data.kinds.map((each, number) => [each.key, number]));

class Process {
  constructor(raw, number) {
    const count = raw.len.length;
    Object.assign(this, { number, shown: true, count, raw, label: raw.label, short: raw.short, pid: raw.pid });
    this.start = new Float64Array(count);
    this.pages = Float64Array.from(raw.len);
    this.kind = Uint8Array.from(raw.kind);
    this.name = Int32Array.from(raw.name);
    this.access = Uint8Array.from(raw.access);
    // Pages in memory; -1 where nobody could tell.
    this.resident = raw.rss ? Float64Array.from(raw.rss) : new Float64Array(count).fill(-1);
    this.swapped = raw.swap ? Float64Array.from(raw.swap) : null;
    let at = 0;
    for (let i = 0; i < count; i++) {
      at += raw.gap[i];
      this.start[i] = at;
      at += this.pages[i];
    }
    this.runs = raw.runs ? new Runs(raw.runs) : null;
    this.matched = null;
  }

  stop(i) {
    return this.start[i] + this.pages[i];
  }

  // The mapping that holds `page`, or -1.
  at(page) {
    const i = lastAtMost(this.start, page);
    return i >= 0 && page < this.stop(i) ? i : -1;
  }

  // The mapping nearest to `page`.
  nearest(page) {
    const i = Math.max(lastAtMost(this.start, page), 0);
    return i + 1 < this.count && page >= this.stop(i) && this.start[i + 1] - page < page - this.stop(i) ? i + 1 : i;
  }

  // The share of mapping i that is in memory; -1 where nobody could tell.
  share(i) {
    return this.resident[i] < 0 ? -1 : Math.min(this.resident[i] / this.pages[i], 1);
  }

  // Whether it is known which of its pages are: some of what is in memory is in runs.
  tellsPages(i) {
    return this.runs !== null && this.runs.pages(this.start[i], this.stop(i)) > 0;
  }
}

// Which pages are in memory: runs in order of address, each (gap from the end of the last one, pages).
class Runs {
  constructor(flat) {
    const count = flat.length / 2;
    this.start = new Float64Array(count);
    this.before = new Float64Array(count + 1);
    let at = 0;
    for (let i = 0; i < count; i++) {
      at += flat[2 * i];
      this.start[i] = at;
      at += flat[2 * i + 1];
      this.before[i + 1] = this.before[i] + flat[2 * i + 1];
    }
  }

  below(page) {
    const i = lastAtMost(this.start, page);
    return i < 0 ? 0 : Math.min(this.before[i] + page - this.start[i], this.before[i + 1]);
  }

  // In memory among [from, to), fractions too: a row of pixels may hold a part of a page.
  pages(from, to) {
    return this.below(to) - this.below(from);
  }
}

// The index of the last element of a sorted array that is at most `value`, or -1.
function lastAtMost(sorted, value) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

const processes = data.processes.map((raw, number) => new Process(raw, number));
const shownProcesses = () => processes.filter((each) => each.shown);

// ---- numbers as text ------------------------------------------------------------------------------

const hex = (page) => "0x" + (BigInt(page) * PAGE).toString(16);
const hexRange = (from, to) => `${hex(from)}–${hex(to)}`;
const counted = (number) => number.toLocaleString("en");
const plural = (number, what) => `${counted(number)} ${what}${number === 1 ? "" : "s"}`;

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

function size(pages) {
  let amount = pages * data.page_size; // rounded beyond 2^53 bytes, as is what is printed
  let unit = 0;
  while (amount >= 1024 && unit + 1 < UNITS.length) {
    amount /= 1024;
    unit++;
  }
  const digits = amount >= 100 || Number.isInteger(amount) ? 0 : amount >= 10 ? 1 : 2;
  const text = amount.toFixed(digits);
  return `${digits ? text.replace(/\.?0+$/, "") : text} ${UNITS[unit]}`;
}

// A page number of text such as "0x7f12…", with or without an end "-0x…"; null where it is none.
// Without 0x it is none: "deadbeef" may be a name.
function parseAddress(text) {
  const found = /^0x([0-9a-f_]{1,20})$/i.exec(text.trim());
  if (!found) return null;
  const digits = found[1].replaceAll("_", "");
  return digits && digits.length <= 16 ? Number(BigInt("0x" + digits) / PAGE) : null;
}

function parseRange(text) {
  const parts = text.split(/[-–]/);
  const from = parseAddress(parts[0]);
  const to = parts.length === 2 ? parseAddress(parts[1]) : null;
  return from !== null && to !== null && from < to ? { from, to } : null;
}

const nameOf = (process, i) => data.names[process.name[i]];
const kindOf = (process, i) => data.kinds[process.kind[i]];

// What a mapping is called where there is room for one name: of a path the end says most. What is ours has its
// state with it where there is room for that too.
function shortName(process, i, withState = true) {
  const name = nameOf(process, i);
  const kind = kindOf(process, i);
  if (!name) return kind.label;
  const ours = /^(?:\/memfd:|\[anon(?:_shmem)?:)stead:(.+?)\]?$/.exec(name);
  const short = ours ? ours[1] : /^\/(?!memfd:)/.test(name) ? name.slice(name.lastIndexOf("/") + 1) : name;
  return kind.state && withState ? `${short} · ${kind.state}` : short;
}

// ---- what is hidden -------------------------------------------------------------------------------

const hidden = { kinds: new Uint8Array(data.kinds.length), pages: 0 };

const isHidden = (process, i) => hidden.kinds[process.kind[i]] === 1 || process.pages[i] < hidden.pages;
