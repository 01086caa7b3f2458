// The laws of the mask's tools; evaluates to those that are broken.
async () => {
  const { Mask } = await import('/page/mask.js');
  let seed = 1;
  const random = () => (seed = seed * 16807 % 2147483647) / 2147483647;
  const make = (width = 37, height = 23, share = .2) => {
    const mask = new Mask({ bitmap: { width, height } });
    mask.pixels = mask.pixels.map(() => (random() < share ? 1 : 0));
    return mask;
  };
  const same = (one, other) => one.every((value, i) => value === other[i]);
  const broken = [];
  const check = (law, holds) => { if (!holds) broken.push(law); };
  const rgba = (mask) => Uint8Array.from({ length: 4 * mask.pixels.length }, (_, i) => (i % 4 === 3 ? 255 * mask.pixels[i >> 2] : i % 256));
  const tools = {
    clear: (mask) => mask.clear(), invert: (mask) => mask.invert(), grow: (mask) => mask.grow(2), shrink: (mask) => mask.shrink(1),
    colour: (mask) => mask.addColour(rgba(mask), [8, 9, 10], 3), transparent: (mask) => mask.addTransparent(rgba(mask)),
    load: (mask) => mask.load(rgba(mask)), stroke: (mask) => { mask.begin(); mask.stroke(3, 4, 20, 9, 5, 1); },
    rectangle: (mask) => { mask.begin(); mask.rectangle(2, 2, 9, 5, 1); }, lasso: (mask) => { mask.begin(); mask.lasso([[1, 1], [30, 3], [9, 20]], 1); },
    replaceImage: (mask) => mask.replaceImage({ bitmap: { width: 37, height: 23 } }),
  };
  for (const [name, tool] of Object.entries(tools)) {
    const mask = make();
    const [before, image] = [mask.pixels.slice(), mask.image];
    tool(mask);
    const after = mask.pixels.slice();
    check(`${name} changes something`, !same(before, after) || image !== mask.image);
    mask.undo();
    check(`undo of ${name}`, same(mask.pixels, before) && mask.image === image);
    mask.redo();
    check(`redo of ${name}`, same(mask.pixels, after));
  }
  const mask = make();
  const given = mask.pixels.slice();
  mask.invert(); mask.invert();
  check('invert twice', same(mask.pixels, given));
  mask.invert(); mask.shrink(2); mask.invert();
  const outside = mask.pixels.slice();
  mask.load(rgba({ pixels: [] }));
  const other = make(); other.pixels = given.slice(); other.grow(2);
  check('shrink is grow of the rest', same(outside, other.pixels));
  check('grow reaches two pixels to all sides', given.every((value, i) => {
    const [x, y] = [i % 37, Math.floor(i / 37)];
    let near = 0;
    for (let v = Math.max(0, y - 2); v <= Math.min(22, y + 2); v++) for (let u = Math.max(0, x - 2); u <= Math.min(36, x + 2); u++) near |= given[v * 37 + u];
    return other.pixels[i] === near;
  }));
  // Of a stroke, each pixel has a neighbour to two sides at least: nothing sticks out.
  for (let round = 0; round < 60; round++) {
    const painted = make(80, 60, 0);
    const size = 3 + round % 12;
    const points = Array.from({ length: 4 }, () => [15 + 50 * random(), 15 + 30 * random()]);
    painted.begin();
    points.slice(1).forEach((point, i) => painted.stroke(...points[i], ...point, size, 1));
    const at = (x, y) => painted.pixels[y * 80 + x];
    painted.pixels.forEach((value, i) => {
      const [x, y] = [i % 80, Math.floor(i / 80)];
      if (value && at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1) < 2) check(`no spike at size ${size}`, false);
    });
  }
  const { count, bounds: [left, top, right, bottom] } = mask;
  check('count', count === mask.pixels.reduce((sum, value) => sum + value, 0));
  const [box] = [make(40, 30, 0)];
  box.begin(); box.rectangle(5, 6, 10, 8, 1);
  check('bounds', String(box.bounds) === '5,6,11,9' && box.count === 18);
  return [...new Set(broken)];
}
