// Images that a generator made: a sheet of samples, and the ways between two of them.
import { short } from "./charts.js";
import { drawTile, readTiles, Sheet } from "./tiles.js";
import { broken, keep, asked, offer, readView } from "./view.js";

const COLUMNS = 16;
const PACE_MS = 90;
const node = (id) => document.getElementById(id);
let view;
let beside = null; // nearest training images
let timer = null;

const read = (offset, count) => readTiles(view.file, offset, count, view.shape);

const samples = new Sheet(node("samples"), (at) => {
  drawTile(node("sample"), samples.tiles[at]);
  node("sample-name").textContent = `sample ${at + 1} of ${view.grid.count}`;
  if (!beside) return;
  drawTile(node("beside"), beside[at]);
  node("beside-name").textContent = `${view.grid.beside_title}, ${short(view.grid.distances[at])} away in pixel values`;
});

async function showSamples() {
  const { grid } = view;
  node("samples-title").textContent = grid.title;
  if (grid.beside) beside = await read(grid.beside, grid.count);
  node("beside-figure").hidden = !beside;
  samples.show(await read(grid.offset, grid.count), Math.min(COLUMNS, grid.count));
}

const strip = () => view.strips[Number(node("way").value)];

const ways = new Sheet(node("strips"), (at) => {
  const { steps } = strip();
  drawTile(node("step-image"), ways.tiles[at]);
  node("step").max = steps - 1;
  node("step").value = at % steps;
  node("step-name").textContent = `pair ${Math.floor(at / steps) + 1}, step ${(at % steps) + 1} of ${steps}`;
});

async function showStrips() {
  const { offset, pairs, steps, title } = strip();
  ways.show(await read(offset, pairs * steps), steps);
  node("strips").setAttribute("aria-label", `Images between two samples, ${title}; a row a pair; arrow keys move along it`);
  keep({ way: node("way").value });
}

function stop() {
  clearInterval(timer);
  timer = null;
  node("play").textContent = "Play";
  node("play").setAttribute("aria-pressed", "false");
}

// Along the chosen row, forth and back.
function play() {
  let step = 1;
  node("play").textContent = "Pause";
  node("play").setAttribute("aria-pressed", "true");
  timer = setInterval(() => {
    const { steps } = strip();
    const place = ways.at % steps;
    if (place + step < 0 || place + step >= steps) step = -step;
    ways.choose(ways.at + step);
  }, PACE_MS);
}

node("play").addEventListener("click", () => (timer ? stop() : play()));
node("step").addEventListener("input", () => {
  stop();
  ways.choose(ways.at - (ways.at % strip().steps) + Number(node("step").value));
});
node("way").addEventListener("change", () => showStrips().catch(broken));

try {
  view = await readView();
  await showSamples();
  node("between").hidden = !view.strips.length;
  if (view.strips.length) {
    offer(node("way"), view.strips.map((each, n) => [n, each.title]), asked.get("way"));
    await showStrips();
  }
} catch (error) {
  broken(error);
}
