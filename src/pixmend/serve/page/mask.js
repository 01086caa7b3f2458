// The hole: one byte a pixel, 1 = missing; with undo and redo.

const DEPTH = 60;

export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.pixels = new Uint8Array(width * height);
    this.past = [];
    this.future = [];
    this.spec = null;  // its mask shape, until something is painted
  }

  get count() { return this.pixels.reduce((sum, value) => sum + value, 0); }

  // Call before a change; everything until the next call is one step of undo.
  begin() {
    this.past.push({ pixels: this.pixels.slice(), spec: this.spec });
    if (this.past.length > DEPTH) this.past.shift();
    this.future = [];
    this.spec = null;
  }

  undo() { return this.#turn(this.past, this.future); }
  redo() { return this.#turn(this.future, this.past); }

  #turn(from, to) {
    const before = from.pop();
    if (!before) return false;
    to.push({ pixels: this.pixels, spec: this.spec });
    Object.assign(this, before);
    return true;
  }

  // Paints a line with a round brush; size is its diameter in pixels.
  stroke(x0, y0, x1, y1, size, value) {
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(x1 - x0, y1 - y0)));
    for (let i = 0; i <= steps; i++) this.#dab(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps, size / 2, value);
  }

  #dab(x, y, radius, value) {
    const centreX = Math.floor(x) + .5, centreY = Math.floor(y) + .5;
    if (radius <= .5) return this.#set(Math.floor(x), Math.floor(y), value);
    for (let row = Math.floor(y - radius); row <= y + radius; row++) {
      for (let column = Math.floor(x - radius); column <= x + radius; column++) {
        if ((column + .5 - centreX) ** 2 + (row + .5 - centreY) ** 2 <= radius * radius) this.#set(column, row, value);
      }
    }
  }

  #set(x, y, value) {
    if (x >= 0 && y >= 0 && x < this.width && y < this.height) this.pixels[y * this.width + x] = value;
  }

  rectangle(x0, y0, x1, y1, value) {
    const [left, right] = [Math.min(x0, x1), Math.max(x0, x1)].map(Math.floor);
    const [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)].map(Math.floor);
    for (let y = top; y <= bottom; y++) for (let x = left; x <= right; x++) this.#set(x, y, value);
  }

  // Fills a polygon by the even-odd rule at pixel centres.
  lasso(points, value) {
    for (let y = 0; y < this.height; y++) {
      const cuts = [];
      points.forEach(([x0, y0], i) => {
        const [x1, y1] = points[(i + 1) % points.length];
        if ((y0 <= y + .5) !== (y1 <= y + .5)) cuts.push(x0 + (y + .5 - y0) * (x1 - x0) / (y1 - y0));
      });
      cuts.sort((a, b) => a - b);
      for (let i = 0; i + 1 < cuts.length; i += 2) {
        for (let x = Math.ceil(cuts[i] - .5); x < cuts[i + 1] - .5; x++) this.#set(x, y, value);
      }
    }
  }

  // Takes the mask from an image of the same size: white (half and above) = missing.
  take(data, spec = null) {
    this.begin();
    for (let i = 0; i < this.pixels.length; i++) {
      this.pixels[i] = data[4 * i] + data[4 * i + 1] + data[4 * i + 2] >= 3 * 128 ? 1 : 0;
    }
    this.spec = spec;
  }

  clear() { this.begin(); this.pixels.fill(0); }

  // Opaque black and white, which a canvas encodes exactly.
  async toBlob() {
    const canvas = new OffscreenCanvas(this.width, this.height);
    const image = new ImageData(this.width, this.height);
    this.pixels.forEach((value, i) => image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * i));
    canvas.getContext('2d').putImageData(image, 0, 0);
    return canvas.convertToBlob({ type: 'image/png' });
  }
}
