// Complete many: one mask, a folder's files, a zip.

import { complete } from './completer.js';
import * as pictures from './pictures.js';
import { zip } from './zip.js';

const $ = (id) => document.getElementById(id);
const CONCURRENCY = 4;
let context = null;
let stop = null;

// Asks for the mask if nothing is painted; given files wait for the answer.
export function openMany(files, settings) {
  context = { ...settings, waiting: files };
  const { mask } = settings.stage;
  const painted = `as painted, for images of ${mask.width} × ${mask.height}`;
  const first = mask.count ? new Option(mask.shape ? `the current mask, ${mask.shape.spec}` : painted, 'current') : new Option('choose …', '');
  $('many-mask').replaceChildren(first, ...settings.shapes.map(([spec, name]) => new Option(name, spec)), new Option('the transparent pixels of each', 'alpha'));
  reset();
  $('many').showModal();
  begin();
}

function begin() {
  const isOpen = $('many-mask').value !== '';
  $('many-files').disabled = $('many-folder').disabled = !isOpen;
  const { waiting } = context;
  if (isOpen && waiting.length) { context.waiting = []; run(waiting); }
  else if (!isOpen) $('many-status').textContent = `Choose what is missing${waiting.length ? ` in these ${waiting.length} images` : ''} first.`;
  else reset();
}

function reset() {
  stop?.abort();
  $('many-status').textContent = '';
  $('many-failed').replaceChildren();
  $('many-progress').hidden = $('many-zip').hidden = true;
}

async function run(files) {
  reset();
  stop = new AbortController();
  const { signal } = stop;
  const { stage } = context;
  const spec = $('many-mask').value;
  const mask = spec === 'current' ? stage.mask : { shape: { spec } };
  const options = { ...context.settings(), candidates: 1 };
  const images = files.filter(({ type }) => type.startsWith('image/'));
  const done = [];
  const names = new Set();
  let failed = 0;
  Object.assign($('many-progress'), { max: Math.max(1, images.length), value: 0, hidden: false });
  const queue = [...images];
  const work = async () => {
    for (let file = queue.shift(); file && !signal.aborted; file = queue.shift()) {
      try {
        const { answers: [best] } = await retry(() => complete({ file, name: file.name }, mask, options, { signal }), signal);
        const { blob, suffix } = await best.file();
        done.push([nameFor(file, suffix, names), new Uint8Array(await blob.arrayBuffer())]);
      } catch (error) {
        if (error.name === 'AbortError') return;
        failed += 1;
        $('many-failed').append(Object.assign(document.createElement('li'), { textContent: error.message.startsWith(`${file.name}:`) ? error.message : `${file.name}: ${error.message}` }));
      }
      $('many-progress').value = done.length + failed;
      $('many-status').textContent = `${done.length} of ${images.length} completed${failed ? `, ${failed} not` : ''}`;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  if (signal.aborted) return;
  if (!images.length) $('many-status').textContent = 'There are no images among these files.';
  $('many-zip').hidden = !done.length;
  done.sort(([one], [other]) => (one < other ? -1 : 1));
  $('many-zip').onclick = () => pictures.save(zip(done), 'completed.zip');
}

// Retries while the server is busy, as long as it asks to wait.
async function retry(request, signal) {
  for (let tries = 0; ; tries++) {
    try {
      return await request();
    } catch (error) {
      if (error.status !== 503 || tries >= 20 || signal.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.after || 1)));
    }
  }
}

function nameFor(file, suffix, names) {
  const stem = (file.webkitRelativePath || file.name).replace(/\.[^./]*$/, '').split('/').filter((part) => part && part !== '..').join('/');
  let name = stem + suffix;
  for (let number = 2; names.has(name); number++) name = `${stem}-${number}${suffix}`;
  names.add(name);
  return name;
}

for (const [button, input] of [['many-files', 'many-input'], ['many-folder', 'many-directory']]) {
  $(button).addEventListener('click', () => $(input).click());
  $(input).addEventListener('change', ({ target }) => { const files = [...target.files]; target.value = ''; if (files.length) run(files); });
}
$('many-mask').addEventListener('change', begin);
$('many').addEventListener('close', () => stop?.abort());
