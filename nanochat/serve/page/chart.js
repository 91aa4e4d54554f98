// A small line chart in SVG.

import { el, grouped, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP] = [560, 190, 44, 24, 24, 8];

/** At most `most` points: means of equal runs. */
function thinned(points, most) {
  const run = Math.ceil(points.length / most);
  if (run < 2) return points;
  const thin = [];
  for (let i = 0; i < points.length; i += run) {
    const part = points.slice(i, i + run);
    thin.push([part.at(-1)[0], part.reduce((sum, [, y]) => sum + y, 0) / part.length]);
  }
  return thin;
}

/** Round numbers in [low, high], about `count` of them. */
export function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((each) => each * power >= raw) * power;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step)
    found.push(Number(at.toPrecision(12)));
  return found;
}

/** A figure of `points` [[step, value]]; the readout follows the pointer. */
export function chart(name, points, { dots = false } = {}) {
  const ys = points.map(([, y]) => y).sort((a, b) => a - b);
  const low = ys[0];
  const high = Math.max(ys[Math.floor(ys.length * 0.985)], low + 1e-3); // the first steps would flatten the rest
  const last = points.at(-1)[0] || 1;
  const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * step) / last;
  const y = (value) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - Math.min(value, high))) / (high - low);
  const text = (content, props) => svg("text", props, document.createTextNode(content));
  const grid = ticks(low, high, 4).flatMap((value) => [
    svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
    text(String(value), { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }),
  ]);
  const steps = ticks(0, last, 5).map((step) =>
    text(grouped(step), { x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }),
  );
  const thin = thinned(points, 260);
  const line = svg("polyline", {
    points: thin.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
  });
  const marks = dots ? thin.map(([step, value]) => svg("circle", { cx: x(step), cy: y(value), r: 3 })) : [];
  const cursor = svg("circle", { r: 4, class: "cursor", visibility: "hidden" });
  const [first, end] = [points[0], points.at(-1)];
  const says = `${name}: ${first[1].toFixed(3)} at step ${first[0]}, ${end[1].toFixed(3)} at step ${end[0]}`;
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": says },
    ...grid,
    ...steps,
    line,
    ...marks,
    cursor,
  );
  const latest = `${end[1].toFixed(3)} at step ${grouped(end[0])}`;
  const readout = el("span", { class: "readout" }, latest);
  drawing.addEventListener("pointermove", ({ clientX }) => {
    const box = drawing.getBoundingClientRect();
    const step = ((((clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT)) * last;
    const near = points.reduce((best, point) =>
      Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best,
    );
    readout.textContent = `${near[1].toFixed(3)} at step ${grouped(near[0])}`;
    for (const [attribute, value] of [
      ["cx", x(near[0])],
      ["cy", y(near[1])],
      ["visibility", "visible"],
    ])
      cursor.setAttribute(attribute, value);
  });
  drawing.addEventListener("pointerleave", () => {
    readout.textContent = latest;
    cursor.setAttribute("visibility", "hidden");
  });
  return el("figure", { class: "chart" }, el("figcaption", {}, name, readout), drawing);
}
