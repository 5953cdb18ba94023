// Layers on the ground: one beside another or their difference, over time, with values and gauges.
import { colour, short } from "./charts.js";
import { paint, paintBar } from "./colours.js";
import { cellAt, difference, paintGround, raster, valueAt } from "./rasters.js";
import { arrows, asked, broken, chart, keep, legend, readText, readView, row } from "./view.js";

const PLAY_MS = 500;
const COLOURS = { heights: "sequential", water: "water", measure: "sequential" };
const node = (id) => document.getElementById(id);
const stage = node("stage");
let view;
let shown = []; // {layer, source, cells} of the left and, where there is one, the right
let ground;
let spot = null; // place that a click keeps, shares of height and width
let pointed = null; // place under the pointer
let latest = 0;

const chosen = () => [node("left"), node("right")].filter((select) => select.value !== "").map((select) => view.layers[Number(select.value)]);
const frameOf = (layer) => layer.frames[Math.min(Number(node("time").value), layer.frames.length - 1)];

// Layers of one style and unit share one scale.
function scaleOf(layer) {
  const alike = view.layers.filter((each) => each.style === layer.style && each.unit === layer.unit);
  return [Math.min(...alike.map((each) => each.low)), Math.max(...alike.map((each) => each.high))];
}

async function show() {
  const turn = ++latest;
  const layers = chosen();
  offerTimes(layers);
  const read = await Promise.all(layers.map(async (layer) => ({ layer, cells: layer.cells, source: await raster(frameOf(layer).file) })));
  if (turn !== latest) return; // chosen anew while it was read
  shown = read;
  const two = shown.length === 2;
  node("field-how").hidden = !two || shown[0].layer.unit !== shown[1].layer.unit;
  if (node("field-how").hidden) node("how").value = "swipe";
  const apart = two && node("how").value === "swipe";
  node("field-swipe").hidden = node("divider").hidden = !apart;
  node("right-map").hidden = !apart;
  node("bars").replaceChildren();
  if (two && !apart) drawDifference();
  else {
    shown.forEach((each, index) => draw([node("left-map"), node("right-map")][index], each));
    legends();
  }
  if (two) [node("left-name").textContent, node("right-name").textContent] = shown.map((each) => each.layer.title);
  swipe();
  readOut();
  stage.setAttribute("aria-label", `${shown.map((each) => each.layer.title).join(" beside ")}; arrow keys move the cell`);
  keep({ left: node("left").value, right: node("right").value, how: node("how").value, time: node("time").value });
}

function draw(canvas, { layer, source, cells }) {
  const scale = scaleOf(layer);
  place(canvas, source, cells);
  if (layer.style === "heights") paintGround(canvas, source, view.ground.cell_m * cells, scale);
  else paint(canvas, source.values, source.shape, COLOURS[layer.style], ...scale, layer.style === "water" ? (value) => value < view.least_water_m : undefined);
}

// One bar where both have one scale.
function legends() {
  const alike = new Map();
  for (const { layer } of shown) {
    const key = `${layer.style} ${layer.unit}`;
    alike.set(key, [...new Set([...(alike.get(key) ?? []), layer])]);
  }
  for (const [layer, other] of alike.values()) {
    const [low, high] = scaleOf(layer);
    bar(COLOURS[layer.style], low, `${layer.title}${other ? ` and ${other.title}` : ""} (${layer.unit})`, high);
  }
}

function drawDifference() {
  const { source, cells } = difference(shown[0], shown[1], view.ground.shape);
  const most = source.values.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most), 0) || 1;
  place(node("left-map"), source, cells);
  paint(node("left-map"), source.values, source.shape, "diverging", -most, most);
  bar("diverging", -most, `${shown[1].layer.title} less ${shown[0].layer.title} (${shown[0].layer.unit})`, most);
}

// Coarse cells at the edges may reach beyond the ground's.
function place(canvas, { full }, cells) {
  canvas.style.width = `${(100 * full[1] * cells) / view.ground.shape[1]}%`;
  canvas.style.height = `${(100 * full[0] * cells) / view.ground.shape[0]}%`;
}

function bar(colours, low, words, high) {
  node("bars").append(legend((canvas) => paintBar(canvas, colours), [short(low), words, short(high)]));
}

function swipe() {
  const share = Number(node("swipe").value);
  const apart = !node("divider").hidden;
  node("divider").style.left = `${100 * share}%`;
  const cut = (canvas) => `${(100 * share * 100) / parseFloat(canvas.style.width || 100)}%`;
  node("left-map").style.clipPath = apart ? `inset(0 calc(100% - ${cut(node("left-map"))}) 0 0)` : "";
  node("right-map").style.clipPath = apart ? `inset(0 0 0 ${cut(node("right-map"))})` : "";
  for (const name of ["left-map", "right-map"]) node(name).style.opacity = node("opacity").value;
}

// -- time

function words(seconds) {
  if (seconds < 120) return `${short(seconds)} s`;
  return seconds < 7200 ? `${short(seconds / 60)} min` : `${short(seconds / 3600)} h`;
}

function offerTimes(layers) {
  const longest = layers.reduce((a, b) => (b.frames.length > a.frames.length ? b : a), layers[0]);
  node("field-time").hidden = longest.frames.length < 2;
  node("time").max = longest.frames.length - 1;
  if (!node("field-time").hidden) node("time-name").textContent = words(frameOf(longest).time_s);
}

