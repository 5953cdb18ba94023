// Members of an ensemble: how often they agree, what their confidence is worth, where they differ.
import { colour, short } from "./charts.js";
import { table } from "./colours.js";
import { drawTile, readTiles } from "./tiles.js";
import { asked, broken, chart, keep, offer, readView, row } from "./view.js";

const node = (id) => document.getElementById(id);
const LIGHT = 0.55; // share of the scale from which letters are dark
let view;
let plot = null;
let counts = null;

const everyone = () => [...view.members, view.together];
const style = (index) => (index === view.members.length ? { stroke: colour(1), width: 3 } : { stroke: colour(0), width: 1.2, dash: [[], [6, 4], [2, 3]][index % 3] });

// -- figures

const NAMES = { accuracy: "accuracy", nll: "log loss (nats)", brier: "Brier score", ece: "calibration error" };

function showFigures() {
  const names = Object.keys(view.figures[0]);
  const head = node("figures").tHead.rows[0];
  head.replaceChildren(...["member", ...names.map((name) => NAMES[name] ?? name)].map((text, n) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = n ? "right" : "";
    cell.textContent = text;
    return cell;
  }));
  const rows = everyone().map((member, n) => row([[member], ...names.map((name) => [short(view.figures[n][name]), true])], n === view.members.length));
  node("figures").tBodies[0].replaceChildren(...rows);
  const best = Math.max(...view.figures.slice(0, -1).map((each) => each.accuracy));
  const gain = 100 * (view.figures.at(-1).accuracy - best);
  node("gain").textContent = `On ${view.images} test images the ensemble is ${Number(Math.abs(gain).toFixed(1))} points ${gain < 0 ? "below" : "above"} its best member.`;
}

// -- agreement

function showMatrix() {
  const { title, unit, values } = view.matrices[Number(node("matrix-choice").value)];
  const off = values.flatMap((line, i) => line.filter((_, j) => i !== j));
  const [low, high] = [Math.min(0, ...off), Math.max(...off) || 1];
  const colours = table("sequential");
  const head = document.createElement("tr");
  head.append(...["member", ...view.members].map((text) => Object.assign(document.createElement("th"), { textContent: text, scope: "col" })));
  const rows = values.map((line, i) => {
    const made = document.createElement("tr");
    made.append(Object.assign(document.createElement("th"), { textContent: view.members[i], scope: "row" }));
    line.forEach((value, j) => {
      const cell = made.insertCell();
      cell.textContent = i === j ? "–" : short(value);
      if (i === j) return;
      const level = (value - low) / (high - low);
      cell.style.backgroundColor = `rgb(${colours[Math.round(255 * level)].join(" ")})`;
      cell.style.color = level > LIGHT ? "#000" : "#fff";
    });
    return made;
  });
  node("matrix").tHead.replaceChildren(head);
  node("matrix").tBodies[0].replaceChildren(...rows);
  node("matrix-unit").textContent = `${title}: ${unit}`;
  keep({ matrix: node("matrix-choice").value });
}

// -- calibration

function showCalibration() {
  const lines = everyone().map((label, n) => ({ label, points: { show: true, size: 6 }, ...style(n) }));
  const ideal = { label: "calibrated", stroke: getComputedStyle(document.documentElement).getPropertyValue("--muted").trim(), width: 1, dash: [4, 4], points: { show: false } };
  const columns = view.calibration.map((each) => [each.confidence, each.accuracy]);
  const share = { range: () => [0, 1.02] };
  plot?.destroy();
  plot = chart(node("calibration-plot"), "confidence", "accuracy", [ideal, ...lines], uPlot.join([[[0, 1], [0, 1]], ...columns]), { scales: { x: { time: false, range: [0, 1] }, y: share } });
  counts?.destroy();
  const { confidence, counts: amounts } = view.calibration.at(-1);
  const bars = { label: `images, ${view.together}`, stroke: colour(1), fill: `${colour(1)}80`, paths: uPlot.paths.bars({ size: [0.6, 60] }), points: { show: false } };
  counts = chart(node("counts-plot"), "confidence", "share", [bars], [confidence, amounts.map((each) => each / view.images)], { height: 150, scales: { x: { time: false, range: [0, 1] } } });
  const words = everyone().map((name, n) => `${name} ${short(view.figures[n].ece)}`);
  node("calibration-plot").setAttribute("aria-label", `Accuracy against confidence; calibration errors: ${words.join(", ")}`);
}

// -- images that members differ on

async function showDisputed() {
  const { file, offset, shape, rows } = view.disputed;
  const tiles = await readTiles(file, offset, rows.length, shape);
  node("disputed").replaceChildren(...rows.map((each, n) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    canvas.className = "large";
    canvas.setAttribute("aria-hidden", "true");
    drawTile(canvas, tiles[n]);
    const list = document.createElement("table");
    list.className = "dense";
    const body = list.createTBody();
    body.append(...each.votes.map(([name, sure], k) => row([[everyone()[k]], [name === each.class ? `${name} ✓` : name], [short(sure), true]], k === view.members.length)));
    const words = Object.assign(document.createElement("figcaption"), { className: "small", textContent: `test image ${each.index}: ${each.class}` });
    figure.append(canvas, words, list);
    return figure;
  }));
}

node("matrix-choice").addEventListener("change", showMatrix);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && showCalibration());
new ResizeObserver(() => {
  plot?.setSize({ width: node("calibration-plot").clientWidth, height: plot.height });
  counts?.setSize({ width: node("counts-plot").clientWidth, height: counts.height });
}).observe(node("calibration-plot"));

try {
  view = await readView();
  showFigures();
  offer(node("matrix-choice"), view.matrices.map((each, n) => [n, each.title]), asked.get("matrix"));
  node("agreement").hidden = view.members.length < 2;
  showMatrix();
  showCalibration();
  await showDisputed();
} catch (error) {
  broken(error);
}
