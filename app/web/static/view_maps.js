// Maps over their images: one scale, the value at a pixel, the curves and what each state replaces.
import { colour, short } from "./charts.js";
import { paint, paintBar } from "./colours.js";
import { addressOf, arrows, asked, broken, chart, keep, legend, offer, readFloats, readView, row } from "./view.js";

const FIELDS = ["class", "method", "baseline", "seed"];
const node = (id) => document.getElementById(id);
const stage = node("stage");
const read = new Map(); // values by map
const ranks = new Map(); // cells in the order in which a curve replaces them, by map
let view;
let spot = null; // share of the height and the width
let plot = null;

const image = () => view.images[Number(node("image").value)];
const sameClass = () => image().maps.filter((map) => String(map.class) === node("class").value);
const current = () => image().maps.find((map) => FIELDS.every((field) => String(map[field] ?? "") === node(field).value));
const about = (map) => view.methods[map.method];
const distinct = (values) => [...new Set(values.map((value) => value ?? ""))];

async function valuesOf(map) {
  if (!read.has(map)) read.set(map, await readFloats(map.file, map.offset, map.shape[0] * map.shape[1]));
  return read.get(map);
}

const scored = ({ name, score }) => `${name}, ${view.score} ${short(score)}`;

// -- choices: each offers what the ones before it leave

function offerAll(first = {}) {
  let left = image().maps;
  const names = Object.fromEntries(image().classes.map((each) => [each.class, scored(each)]));
  for (const field of FIELDS) {
    const words = (value) => (field === "class" ? (names[value] ?? value) : value === "none" ? "none used" : value);
    offer(node(field), distinct(left.map((map) => map[field])).map((value) => [value, words(value)]), first[field]);
    left = left.filter((map) => String(map[field] ?? "") === node(field).value);
  }
}

// The ends of the colours: of all maps of the image that show the same quantity, or of one.
function scaleOf(map) {
  const quantity = about(map).quantity;
  const group = node("scale").value === "one" ? [map] : image().maps.filter((each) => about(each).quantity === quantity);
  return [Math.min(...group.map((each) => each.low)), Math.max(...group.map((each) => each.high))];
}

async function show() {
  const map = current();
  const picture = node("picture");
  picture.src = addressOf(image().picture);
  picture.alt = image().name;
  const values = await valuesOf(map);
  if (map !== current()) return; // chosen anew while it was read
  const [low, high] = scaleOf(map);
  const { quantity, signed, open, described } = about(map);
  const colours = signed ? "diverging" : "sequential";
  paint(node("map"), values, map.shape, colours, low, high);
  const ends = [`${open && signed ? "≤ " : ""}${short(low)}`, quantity, `${open ? "≥ " : ""}${short(high)}`];
  node("caption").textContent = `${image().name}: ${scored(image().classes.find((each) => each.class === map.class))}. ${described}.`;
  node("bar").replaceChildren(legend((canvas) => paintBar(canvas, colours), ends));
  stage.setAttribute("aria-label", `${described}, baseline ${map.baseline}, over ${image().name}; arrow keys move the pixel`);
  keep(Object.fromEntries(["image", ...FIELDS].map((field) => [field, node(field).value])));
  clearState();
  showPixel();
  showCurves();
}

// -- a pixel

const cell = (map) => [Math.min(map.shape[0] - 1, Math.floor(spot[0] * map.shape[0])), Math.min(map.shape[1] - 1, Math.floor(spot[1] * map.shape[1]))];

function showPixel() {
  node("spot").hidden = node("values").hidden = !spot;
  if (!spot) return;
  node("spot").style.top = `${100 * spot[0]}%`;
  node("spot").style.left = `${100 * spot[1]}%`;
  const [line, column] = cell(current());
  node("where").textContent = `row ${line}, column ${column}`;
  const rows = sameClass().filter((map) => read.has(map)).map((map) => {
    const [y, x] = cell(map);
    const value = read.get(map)[y * map.shape[1] + x];
    return row([[map.method], [map.baseline], [short(value), true], [about(map).quantity]], map === current());
  });
  node("values").tBodies[0].replaceChildren(...rows);
}