let playing = null;
node("play").addEventListener("click", () => {
  clearInterval(playing);
  playing = playing ? null : setInterval(next, PLAY_MS);
  node("play").textContent = playing ? "Pause" : "Play";
  node("play").setAttribute("aria-pressed", String(Boolean(playing)));
});

function next() {
  const time = node("time");
  time.value = Number(time.value) < Number(time.max) ? Number(time.value) + 1 : 0;
  show().catch(broken);
}

// -- a cell

function readOut() {
  const at = pointed ?? spot;
  node("spot").hidden = !spot;
  node("values").hidden = !at;
  if (spot) [node("spot").style.top, node("spot").style.left] = spot.map((share) => `${100 * share}%`);
  if (!at) return;
  const [a, e, c, f] = view.transform;
  const [line, column] = at.map((share, axis) => share * view.ground.shape[axis]);
  const digits = Math.max(0, 1 - Math.floor(Math.log10(Math.abs(a))));
  node("where").textContent = `${view.axes[0]} ${(c + a * column).toFixed(digits)}, ${view.axes[1]} ${(f + e * line).toFixed(digits)}`;
  const values = shown.map((each) => valueAt(each.source, each.cells, view.ground.shape, at));
  const rows = [row([["ground"], [number(valueAt(ground, 1, view.ground.shape, at)), true], ["m"]])];
  shown.forEach(({ layer }, index) => rows.push(row([[layer.title], [number(values[index]), true], [layer.unit]], true)));
  if (!node("field-how").hidden) rows.push(row([["second less first"], [number(values[1] - values[0]), true], [shown[0].layer.unit]]));
  node("values").tBodies[0].replaceChildren(...rows);
}

const number = (value) => (Number.isFinite(value) ? short(value) : "none");

function placeOf(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width].map((share) => Math.min(1 - 1e-9, Math.max(0, share)));
}

stage.addEventListener("pointermove", (event) => {
  pointed = placeOf(event);
  readOut();
});
stage.addEventListener("pointerleave", () => {
  pointed = null;
  readOut();
});
stage.addEventListener("click", (event) => {
  spot = placeOf(event);
  readOut();
});
arrows(stage, (step) => {
  pointed = null;
  const at = cellAt(ground, 1, view.ground.shape, spot ?? [0.5, 0.5]);
  spot = at.map((line, axis) => (Math.min(ground.shape[axis] - 1, Math.max(0, line + (spot ? step[axis] : 0))) + 0.5) / ground.shape[axis]);
  readOut();
});

// -- gauges

async function showGauges() {
  if (!view.gauges.length) return;
  for (const { name, cell } of view.gauges.filter((gauge) => gauge.cell)) {
    const mark = Object.assign(document.createElement("span"), { className: "mark", textContent: name });
    [mark.style.top, mark.style.left] = cell.map((line, axis) => `${(100 * (line + 0.5)) / view.ground.shape[axis]}%`);
    node("marks").append(mark);
  }
  const [head, ...lines] = (await readText("gauges.csv")).trim().split("\n").map((line) => line.split(","));
  const columns = head.map((name, index) => ({ name, values: lines.map((line) => Number(line[index])) }));
  const readings = [...new Set(head.slice(1).map((name) => name.split(" ").at(-1)))];
  node("reading").replaceChildren(...readings.map((name) => new Option(name, name)));
  node("gauges").hidden = false;
  let plot = null;
  const draw = () => {
    const some = columns.filter((column) => column.name.endsWith(` ${node("reading").value}`));
    plot?.destroy();
    plot = chart(node("plot"), "time (s)", node("reading").value, some.map((column, index) => ({ label: column.name.slice(0, -node("reading").value.length - 1), stroke: colour(index) })), [columns[0].values, ...some.map((column) => column.values)]);
  };
  node("reading").addEventListener("change", draw);
  new ResizeObserver(() => plot.setSize({ width: node("plot").clientWidth, height: plot.height })).observe(node("plot"));
  draw();
}

// -- start

for (const name of ["left", "right", "how"]) node(name).addEventListener("change", () => show().catch(broken));
node("time").addEventListener("input", () => show().catch(broken));
for (const name of ["swipe", "opacity"]) node(name).addEventListener("input", swipe);

try {
  view = await readView();
  const titles = view.layers.map((layer, index) => [index, layer.title]);
  const at = (title) => (title === null ? "" : view.layers.findIndex((layer) => layer.title === title));
  node("left").replaceChildren(...titles.map(([index, title]) => new Option(title, index)));
  node("right").replaceChildren(new Option("nothing", ""), ...titles.map(([index, title]) => new Option(title, index)));
  node("left").value = asked.get("left") ?? at(view.shown[0]);
  node("right").value = asked.get("right") ?? at(view.shown[1]);
  node("how").value = asked.get("how") ?? "swipe";
  offerTimes(view.layers);
  node("time").value = asked.get("time") ?? node("time").max;
  ground = await raster(view.ground.file);
  stage.style.aspectRatio = `${view.ground.shape[1]} / ${view.ground.shape[0]}`;
  paintGround(node("ground"), ground, view.ground.cell_m);
  node("reduced").hidden = ground.shape[1] === ground.full[1];
  node("reduced").textContent = `Values are means of ${Math.round(ground.full[1] / ground.shape[1])} × ${Math.round(ground.full[1] / ground.shape[1])} cells; the files hold every cell.`;
  await show();
  await showGauges();
} catch (error) {
  broken(error);
}
