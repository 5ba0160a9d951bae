(() => {
  "use strict";
  const find = (id) => document.getElementById(id);

  // Each arm's seeds stand open where no script runs, and fold away where one does.
  const toggles = [...document.querySelectorAll(".toggle")];
  const unfold = (button, open) => {
    button.setAttribute("aria-expanded", open);
    button.textContent = open ? "▾" : "▸";
    find(button.getAttribute("aria-controls")).hidden = !open;
  };
  const opened = (button) => button.getAttribute("aria-expanded") === "true";
  for (const button of toggles) {
    button.hidden = false;
    unfold(button, false);
    button.addEventListener("click", () => unfold(button, !opened(button)));
  }
  find("unfold")?.addEventListener("click", () => {
    const open = !toggles.every(opened);
    for (const button of toggles) unfold(button, open);
  });

  const plot = find("plot");
  if (!plot) return;
  const data = JSON.parse(find("data").textContent);
  const legend = [...document.querySelectorAll("#legend button")];
  const [metricBox, axisBox, seedsBox, hint] = ["metric", "axis", "seeds", "hint"].map(find);
  const margin = { left: 58, right: 16, top: 30, bottom: 42 };
  const off = new Set();
  let view = null; // zoomed: { x: [low, high], y: [low, high] or null }
  let scale = null; // of the last drawing
  let shown = []; // what it drew: { arm, seeds, means: Map x -> { mean, std } }
  let drag = null;

  const NS = "http://www.w3.org/2000/svg";
  const element = (name, attributes, parent, text) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent?.append(made);
    return made;
  };
  const svg = element("svg", { tabindex: 0, role: "img" }, plot);
  const style = (arm) => `c${arm % 7} d${Math.floor(arm / 7) % 5}`;
  const short = (value) => {
    const size = Math.abs(value);
    if (size >= 1e4) return value.toLocaleString("en", { maximumFractionDigits: 0 });
    if (size && size < 1e-3) return value.toExponential(1).replace("-", "−");
    return String(Number(value.toPrecision(4))).replace("-", "−");
  };

  const points = (cell) => {
    const ys = data.series[cell.y[metricBox.value]] ?? [];
    const xs = data.series[cell.x[axisBox.value]];
    return ys.map((y, i) => [xs[i], y]).filter((point) => point[1] !== null);
  };

  // The mean stands only where all finished seeds of the arm have a value.
  const average = (lines) => {
    const at = new Map();
    for (const line of lines)
      for (const [x, y] of line) at.set(x, [...(at.get(x) ?? []), y]);
    const means = new Map();
    for (const x of [...at.keys()].sort((a, b) => a - b)) {
      const values = at.get(x);
      const n = values.length;
      if (n < lines.length) continue;
      const mean = values.reduce((a, b) => a + b) / n;
      const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
      means.set(x, { mean, std: n > 1 ? Math.sqrt(squares / (n - 1)) : null });
    }
    return means;
  };

  const lines = () =>
    data.arms.flatMap((_, arm) => {
      const cells = data.cells.filter((cell) => cell.arm === arm);
      if (off.has(arm) || !cells.length) return [];
      const done = cells.filter((cell) => cell.done);
      const seeds = cells.map((cell) => ({ cell, line: points(cell) }));
      const means = average(seeds.filter((s) => s.cell.done || !done.length).map((s) => s.line));
      return [{ arm, seeds, means }];
    });

  const ticks = (low, high, most, whole) => {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = power * [1, 2, 5, 10].find((k) => k * power >= rough);
    if (whole) step = Math.max(1, step);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
      found.push(Number((k * step).toPrecision(12)));
    return found;
  };

  const path = (line) => {
    const inside = ([x]) => x >= scale.x[0] && x <= scale.x[1];
    let text = "";
    line.forEach((point, i) => {
      // One neighbour on each side, so that lines reach the frame.
      const near = inside(point) || (line[i - 1] && inside(line[i - 1])) ||
        (line[i + 1] && inside(line[i + 1])) ||
        (line[i + 1] && point[0] < scale.x[0] && line[i + 1][0] > scale.x[1]) ||
        (line[i - 1] && point[0] > scale.x[1] && line[i - 1][0] < scale.x[0]);
      if (!near) return;
      const place = `${scale.px(point[0]).toFixed(1)} ${scale.py(point[1]).toFixed(1)}`;
      text += (text ? "L" : "M") + place;
    });
    // A single point is a ring.
    return line.length === 1 && text ? `${text}m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0` : text;
  };

  const extent = (values) => {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    return low <= high ? [low, high] : [0, 1];
  };

  const draw = () => {
    const width = Math.max(280, plot.clientWidth);
    const height = Math.round(Math.min(480, Math.max(270, width * 0.42)));
    const inner = { w: width - margin.left - margin.right, h: height - margin.top - margin.bottom };
    shown = lines();
    let x = view?.x;
    if (!x) {
      // Of all arms, so that switching one off does not move the others.
      x = extent(data.cells.flatMap((cell) => data.series[cell.x[axisBox.value]]));
      if (x[0] === x[1]) x = [x[0] - 1, x[1] + 1];
    }
    let y = view?.y;
    if (!y) {
      const each = shown.flatMap(({ seeds, means }) => [
        ...(seedsBox.checked ? seeds.flatMap((s) => s.line) : []),
        ...[...means].map(([at, m]) => [at, m.mean]),
      ]);
      y = extent(each.filter(([at]) => at >= x[0] && at <= x[1]).map((point) => point[1]));
      const pad = (y[1] - y[0]) * 0.04 || Math.abs(y[0]) * 0.1 || 1;
      y = [y[0] - pad, y[1] + pad];
    }
    scale = {
      x, y, inner,
      px: (v) => margin.left + ((v - x[0]) / (x[1] - x[0])) * inner.w,
      py: (v) => margin.top + (1 - (v - y[0]) / (y[1] - y[0])) * inner.h,
      vx: (p) => x[0] + ((p - margin.left) / inner.w) * (x[1] - x[0]),
      vy: (p) => y[0] + (1 - (p - margin.top) / inner.h) * (y[1] - y[0]),
    };
    const metric = metricBox.selectedOptions[0].textContent;
    const axis = axisBox.selectedOptions[0].textContent;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", `${metric} over ${axis}, ${shown.length} arms`);
    const clip = element("clipPath", { id: "frame" }, element("defs", {}, svg));
    const frame = { x: margin.left, y: margin.top, width: inner.w, height: inner.h };
    element("rect", frame, clip);
    const bottom = margin.top + inner.h;
    const xAxis = element("g", { class: "x-axis" }, svg);
    const whole = !view || x[1] - x[0] >= 3; // no half epochs, unless nothing else is in view
    for (const v of ticks(...x, Math.max(2, Math.floor(inner.w / 80)), whole)) {
      const p = scale.px(v);
      element("line", { class: "rule", x1: p, x2: p, y1: margin.top, y2: bottom }, xAxis);
      element("text", { x: p, y: bottom + 16, "text-anchor": "middle" }, xAxis, short(v));
    }
    const yAxis = element("g", { class: "y-axis" }, svg);
    for (const v of ticks(...y, Math.max(2, Math.floor(inner.h / 45)), false)) {
      const p = scale.py(v);
      const ends = { x1: margin.left, x2: margin.left + inner.w, y1: p, y2: p };
      element("line", { class: "rule", ...ends }, yAxis);
      element("text", { x: margin.left - 7, y: p + 4, "text-anchor": "end" }, yAxis, short(v));
    }
    const middle = margin.left + inner.w / 2;
    element("text", { x: middle, y: height - 7, "text-anchor": "middle" }, svg, axis);
    element("text", { x: 12, y: 18, id: "quantity" }, svg, metric);
    const curves = element("g", { "clip-path": "url(#frame)", id: "lines" }, svg);
    const add = (arm, kind, line, seed) => {
      const named = { "data-arm": data.arms[arm], ...(seed === undefined ? {} : { "data-seed": seed }) };
      element("path", { class: `curve ${kind} ${style(arm)}`, ...named, d: path(line) }, curves);
    };
    if (seedsBox.checked)
      for (const { arm, seeds } of shown)
        for (const { cell, line } of seeds) add(arm, cell.done ? "seed" : "seed partial", line, cell.seed);
    for (const { arm, means } of shown) add(arm, "mean", [...means].map(([at, m]) => [at, m.mean]));
    element("g", { id: "hover", "pointer-events": "none" }, svg);
    read(null);
    find("reset").disabled = view === null;
  };

  // The values at the position x; null clears them.
  const read = (at) => {
    const hover = find("hover");
    hover.replaceChildren();
    for (const button of legend) button.querySelector("output").textContent = "";
    hint.textContent = hint.dataset.text;
    if (at === null) return;
    const inside = (x) => x >= scale.x[0] && x <= scale.x[1];
    const xs = shown.flatMap(({ means }) => [...means.keys()].filter(inside));
    if (!xs.length) return;
    const x = xs.reduce((best, v) => (Math.abs(v - at) < Math.abs(best - at) ? v : best));
    const p = scale.px(x);
    const ends = { x1: p, x2: p, y1: margin.top, y2: margin.top + scale.inner.h };
    element("line", { class: "hair", ...ends }, hover);
    hint.textContent = `${axisBox.selectedOptions[0].textContent} ${short(x)}`;
    for (const { arm, means } of shown) {
      const found = means.get(x);
      if (!found) continue;
      const std = found.std === null ? "" : ` ± ${short(found.std)}`;
      legend[arm].querySelector("output").textContent = short(found.mean) + std;
      const y = scale.py(found.mean);
      if (y < margin.top || y > margin.top + scale.inner.h) continue;
      element("circle", { class: `dot ${style(arm)}`, cx: p, cy: y, r: 4 }, hover);
    }
  };

  const position = (event) => {
    const box = svg.getBoundingClientRect();
    const zoom = svg.viewBox.baseVal.width / box.width;
    const within = (value, low, size) => Math.min(low + size, Math.max(low, value));
    return [
      within((event.clientX - box.left) * zoom, margin.left, scale.inner.w),
      within((event.clientY - box.top) * zoom, margin.top, scale.inner.h),
    ];
  };
  // A flat drag zooms x only, an upright one y only; the rectangle shows which.
  const selection = ([x, y]) => {
    const { w, h } = scale.inner;
    const [dx, dy] = [Math.abs(x - drag[0]), Math.abs(y - drag[1])];
    const wide = dx > 8;
    const tall = dy > 0.2 * h;
    return {
      wide, tall,
      x: wide ? [Math.min(x, drag[0]), Math.max(x, drag[0])] : [margin.left, margin.left + w],
      y: tall ? [Math.min(y, drag[1]), Math.max(y, drag[1])] : [margin.top, margin.top + h],
    };
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = position(event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return read(scale.vx(position(event)[0]));
    const { wide, tall, x, y } = selection(position(event));
    read(null);
    const size = { x: x[0], y: y[0], width: x[1] - x[0], height: y[1] - y[0] };
    if (wide || tall) element("rect", { class: "select", ...size }, find("hover"));
  });
  svg.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { wide, tall, x, y } = selection(position(event));
    drag = null;
    if (!wide && !tall) return;
    view = {
      x: x.map(scale.vx),
      y: tall ? [scale.vy(y[1]), scale.vy(y[0])] : view?.y ?? null,
    };
    draw();
  });
  const cancel = () => {
    drag = null;
    read(null);
  };
  svg.addEventListener("pointercancel", cancel);
  svg.addEventListener("pointerleave", () => drag || read(null));
  const reset = () => {
    view = null;
    draw();
  };
  svg.addEventListener("dblclick", reset);
  const move = (shift, factor) => {
    const size = scale.x[1] - scale.x[0];
    const middle = (scale.x[0] + scale.x[1]) / 2 + shift * size;
    view = { x: [middle - (size * factor) / 2, middle + (size * factor) / 2], y: view?.y ?? null };
    draw();
  };
  const keys = {
    "+": () => move(0, 0.5), "=": () => move(0, 0.5), "-": () => move(0, 2), 0: reset,
    ArrowLeft: () => move(-0.25, 1), ArrowRight: () => move(0.25, 1), Escape: reset,
  };
  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  const press = (arm, on) => {
    if (on) off.delete(arm);
    else off.add(arm);
    legend[arm].setAttribute("aria-pressed", on);
  };
  legend.forEach((button, arm) =>
    button.addEventListener("click", () => {
      press(arm, off.has(arm));
      draw();
    }),
  );
  for (const [id, on] of [["all", true], ["none", false]])
    find(id).addEventListener("click", () => {
      legend.forEach((_, arm) => press(arm, on));
      draw();
    });
  find("reset").addEventListener("click", reset);
  seedsBox.addEventListener("change", draw);
  // Another quantity: its y range is another, its x range is kept.
  metricBox.addEventListener("change", () => {
    if (view) view.y = null;
    draw();
  });
  axisBox.addEventListener("change", reset);
  let width = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
  draw();
})();
