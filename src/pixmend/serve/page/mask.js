// The hole: one byte a pixel, 1 = missing. Every tool is one step of undo.

const PAINT = [226, 68, 140, 165];
const DEPTH = 60, MEMORY = 2 ** 28;  // steps and bytes of undo

export class Mask {
  // image: { bitmap, file, name, example }; its bitmap has the size of the mask
  constructor(image) {
    const { width, height } = image?.bitmap ?? { width: 0, height: 0 };
    Object.assign(this, { image, width, height, pixels: new Uint8Array(width * height), past: [], future: [] });
    this.shape = null;  // the mask shape { spec, seed } that it is, until something is painted
    this.canvas = width ? new OffscreenCanvas(width, height) : null;
    this.#touch(0, 0, width, height);
  }

  // Call before a change; everything until the next call is one step of undo.
  begin() {
    this.past.push(this.#state());
    if (this.past.length > Math.min(DEPTH, Math.max(1, MEMORY / this.pixels.length))) this.past.shift();
    this.future = [];
    this.pixels = this.pixels.slice();
    this.shape = null;
  }

  undo() { return this.#turn(this.past, this.future); }
  redo() { return this.#turn(this.future, this.past); }

  #state() { return { pixels: this.pixels, shape: this.shape, image: this.image }; }

  #turn(from, to) {
    const before = from.pop();
    if (!before) return false;
    to.push(this.#state());
    Object.assign(this, before);
    this.#touch(0, 0, this.width, this.height);
    return true;
  }

  // Strokes and outlines

  // Paints a line with round ends; size is its width in pixels.
  stroke(x0, y0, x1, y1, size, value) {
    // On pixel centres for odd sizes and corners for even ones: elsewhere a disc has tips of one pixel.
    [x0, y0, x1, y1] = [x0, y0, x1, y1].map((at) => (size % 2 ? Math.floor(at) + .5 : Math.round(at)));
    const [dx, dy, radius] = [x1 - x0, y1 - y0, size / 2];
    const length = dx * dx + dy * dy;
    this.#each(Math.min(x0, x1) - radius, Math.min(y0, y1) - radius, Math.max(x0, x1) + radius, Math.max(y0, y1) + radius, (x, y) => {
      const [gapX, gapY] = [x + .5 - x0, y + .5 - y0];
      const share = length ? Math.min(1, Math.max(0, (gapX * dx + gapY * dy) / length)) : 0;
      return (gapX - share * dx) ** 2 + (gapY - share * dy) ** 2 < radius * radius;
    }, value);
  }

  rectangle(x0, y0, x1, y1, value) {
    this.#each(Math.min(x0, x1), Math.min(y0, y1), Math.floor(Math.max(x0, x1)) + 1, Math.floor(Math.max(y0, y1)) + 1, () => true, value);
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
      for (let i = 0; i + 1 < cuts.length; i += 2) this.#each(Math.ceil(cuts[i] - .5), y, Math.ceil(cuts[i + 1] - .5), y + 1, () => true, value);
    }
  }

  // The whole mask

