// What is free: around an address, and where a range could go in all shown processes.

const ALIGNMENT = Math.max(Number((1n << 21n) / PAGE), 1);

// The gap at `page`: the one that all shown processes share, or where there is none the own one of `process`.
// {page, from, to, taken: [those that have something there], owner}
function gapAt(page, process) {
  const shown = shownProcesses();
  const taken = shown.filter((each) => each.at(page) >= 0);
  const among = taken.length && process ? [process] : shown.filter((each) => !taken.includes(each));
  let from = page >= LIMIT ? LIMIT : 0;
  let to = page >= LIMIT ? Number((1n << 64n) / PAGE) : LIMIT;
  for (const each of among) {
    const i = lastAtMost(each.start, page);
    if (i >= 0) from = Math.max(from, each.stop(i));
    if (i + 1 < each.count) to = Math.min(to, each.start[i + 1]);
  }
  return { page, from, to, taken, owner: taken.length ? process : null };
}

// The largest ranges that no shown process has anything in, `number` of them: without what heaps and stacks grow
// into, above the lowest address that may be mapped, from one multiple of 2 MiB to another.
function sharedGaps(axis, number) {
  const rooms = shownProcesses().flatMap((each) => each.raw.rooms.map(([start, pages]) => [start, start + pages]));
  rooms.sort((a, b) => a[0] - b[0]);
  const found = [];
  const add = (from, to) => {
    const start = Math.ceil(Math.max(from, LOWEST) / ALIGNMENT) * ALIGNMENT;
    const stop = Math.floor(Math.min(to, LIMIT - 1) / ALIGNMENT) * ALIGNMENT; // the last page may not be had
    if (stop > start) found.push({ from: start, to: stop });
  };
  for (let i = 0; i < axis.count && axis.start[i] < LIMIT; i++) {
    if (!axis.empty[i]) continue;
    let at = axis.start[i];
    const end = axis.start[i + 1];
    for (const [from, to] of rooms) {
      if (to <= at || from >= end) continue;
      add(at, from);
      at = Math.max(at, to);
    }
    if (at < end) add(at, end);
  }
  found.sort((a, b) => b.to - b.from - (a.to - a.from) || a.from - b.from);
  return found.slice(0, number);
}
