// The mask shapes, as src/pixmend/masks.py draws them; random ones with draws of their own.

import { Mask } from './mask.js';

// Returns bytes, 255 = missing.
export function shapeMask(spec, width, height, seed) {
  const [shape, option] = spec.split(':');
  if (!(shape in SHAPES)) throw new Error(`There is no mask shape ${spec} here. Paint the hole, or load a mask.`);
  const hole = new Uint8Array(width * height);
  const isMissing = SHAPES[shape](width, height, option, random(seed));
  for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) if (isMissing(x, y)) hole[i] = 255;
  return hole;
}

const SHAPES = {
  center(width, height, share = .5) {
    const [columns, rows] = [width, height].map((side) => Math.max(1, roundEven(side * share)));
    const [left, top] = [Math.floor((width - columns) / 2), Math.floor((height - rows) / 2)];
    return (x, y) => x >= left && x < left + columns && y >= top && y < top + rows;
  },
  half(width, height, side = 'left') {
    const [columns, rows] = [width >> 1, height >> 1];
    return { left: (x) => x < columns, right: (x) => x >= width - columns, top: (x, y) => y < rows, bottom: (x, y) => y >= height - rows }[side];
  },
  random(width, height, share = .8, draw) {
    const order = Uint32Array.from({ length: width * height }, (_, i) => i);
    const missing = roundEven(order.length * share);
    for (let i = 0; i < missing; i++) {
      const other = i + Math.floor(draw() * (order.length - i));
      [order[i], order[other]] = [order[other], order[i]];
    }
    const chosen = new Set(order.subarray(0, missing));
    return (x, y) => chosen.has(y * width + x);
  },
  grid(width, height) {
    const cell = Math.max(1, Math.min(width, height) >> 3);
    const isOdd = (at) => Math.floor(at / cell) % 2 === 1;
    return (x, y) => isOdd(x) && isOdd(y);
  },
  lowres(width, height, factor = 4) {
    const isKept = (at) => at >= factor >> 1 && (at - (factor >> 1)) % factor === 0;
    return (x, y) => !(isKept(x) && isKept(y));
  },
  strokes(width, height, share = .25, draw) {
    const mask = new Mask({ bitmap: { width, height } });
    const scale = Math.min(width, height);
    const within = (low, high) => low + draw() * (high - low);
    while (mask.count < share * width * height) {
      let [x, y, angle] = [within(0, width), within(0, height), within(0, 2 * Math.PI)];
      const size = Math.max(1.2, within(.04, .1) * scale);
      for (let left = Math.floor(within(4, 10)); left > 0 && mask.count < share * width * height; left--) {
        angle += within(-.8, .8);
        const length = within(.06, .16) * scale;
        const [endX, endY] = [x + length * Math.cos(angle), y + length * Math.sin(angle)];
        mask.stroke(x, y, endX, endY, size, 1);
        [x, y] = [endX, endY];
      }
    }
    return (x, y) => mask.pixels[y * width + x] === 1;
  },
};

// As in Python: halves to even numbers
function roundEven(value) {
  const low = Math.floor(value);
  return value - low === .5 ? low + low % 2 : Math.round(value);
}

// Mulberry32: numbers in [0, 1)
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