stage.addEventListener("click", (event) => {
  const box = stage.getBoundingClientRect();
  spot = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
  showPixel();
});
arrows(stage, (step) => {
  const { shape } = current();
  const at = spot ? cell(current()) : [shape[0] >> 1, shape[1] >> 1];
  spot = at.map((place, axis) => (Math.min(shape[axis] - 1, Math.max(0, place + step[axis])) + 0.5) / shape[axis]);
  showPixel();
});

// -- curves

function lines() {
  const map = current();
  const others = sameClass().filter((each) => each.baseline === map.baseline || each.baseline === "none" || map.baseline === "none");
  const seen = new Set();
  const first = (each) => !seen.has(`${each.method}/${each.baseline}`) && seen.add(`${each.method}/${each.baseline}`); // of the seeds
  return [map, ...others].filter((each) => each.curves[node("curve").value] && first(each)).reverse();
}

function showCurves() {
  const names = Object.keys(current().curves);
  node("curves").hidden = !names.length;
  if (!names.length) return;
  const chosen = names.includes(node("curve").value) ? node("curve").value : names[0];
  node("curve").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  const shown = lines(); // the current one last, in front of the others
  plot?.destroy();
  plot = chart(node("plot"), "share of the pixels", view.score, shown.map(line), uPlot.join(shown.map((map) => map.curves[chosen])), { hooks: { setCursor: [pointed] } });
  node("curve-hint").hidden = !view.orders[chosen];
  const ends = shown.map((map) => {
    const scores = map.curves[chosen][1];
    return row([[map.method], [map.baseline], [short(scores[0]), true], [short(scores.at(-1)), true], [short(map.grades[chosen.split(" ")[0]]), true]], map === current());
  });
  node("end-states").tBodies[0].replaceChildren(...ends);
  node("plot").setAttribute("aria-label", `Curves of the score for ${chosen}; their ends are in the table`);
}

function line(map) {
  const label = map.baseline === "none" ? map.method : `${map.method}, ${map.baseline}`;
  const stroke = colour(Math.max(0, Object.keys(view.methods).indexOf(map.method)));
  return map === current() ? { label, stroke, width: 3 } : { label, stroke, width: 1.4, dash: [6, 4] };
}

function pointed(chart) {
  const at = chart.cursor.idx;
  if (at === null || at === undefined) clearState();
  else showState(chart.data[0][at]);
}

// The state of a curve: pixels in the order of the map, ties by index, as the grader replaces them.
function showState(share) {
  const map = current();
  const order = view.orders[node("curve").value];
  const values = read.get(map);
  if (!order || !values) return;
  const ranked = rankedBy(map, values, order === "least" ? 1 : -1);
  const count = Math.round(share * values.length);
  const gone = new Float32Array(values.length).fill(NaN);
  const replaced = order === "restored" ? ranked.slice(count) : ranked.slice(0, count);
  for (const at of replaced) gone[at] = 0.5;
  paint(node("state"), gone, map.shape, "diverging", 0, 1);
  node("state").hidden = false;
  node("map").hidden = true;
}

function rankedBy(map, values, sign) {
  const key = `${sign} ${image().maps.indexOf(map)} ${node("image").value}`;
  if (!ranks.has(key)) ranks.set(key, Array.from(values.keys()).sort((a, b) => sign * (values[a] - values[b]) || a - b));
  return ranks.get(key);
}

function clearState() {
  node("state").hidden = true;
  node("map").hidden = false;
}

// -- start

function look() {
  node("map").style.opacity = node("opacity").value;
  node("picture").classList.toggle("grey", node("grey").checked);
}

for (const field of ["image", ...FIELDS, "scale"])
  node(field).addEventListener("change", () => {
    offerAll();
    show().catch(broken);
  });
node("curve").addEventListener("change", showCurves);
for (const name of ["opacity", "grey"]) node(name).addEventListener("input", look);
new ResizeObserver(() => plot?.setSize({ width: node("plot").clientWidth, height: plot.height })).observe(node("plot"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && showCurves());

try {
  view = await readView();
  offer(node("image"), view.images.map((each, index) => [index, each.name]), asked.get("image"));
  offerAll(Object.fromEntries(FIELDS.map((field) => [field, asked.get(field) ?? ""])));
  const rest = view.of - view.images.length;
  node("left-out").hidden = rest <= 0;
  node("left-out").textContent = `Shown: the first ${view.images.length} of ${view.of} images; the others are in the files.`;
  look();
  await show();
} catch (error) {
  broken(error);
}
