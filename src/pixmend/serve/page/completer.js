// Every completion of the page. The settings in the page name the back end, whose `complete` takes an image, a mask and
// options as `POST /v1/completions` does, and answers as that does.

import * as pictures from './pictures.js';

const settings = JSON.parse(document.getElementById('settings').textContent);
export const backend = await import(settings.backend);

const ALIKE = 12;  // grey levels, root mean square over the hole, below which answers look the same

// image: { file, name }, with its bitmap if it may be larger than the back end takes; mask: a Mask, or { shape: { spec, seed } }.
// Resolves to { answers: [{ picture, loss, file, open }], box, sent, alike, uncertainty, confidence, unlike, warnings, ... }: pictures of
// box = [left, top, width, height] of the image, without answers that look like an earlier one; `file()` is an answer to download,
// `open()` one to go on from. Known pixels are those of the image.
export async function complete(image, mask, options, { limits, signal, onStart, onStep } = {}) {
  const isWhole = !image.bitmap || fits(image, limits);
  // A canvas multiplies colours by alpha, and does not give them back exactly.
  if (!isWhole && !isOpaque(image.bitmap)) throw new Error('This image is too large for its transparency to be kept exactly by a browser. Use pixmend complete.');
  const box = isWhole ? null : surroundings(mask, limits);
  const file = isWhole ? image.file : await pictures.part(image.bitmap, box).convertToBlob({ type: 'image/png' });
  const fields = mask.shape && !image.bitmap ? { mask_spec: mask.shape.spec } : { mask: await mask.toBlob(box ?? undefined) };
  const whole = image.bitmap && [0, 0, image.bitmap.width, image.bitmap.height];
  const onPreview = onStep && ((step) => onStep({ ...step, box: box ?? whole }));
  const reply = await named(image.name, () => backend.complete({ image: unnamed(file, box ? '.png' : image.name), ...fields, ...options }, { signal, onStart, onStep: onPreview }));
  const all = await Promise.all(reply.candidates.map((each) => pictures.bitmap(each.image)));
  const place = box ?? whole ?? [0, 0, all[0].width, all[0].height];
  const hole = image.bitmap ? mask.part(place, [0, 0, 0, 0]) : null;
  const shown = hole ? distinct(all, pictures.pixels(hole)) : [...all.keys()];
  const answers = shown.map((number) => answerOf(image, reply.candidates[number], all[number], isWhole ? null : { box, hole }));
  return {
    ...reply,
    answers,
    box: place,
    sent: isWhole ? null : { width: box[2], height: box[3] },
    alike: all.length - answers.length,
    uncertainty: pictures.heat(await pictures.bitmap(reply.uncertainty)),
    confidence: reply.unlike ? null : reply.confidence,  // it was measured on images like the training images
  };
}

function answerOf(image, candidate, picture, part) {
  const whole = () => {
    const { type, suffix, data } = candidate.file ?? { type: 'image/png', suffix: '.png', data: candidate.image };
    return { suffix, blob: new Blob([pictures.bytes(data)], { type }) };
  };
  const pasted = () => {
    const canvas = pictures.part(image.bitmap, [0, 0, image.bitmap.width, image.bitmap.height]);
    const patch = pictures.part(picture, [0, 0, picture.width, picture.height]);
    const context = patch.getContext('2d');
    context.globalCompositeOperation = 'destination-in';  // the hole alone
    context.drawImage(part.hole, 0, 0);
    canvas.getContext('2d').drawImage(patch, part.box[0], part.box[1]);
    return canvas;
  };
  return {
    picture,
    loss: candidate.loss,
    file: async () => (part ? { suffix: '.png', blob: await pasted().convertToBlob({ type: 'image/png' }) } : whole()),
    open: async () => (part ? { bitmap: pasted().transferToImageBitmap(), file: null } : { bitmap: picture, file: whole().blob }),
  };
}

// The size of a file that the back end takes; a canvas's PNG has at most 4 bytes a pixel.
const room = ({ pixels, body_bytes: bytes }) => Math.min(pixels, bytes / 5);
const sideOf = ({ pixels, side }) => side ?? Math.floor(2 * Math.sqrt(pixels));

function fits({ bitmap: { width, height }, file }, limits) {
  return file && file.size < .95 * limits.body_bytes && width * height <= limits.pixels && Math.max(width, height) <= sideOf(limits);
}

const isOpaque = (bitmap) => new Uint32Array(pictures.pixels(bitmap).buffer).every((word) => word >>> 24 === 255);

// A square twice as wide as the hole, as a model sees holes in training, within the image and what the back end takes.
function surroundings(mask, limits) {
  const [left, top, right, bottom] = mask.bounds;
  const [width, height] = [right - left, bottom - top];
  const side = Math.min(Math.max(256, 2 * Math.max(width, height)), Math.floor(Math.sqrt(room(limits))));
  if (Math.max(width, height) > .9 * side) {
    const most = Math.floor(.9 * side);
    throw new Error(`What is painted spans ${width} × ${height} pixels. In an image of this size, at most ${most} × ${most} can be completed at once. Paint less, complete it and go on from the answer, or use pixmend complete.`);
  }
  const start = (first, last, length) => Math.round(Math.max(0, Math.min((first + last - side) / 2, length - side)));
  return [start(left, right, mask.width), start(top, bottom, mask.height), Math.min(side, mask.width), Math.min(side, mask.height)];
}

function distinct(images, hole) {
  const count = hole.reduce((sum, _, i) => sum + (i % 4 === 3 && hole[i] ? 1 : 0), 0);
  const chosen = new Map();
  images.forEach((image, number) => {
    const data = pictures.pixels(image);
    const isNew = [...chosen.values()].every((other) => difference(data, other, hole, count) >= ALIKE);
    if (isNew) chosen.set(number, data);
  });
  return [...chosen.keys()];
}

function difference(one, other, hole, count) {
  let sum = 0;
  for (let i = 0; i < hole.length; i += 4) {
    if (hole[i + 3]) for (let band = 0; band < 4; band++) sum += (one[i + band] - other[i + band]) ** 2;
  }
  return Math.sqrt(sum / (3 * Math.max(1, count)));
}

// A form would escape a name's quotes: the back end gets none, and messages get the user's back.
const SENT = 'image';
const unnamed = (file, name) => new File([file], SENT + (/\.\w+$/.exec(name)?.[0] ?? '.png'), { type: file.type });

async function named(name, request) {
  try {
    return await request();
  } catch (error) {
    error.message = error.message.replace(new RegExp(`^${SENT}(\\.\\w+)?:`, 'i'), `${name}:`);
    throw error;
  }
}
