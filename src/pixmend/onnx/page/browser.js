// The back end of a page without a server: the model runs in this browser, in a worker.

import { shapeMask } from './shapes.js';
import * as png from './png.js';

const { model, files, limits } = JSON.parse(document.getElementById('settings').textContent);
const BUSY = 'The model could not be started. Copy the whole folder of this page, and load it again.';

export const waiting = 'Loading the model …';

export const models = async () => ({ models: [model], limits });
export const example = (_, number) => pictures.get(`example-${number}`);
export const samples = () => pictures.get('samples');
export const shape = (spec, width, height, seed) => png.encode(shapeMask(spec, width, height, seed), width, height, 1);

// Files lie beside the page, or in it as base64.
function source(name) {
  const inside = document.getElementById(`file-${name}`);
  return inside ? `data:application/octet-stream;base64,${inside.textContent}` : new URL(files[name].path, document.baseURI).href;
}

async function content(name) {
  const answer = await fetch(source(name));
  if (!answer.ok) throw new Error(`${files[name].path} is missing from this page's folder. Copy the whole folder.`);
  return new Blob([await answer.blob()], { type: 'image/png' });
}

// All are loaded at once: later there may be no network.
const pictures = new Map(Object.keys(files).filter((name) => /^(samples|example-)/.test(name)).map((name) => [name, content(name)]));
for (const picture of pictures.values()) picture.catch(() => {});

// The worker, which loads the model as soon as the page is open. A worker of a blob has the policy of the page, and of the old kind it
// runs in a page from a file, too.
const starting = `const begun = import(${JSON.stringify(import.meta.resolve('./worker.js'))});
onmessage = ({ data }) => begun.then(({ receive }) => receive(data), () => postMessage({ run: data.run, error: ${JSON.stringify(BUSY)} }));`;
const worker = new Worker(URL.createObjectURL(new Blob([starting], { type: 'text/javascript' })));
const waitingFor = new Map();
let runs = 0;
const ready = ask({
  runtime: import.meta.resolve('./ort.wasm.bundle.min.mjs'),
  threads: self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1,
  files: ['wasm', 'model', ...('bank' in files ? ['bank'] : [])].map((name) => ({ ...files[name], name, source: source(name) })),
});
export const started = ready.catch(() => {});  // it is said when a completion is asked for
worker.addEventListener('message', ({ data: { run, error, ...answer } }) => {
  const [resolve, reject] = waitingFor.get(run);
  waitingFor.delete(run);
  if (error) reject(new Error(error)); else resolve(answer);
});
function ask(message, transfer = []) {
  return new Promise((resolve, reject) => {
    waitingFor.set(runs, [resolve, reject]);
    worker.postMessage({ run: runs++, ...message }, transfer);
  });
}

// Answers as the HTTP back end does; `stop` ends nothing, since there are no steps.
export async function complete({ image, mask, mask_spec: spec, candidates, answer, seed }, { signal, onStart }) {
  const picture = await png.read(image, model.channels === 'RGBA');
  const { width, height, bands } = picture;
  if (Math.max(width, height) > limits.side) throw new Error(`${image.name}: ${width} × ${height} pixels, and this page takes up to ${limits.side} a side. Open it alone and paint a hole, or use pixmend complete.`);
  const hole = mask ? await holeOf(mask, width, height) : spec === 'alpha' ? transparent(picture) : shapeMask(spec, width, height, Number(seed) || 0);
  const missing = hole.reduce((sum, value) => sum + (value >= 128), 0);
  if (missing === hole.length) throw new Error(`${image.name}: the mask leaves no known pixel. Leave some of the image, for the answer to go by.`);
  await ready;
  signal?.throwIfAborted();
  onStart?.({ steps: 0, stop: async () => {} });
  const started = performance.now();
  const given = { width, height, bands, pixels: picture.pixels, hole, count: Number(candidates) || 1, average: answer === 'average' };
  const result = missing ? await ask(given) : { candidates: [picture.pixels], uncertainty: new Uint8Array(width * height), confidence: null };
  signal?.throwIfAborted();
  const images = await Promise.all(result.candidates.map((each) => png.encode(each, width, height, bands)));
  return {
    candidates: await Promise.all(images.map(async (each) => ({ image: await png.base64(each), loss: null, file: null }))),
    uncertainty: await png.base64(await png.encode(result.uncertainty, width, height, 1)),
    confidence: result.confidence, seconds: (performance.now() - started) / 1000,
    method: 'default', steps: 0, seed: Number(seed) || 0, stopped: null, unlike: false, warnings: missing ? [] : ['nothing is missing'],
  };
}

const transparent = ({ pixels, bands, width, height }) => Uint8Array.from({ length: width * height }, (_, i) => (bands === 4 && pixels[4 * i + 3] === 0 ? 255 : 0));

async function holeOf(mask, width, height) {
  const { pixels, bands, ...size } = await png.read(mask);
  if (size.width !== width || size.height !== height) throw new Error(`The mask is ${size.width} × ${size.height} and the image ${width} × ${height}. Give a mask of the image's size.`);
  return pixels.filter((_, i) => i % bands === 0);
}
