// Pointer, wheel and keys on the map.

const KEYS = {
  "+": (app) => app.zoom(1.5),
  "=": (app) => app.zoom(1.5),
  "-": (app) => app.zoom(1 / 1.5),
  Escape: (app) => app.showAll(),
  g: (app) => app.nextGap(1),
  G: (app) => app.nextGap(-1),
  "/": () => $("find").focus(),
  t: (app) => app.toggleTable(),
  f: (app) => app.toggleScale(),
  d: (app) => app.toggleTheme(),
};
// These would take something from who reads or scrolls, so only where the map has the focus.
const MAP_KEYS = {
  ArrowUp: (app) => app.step(-1),
  ArrowDown: (app) => app.step(1),
  ArrowLeft: (app) => app.sideways(-1),
  ArrowRight: (app) => app.sideways(1),
  PageUp: (app) => app.pan(-0.8),
  PageDown: (app) => app.pan(0.8),
  Home: (app) => app.showAll(),
  Enter: (app) => app.fitSelected(),
};

function listenToKeys(app) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const focused = document.activeElement;
    const onMap = focused === app.map.canvas;
    if (/^(input|select|textarea)$/i.test(focused.tagName) && focused.type !== "checkbox") return;
    const action = (onMap && MAP_KEYS[event.key]) || KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    action(app);
  });
}

function listenToPointer(app) {
  const { map } = app;
  const { canvas } = map;
  const down = new Map(); // the pointers that are down: where each is
  let moved = 0;
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? map.height : 1;
    const amount = (event.deltaY || event.deltaX) * lines;
    const turn = Math.max(Math.min(amount, 400), -400) * (event.ctrlKey ? 0.01 : 0.002); // ctrl: a pinch
    if (event.shiftKey) map.view.pan(amount);
    else map.view.zoom(Math.exp(-turn), where(event).y - HEADER);
    app.moved();
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, where(event));
    if (down.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = where(event);
    const before = down.get(event.pointerId);
    if (!before) {
      app.hover(map.at(now.x, now.y), now);
      return;
    }
    app.hover(null, null);
    moved += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (down.size === 2) {
      const other = [...down].find(([id]) => id !== event.pointerId)[1];
      const factor = Math.abs(now.y - other.y) / Math.max(Math.abs(before.y - other.y), 1);
      map.view.zoom(Math.min(Math.max(factor, 0.5), 2), other.y - HEADER);
    } else if (moved > 4) {
      canvas.classList.add("dragged");
      map.view.pan(before.y - now.y);
    }
    down.set(event.pointerId, now);
    app.moved();
  });
  const up = (event) => {
    const at = down.get(event.pointerId);
    down.delete(event.pointerId);
    canvas.classList.remove("dragged");
    if (!at || event.type !== "pointerup" || moved > 4) return;
    if (at.x < LAYOUT.fan) app.goTo(((at.y - HEADER) / map.height) * LIMIT);
    else app.select(map.at(at.x, at.y), false);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => app.hover(null, null));
  canvas.addEventListener("dblclick", (event) => {
    const now = where(event);
    if (map.at(now.x, now.y)) app.fitSelected();
  });
}
