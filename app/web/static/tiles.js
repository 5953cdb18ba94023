// Small images of a file, uint8 one after the other: drawn in rows, one of them chosen.
import { arrows, readBytes } from "./view.js";

const GAP = 1;

// Count images [height, width, channels] of a file as ImageData, from an offset in bytes on.
export async function readTiles(file, offset, count, [height, width, channels]) {
  const size = height * width * channels;
  const bytes = await readBytes(file, offset, count * size);
  return Array.from({ length: count }, (_, n) => {
    const made = new ImageData(width, height);
    for (let at = 0; at < height * width; at++) {
      const from = n * size + at * channels;
      const colour = channels < 3 ? [bytes[from], bytes[from], bytes[from]] : bytes.subarray(from, from + 3);
      made.data.set(colour, 4 * at);
      made.data[4 * at + 3] = 255;
    }
    return made;
  });
}

export function drawTile(canvas, tile) {
  canvas.width = tile.width;
  canvas.height = tile.height;
  canvas.getContext("2d").putImageData(tile, 0, 0);
}

// A sheet of tiles in a stage; chosen is told the number of the one under a click or the arrow keys.
export class Sheet {
  constructor(stage, chosen) {
    this.stage = stage;
    this.canvas = stage.querySelector("canvas");
    this.spot = stage.querySelector(".frame");
    this.chosen = chosen;
    this.at = 0;
    stage.addEventListener("click", (event) => {
      const box = this.canvas.getBoundingClientRect();
      const place = (from, length, count) => Math.min(count - 1, Math.max(0, Math.floor((from / length) * count)));
      const row = place(event.clientY - box.top, box.height, this.rows);
      this.choose(row * this.columns + place(event.clientX - box.left, box.width, this.columns));
    });
    arrows(stage, ([down, across]) => this.choose(this.at + down * this.columns + across));
  }

  show(tiles, columns) {
    this.tiles = tiles;
    this.columns = columns;
    this.rows = Math.ceil(tiles.length / columns);
    const { width, height } = tiles[0];
    this.canvas.width = columns * (width + GAP) - GAP;
    this.canvas.height = this.rows * (height + GAP) - GAP;
    const ink = this.canvas.getContext("2d");
    tiles.forEach((tile, n) => ink.putImageData(tile, (n % columns) * (width + GAP), Math.floor(n / columns) * (height + GAP)));
    this.choose(Math.min(this.at, tiles.length - 1));
  }

  choose(at) {
    if (at < 0 || at >= this.tiles.length) return;
    this.at = at;
    const share = (count, place) => `${(100 * place) / count}%`;
    Object.assign(this.spot.style, {
      left: share(this.columns, at % this.columns),
      top: share(this.rows, Math.floor(at / this.columns)),
      width: share(this.columns, 1),
      height: share(this.rows, 1),
    });
    this.chosen(at);
  }
}
