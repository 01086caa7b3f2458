// Loads the model and completes, one image at a time; messages are those of browser.js.

let session = null;
let ort = null;
let last = Promise.resolve();

export function receive(data) {
  last = last.then(async () => {
    try {
      const [answer, transfer] = await (data.files ? load(data) : complete(data));
      self.postMessage({ run: data.run, ...answer }, transfer);
    } catch (error) {
      self.postMessage({ run: data.run, error: error.message ?? String(error) });
    }
  });
}

async function load({ runtime, threads, files }) {
  if (!WebAssembly.validate(SIMD)) throw new Error('This browser has no WebAssembly with SIMD. Open the page with a current one.');
  const { wasm, model, bank } = Object.fromEntries(await Promise.all(files.map(async (file) => [file.name, await inflate(file)])));
  ort = await import(runtime);
  Object.assign(ort.env.wasm, { wasmBinary: wasm.buffer, numThreads: threads });
  const externalData = bank ? [{ path: 'bank', data: bank }] : [];
  session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'], externalData, logSeverityLevel: 4 });
  // The first runs are slow: the engine compiles what is called often.
  await complete({ width: 2, height: 2, bands: 4, pixels: new Uint8Array(16), hole: Uint8Array.of(255, 0, 0, 0), count: 1, average: false });
  return [{ loaded: true }];
}

// Decompresses a file of known size, into memory taken once. Gzip has a checksum.
async function inflate({ path, source, bytes }) {
  const damaged = new Error(`${path} is missing or damaged. Copy the page's whole folder again.`);
  const content = new Uint8Array(bytes);
  let end = 0;
  try {
    const answer = await fetch(source);
    if (!answer.ok) throw damaged;
    const body = answer.body;
    const stream = /\.wasm$/.test(path) && !source.startsWith('data:') ? body : body.pipeThrough(new DecompressionStream('gzip'));
    for (let reader = stream.getReader(), { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
      content.set(value, end);
      end += value.length;
    }
  } catch { throw damaged; }
  if (end !== bytes) throw damaged;
  return content;
}

async function complete({ width, height, bands, pixels, hole, count, average }) {
  const result = await session.run({
    image: new ort.Tensor('uint8', pixels, [1, height, width, bands]),
    mask: new ort.Tensor('uint8', hole, [1, height, width]),
    count: new ort.Tensor('int64', BigInt64Array.of(BigInt(count)), [1]),
    average: new ort.Tensor('bool', [average], [1]),
  });
  const length = width * height * bands;
  const candidates = Array.from({ length: count }, (_, number) => result.candidates.data.slice(number * length, (number + 1) * length));
  const uncertainty = Uint8Array.from(result.uncertainty.data, (value) => Math.min(255, Math.round(2 * value)));
  const [confidence] = result.confidence.data;
  return [{ candidates, uncertainty, confidence: Number.isNaN(confidence) ? null : confidence }, candidates.map(({ buffer }) => buffer)];
}

// (module (func (result v128) (v128.const i32x4 0 0 0 0)))
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 22, 1, 20, 0, 253, 12, ...Array(16).fill(0), 11);
