// Colours of maps: blue to red around zero, viridis, water; each from eleven colours of its table.
const TABLES = {
  diverging: "053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f",
  sequential: "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725",
  water: "d0e1f2 b7d4ea 94c4df 6aaed6 4a98c9 3a8ac2 2e7ebc 2070b4 1764ab 084a91 08306b",
};
const LEVELS = 256;

// 256 colours, red, green and blue each from 0 to 255.
export function table(name) {
  const ends = TABLES[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: LEVELS }, (_, level) => {
    const place = (level / (LEVELS - 1)) * (ends.length - 1);
    const left = Math.min(Math.floor(place), ends.length - 2);
    return ends[left].map((from, channel) => Math.round(from + (ends[left + 1][channel] - from) * (place - left)));
  });
}

// Values [rows x columns] as pixels of a canvas; what is not finite, or what hide says, stays clear.
export function paint(canvas, values, [rows, columns], name, low, high, hide = () => false) {
  canvas.width = columns;
  canvas.height = rows;
  const ink = canvas.getContext("2d");
  const image = ink.createImageData(columns, rows);
  const colours = table(name);
  for (let at = 0; at < values.length; at++) {
    if (!Number.isFinite(values[at]) || hide(values[at])) continue;
    const level = Math.round(((values[at] - low) / (high - low)) * (LEVELS - 1));
    const [red, green, blue] = colours[Math.min(LEVELS - 1, Math.max(0, level))];
    image.data.set([red, green, blue, 255], 4 * at);
  }
  ink.putImageData(image, 0, 0);
}

export function paintBar(canvas, name) {
  paint(canvas, Float32Array.from({ length: LEVELS }, (_, level) => level), [1, LEVELS], name, 0, LEVELS - 1);
}

// Values in colours, darkened by light from 0 to 1; without a scale grey by the light alone.
export function shaded(canvas, values, [rows, columns], light, scale) {
  if (scale) paint(canvas, values, [rows, columns], "sequential", ...scale);
  else paint(canvas, values.map((value) => (Number.isFinite(value) ? 0 : NaN)), [rows, columns], "water", 0, 1);
  const ink = canvas.getContext("2d");
  const image = ink.getImageData(0, 0, columns, rows);
  for (let at = 0; at < values.length; at++)
    for (let channel = 0; channel < 3; channel++) {
      const full = scale ? image.data[4 * at + channel] : 255;
      image.data[4 * at + channel] = full * (0.35 + 0.65 * Math.min(1, Math.max(0, light[at] * 1.2)));
    }
  ink.putImageData(image, 0, 0);
}