  clear() { this.#change((pixels) => pixels.fill(0)); }
  invert() { this.#change((pixels) => pixels.map((value) => 1 - value)); }
  grow(radius) { this.#change((pixels) => spread(pixels, this.width, this.height, radius, 1)); }
  shrink(radius) { this.#change((pixels) => spread(pixels, this.width, this.height, radius, 0)); }

  // Adds the pixels of an RGBA image of the same size that are within a tolerance of a colour.
  addColour(data, [red, green, blue], tolerance) {
    const near = (value, level) => Math.abs(value - level) <= tolerance;
    this.#add((i) => near(data[i], red) && near(data[i + 1], green) && near(data[i + 2], blue));
  }

  addTransparent(data) { this.#add((i) => data[i + 3] === 0); }

  // Takes an RGBA image of the same size: white (half and above) = missing.
  load(data, shape = null) {
    this.#change((pixels) => pixels.map((_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2] >= 3 * 128 ? 1 : 0)));
    this.shape = shape;
  }

  // Goes on from another image of the same size, with nothing missing.
  replaceImage(image) { this.clear(); this.image = image; }

  #add(isMissing) { this.#change((pixels) => pixels.map((value, i) => (value || isMissing(4 * i) ? 1 : 0))); }

  #change(tool) {
    this.begin();
    this.pixels = tool(this.pixels);
    this.#touch(0, 0, this.width, this.height);
  }

  #each(left, top, right, bottom, isInside, value) {
    [left, top] = [left, top].map((at) => Math.max(0, Math.floor(at)));
    [right, bottom] = [Math.min(this.width, Math.ceil(right)), Math.min(this.height, Math.ceil(bottom))];
    for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) if (isInside(x, y)) this.pixels[y * this.width + x] = value;
    if (left < right && top < bottom) this.#touch(left, top, right, bottom);
  }

  #touch(left, top, right, bottom) {
    const [l, t, r, b] = this.dirty ?? [left, top, right, bottom];
    this.dirty = [Math.min(l, left), Math.min(t, top), Math.max(r, right), Math.max(b, bottom)];
    this.known = null;
  }

  // What others see

  get count() { return this.#measures().count; }

  // [left, top, right, bottom] of the hole, empty without one
  get bounds() { return this.#measures().bounds; }

  #measures() {
    if (this.known) return this.known;
    let [count, left, top, right, bottom] = [0, this.width, this.height, 0, 0];
    for (let y = 0, i = 0; y < this.height; y++) {
      for (let x = 0; x < this.width; x++, i++) {
        if (!this.pixels[i]) continue;
        count++;
        if (x < left) left = x;
        if (x >= right) right = x + 1;
        if (y < top) top = y;
        bottom = y + 1;
      }
    }
    return this.known = { count, bounds: [left, top, right, bottom] };
  }

  // A canvas of the hole in colour; only what has changed is painted again.
  picture() {
    if (this.dirty && this.canvas) {
      const [left, top, right, bottom] = this.dirty;
      this.canvas.getContext('2d').putImageData(this.#image(this.dirty, PAINT, [0, 0, 0, 0]), left, top, 0, 0, right - left, bottom - top);
      this.dirty = null;
    }
    return this.canvas;
  }

  // A canvas of a part of the mask: opaque white and black, or white and transparent.
  part([left, top, width, height], outside = [0, 0, 0, 255]) {
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext('2d').putImageData(this.#image([left, top, left + width, top + height], [255, 255, 255, 255], outside), 0, 0);
    return canvas;
  }

  #image([left, top, right, bottom], hole, known) {
    const image = new ImageData(right - left, bottom - top);
    const words = new Uint32Array(image.data.buffer);
    const [inside, outside] = new Uint32Array(Uint8Array.of(...hole, ...known).buffer);
    for (let y = top, i = 0; y < bottom; y++) for (let x = left; x < right; x++) words[i++] = this.pixels[y * this.width + x] ? inside : outside;
    return image;
  }

  toBlob(box = [0, 0, this.width, this.height]) { return this.part(box).convertToBlob({ type: 'image/png' }); }
}

// Spreads a value by radius pixels to all sides, along rows, then along columns.
function spread(pixels, width, height, radius, value) {
  const along = (source, lines, stride, length, step) => {
    const result = source.slice();
    for (let line = 0; line < lines; line++) {
      for (const way of [1, -1]) {
        let left = 0;
        for (let i = way > 0 ? 0 : length - 1; i >= 0 && i < length; i += way) {
          const at = line * stride + i * step;
          left = source[at] === value ? radius + 1 : left - 1;
          if (left > 0) result[at] = value;
        }
      }
    }
    return result;
  };
  return along(along(pixels, height, width, width, 1), width, 1, height, width);
}
