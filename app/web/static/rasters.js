// Rasters read by ranges, as coarse as the screen needs; hillshades; values at a place.
import { addressOf } from "./view.js";
import { shaded } from "./colours.js";

const LONGEST = 1024; // cells of the longer side; larger rasters are read from their overviews
const SUN = { azimuth: (315 * Math.PI) / 180, altitude: (45 * Math.PI) / 180 };
const read = new Map();

// {values, shape as read, full as stored}; what is not known is NaN.
export function raster(file) {
  if (!read.has(file)) read.set(file, load(file));
  return read.get(file);
}

async function load(file) {
  const tiff = await GeoTIFF.fromUrl(new URL(addressOf(file), location.href).href);
  const image = await tiff.getImage();
  const full = [image.getHeight(), image.getWidth()];
  const every = Math.max(1, Math.max(...full) / LONGEST);
  const [height, width] = full.map((side) => Math.max(1, Math.round(side / every)));
  const [values] = await tiff.readRasters({ width, height });
  const none = image.getGDALNoData();
  return { values: Float32Array.from(values, (value) => (value === none ? NaN : value)), shape: [height, width], full };
}

// Cell of a raster at a place of the ground, shares of its height and width; null outside.
export function cellAt({ shape, full }, cells, ground, [down, across]) {
  const at = [down, across].map((share, axis) => Math.floor(((share * ground[axis]) / cells / full[axis]) * shape[axis]));
  return at.every((place, axis) => place >= 0 && place < shape[axis]) ? at : null;
}

export function valueAt(source, cells, ground, place) {
  const at = cellAt(source, cells, ground, place);
  return at ? source.values[at[0] * source.shape[1] + at[1]] : NaN;
}

// Light from the north-west on heights, 0 to 1 (Horn's slopes are not needed at this size).
export function hillshade({ values, shape: [rows, columns] }, cell) {
  const at = (row, column) => values[Math.min(rows - 1, Math.max(0, row)) * columns + Math.min(columns - 1, Math.max(0, column))];
  const light = new Float32Array(values.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const east = slope(at(row, column - 1), at(row, column), at(row, column + 1), cell);
      const south = slope(at(row - 1, column), at(row, column), at(row + 1, column), cell);
      const steep = Math.atan(Math.hypot(east, south));
      const facing = Math.atan2(-east, south); // downhill, from north by east
      light[row * columns + column] = Math.sin(SUN.altitude) * Math.cos(steep) + Math.cos(SUN.altitude) * Math.sin(steep) * Math.cos(SUN.azimuth - facing);
    }
  return light;
}

// Rise a metre; beside a gap or an edge from one side alone.
function slope(before, here, after, cell) {
  const left = Number.isFinite(before) ? before : here;
  const right = Number.isFinite(after) ? after : here;
  return (right - left) / (2 * cell);
}

// Heights in colours that their own hillshade darkens; grey where there are no colours.
export function paintGround(canvas, source, cell, scale = null) {
  shaded(canvas, source.values, source.shape, hillshade(source, (cell * source.full[1]) / source.shape[1]), scale);
}

// Second less first on the cells of the finer one.
export function difference(first, second, ground) {
  const [fine] = [first, second].sort((a, b) => b.source.shape[1] / b.cells - a.source.shape[1] / a.cells);
  const { shape, full } = fine.source;
  const values = new Float32Array(shape[0] * shape[1]);
  for (let row = 0; row < shape[0]; row++)
    for (let column = 0; column < shape[1]; column++) {
      const place = [row + 0.5, column + 0.5].map((middle, axis) => ((middle / shape[axis]) * full[axis] * fine.cells) / ground[axis]);
      const [a, b] = [first, second].map((each) => valueAt(each.source, each.cells, ground, place));
      values[row * shape[1] + column] = b - a;
    }
  return { source: { values, shape, full }, cells: fine.cells };
}
