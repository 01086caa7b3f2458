// The page: connects its elements with the stage and the API.

import * as api from './api.js';
import { openMany } from './many.js';
import * as pictures from './pictures.js';
import { Stage } from './stage.js';

const $ = (id) => document.getElementById(id);
const stage = new Stage($('stage'));
const page = { models: [], limits: {}, model: null, file: null, example: null, search: null, answer: null, chosen: 0 };
const SHAPES = [['center:0.5', 'Centre'], ['half:left', 'Left half'], ['half:right', 'Right half'], ['half:top', 'Top half'], ['half:bottom', 'Bottom half'],
  ['random:0.8', 'Random'], ['grid', 'Grid'], ['lowres:4', 'Low resolution'], ['strokes:0.25', 'Strokes']];

const fail = (error) => { $('error').textContent = error?.message ?? String(error); };
const say = (words) => { $('status').textContent = words; };
const guarded = (action) => async (...values) => { $('error').textContent = ''; try { await action(...values); } catch (error) { fail(error); } };

// Links: settings, example and mask shape

const FIELDS = ['method', 'steps', 'seconds', 'candidates', 'seed', 'answer', 'blend', 'view'];

function linkOf() {
  const parameters = new URLSearchParams({ model: page.model.id, effort: $('effort').value });
  for (const name of FIELDS) if ($(name).value !== '') parameters.set(name, $(name).value);
  if (page.example !== null) parameters.set('example', page.example);
  if (stage.mask.spec) parameters.set('mask', stage.mask.spec);
  return new URL(`#${parameters}`, location.href).href;
}

async function follow(parameters) {
  if (parameters.get('model')) choose(page.models.find((each) => each.id === parameters.get('model')) ?? page.model);
  if (parameters.get('effort')) { $('effort').value = parameters.get('effort'); showEffort(); }
  for (const name of FIELDS) if (parameters.get(name)) $(name).value = parameters.get(name);
  if (parameters.get('example')) await openExample(Number(parameters.get('example')));
  if (parameters.get('mask') && page.file) await shape(parameters.get('mask'));
}

// Models

async function start() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const { models, limits } = await api.json('v1/models');
  Object.assign(page, { models, limits });
  $('model').replaceChildren(...models.map((each) => new Option(each.id, each.id)));
  $('candidates').max = limits.candidates;
  $('steps').max = limits.steps;
  $('seconds').max = limits.seconds;
  choose(models[0]);
  await follow(parameters);
}

function choose(model) {
  page.model = model;
  $('model').value = model.id;
  $('method').replaceChildren(new Option('set by the effort', ''), ...model.methods.map((name) => new Option(name, name)));
  const middle = Math.min(1, model.efforts.length - 1);
  Object.assign($('effort'), { max: model.efforts.length - 1, value: model.encoder === 'off' ? model.efforts.length - 2 : middle });
  showEffort();
  showExamples().catch(fail);
}

function showEffort() {
  const { label, words } = page.model.efforts[Number($('effort').value)];
  $('effort-name').textContent = label;
  $('effort-words').textContent = words;
  $('effort').setAttribute('aria-valuetext', label);
}

async function showExamples() {
  const { id, examples } = page.model;
  const buttons = await Promise.all(Array.from({ length: examples }, async (_, number) => {
    const button = picture(URL.createObjectURL(await api.blob(`v1/models/${id}/examples/${number}`)), '', `Example ${number + 1}`);
    button.addEventListener('click', guarded(() => openExample(number)));
    return button;
  }));
  if (page.model.id === id) $('examples').replaceChildren(...buttons);
}

function picture(source, caption, label, kind = 'button') {
  const element = document.createElement(kind);
  const image = new Image();
  image.src = source;
  image.alt = kind === 'button' ? '' : label;
  element.append(image, caption);
  if (kind === 'button') { element.type = 'button'; element.setAttribute('aria-label', label); }
  return element;
}

async function showModel() {
  $('samples').src = URL.createObjectURL(await api.blob(`v1/models/${page.model.id}/samples`));
  $('about-title').textContent = page.model.id;
  const { card, size, channels, encoder } = page.model;
  const facts = { size: `${size} × ${size} pixels`, channels, encoder, ...card };
  $('card').replaceChildren(...Object.entries(facts).filter(([, value]) => typeof value !== 'object').flatMap(([name, value]) => {
    const term = Object.assign(document.createElement('dt'), { textContent: name.replaceAll('_', ' ') });
    return [term, Object.assign(document.createElement('dd'), { textContent: value })];
  }));
  $('about').showModal();
}

// Images and masks

async function open(file, example = null) {
  if (file.size > page.limits.body_bytes) throw new Error(`${file.name} is larger than this server takes (${Math.round(page.limits.body_bytes / 2 ** 20)} MiB). Scale it down first.`);
  const bitmap = await pictures.open(file);
  if (bitmap.width * bitmap.height > page.limits.pixels) throw new Error(`${file.name} has more than ${(page.limits.pixels / 1e6).toLocaleString()} million pixels. Scale it down first.`);
  page.search?.abort();
  Object.assign(page, { file, example });
  page.answer = null;
  $('welcome').hidden = true;
  $('result').hidden = $('search').hidden = $('compare').hidden = true;
  stage.open(bitmap);
  say('');
  $('stage').setAttribute('aria-label', `${file.name}, ${bitmap.width} by ${bitmap.height} pixels`);
  $('image-facts').textContent = `${file.name}, ${bitmap.width} × ${bitmap.height}`;
  const size = Math.max(1, Math.round(Math.min(bitmap.width, bitmap.height) / 10));
  $('size').max = Math.max(64, size * 4);
  resize(size);
  $('stage').focus({ preventScroll: true });
}

async function openExample(number) {
  const content = await api.blob(`v1/models/${page.model.id}/examples/${number}`);
  await open(new File([content], `example-${number + 1}.png`, { type: 'image/png' }), number);
}

function resize(size) {
  stage.size = Math.min(Number($('size').max), Math.max(1, size));
  $('size').value = stage.size;
  $('size-value').textContent = stage.size;
  stage.draw();
}

async function shape(spec) {
  if (!page.file) throw new Error('Open an image first.');
  const { width, height } = stage.image;
  const seed = $('seed').value || 0;
  const mask = await createImageBitmap(await api.blob(`v1/masks/${encodeURIComponent(spec)}?width=${width}&height=${height}&seed=${seed}`));
  stage.mask.take(pictures.pixels(mask), spec);
  stage.edit();
  stage.changed();
}

async function importMask(file) {
  if (!page.file) throw new Error('Open an image first, then its mask.');
  const mask = await pictures.open(file);
  const { width, height } = stage.image;
  if (mask.width !== width || mask.height !== height) throw new Error(`The mask is ${mask.width} × ${mask.height} and the image ${width} × ${height}. Give a mask of the image's size.`);
  stage.mask.take(pictures.pixels(mask));
  stage.edit();
  stage.changed();
}

function maskChanged() {
  const { mask } = stage;
  const count = mask.count;
  $('undo').disabled = !mask.past.length;
  $('redo').disabled = !mask.future.length;
  $('mask-export').disabled = !count;
  $('go').disabled = !page.file || !count || page.search !== null;
  const share = count / Math.max(1, mask.pixels.length);
  $('mask-facts').textContent = count ? `${count.toLocaleString()} pixels missing (${(100 * share).toFixed(share < .1 ? 1 : 0)} %).` : 'Nothing is painted yet.';
}

// Completing

function settings() {
  const effort = page.model.efforts[Number($('effort').value)];
  const method = $('method').value || effort.method;
  const seconds = $('seconds').value || ($('method').value ? '' : effort.seconds);
  return {
    model: page.model.id, method, seconds, steps: $('steps').value, candidates: $('candidates').value, seed: $('seed').value,
    answer: $('answer').value, blend: $('blend').value, view: $('view').value,
  };
}

async function complete() {
  const stop = new AbortController();
  page.search = stop;
  busy(true);
  say('Waiting in the queue …');
  $('result').hidden = $('search').hidden = true;
  $('strip').replaceChildren();
  const losses = [];
  let id = null;
  $('stop').onclick = guarded(async () => { say('Stopping …'); if (id) await api.cancel(id); });
  try {
    let outcome = null;
    const onEvent = (name, data) => {
      if (name === 'accepted') { id = data.id; page.steps = data.steps; say(data.steps ? 'Searching …' : 'Completing …'); }
      if (name === 'step' || name === 'snapshot') showStep(name, data, losses);
      if (name === 'done' || name === 'error') outcome = [name, data];
    };
    await api.watch({ image: page.file, mask: await stage.mask.toBlob(), ...settings() }, onEvent, stop.signal);
    if (!outcome) throw new Error('The connection was lost. Try again.');
    if (outcome[0] === 'error') throw new Error(outcome[1].detail);
    await showAnswer(outcome[1]);
  } catch (error) {
    if (error.name === 'AbortError') return;
    stage.edit();
    say('');
    throw error;
  } finally {
    if (page.search === stop) page.search = null;
    busy(page.search !== null);
  }
}

function busy(is) {
  $('go').hidden = is;
  $('stop').hidden = $('progress').hidden = !is;
  $('progress').removeAttribute('value');
  maskChanged();
}

async function showStep(name, data, losses) {
  $('search').hidden = !page.steps;
  losses.push([data.step, data.loss]);
  say(`Step ${data.step.toLocaleString()}, loss ${data.loss?.toFixed(2)}`);
  if (page.steps) Object.assign($('progress'), { max: page.steps, value: Math.min(data.step, page.steps) });
  const least = Math.min(...losses.map(([, loss]) => loss));
  const [most, last] = [losses[0][1], data.step || 1];
  const points = losses.map(([step, loss]) => `${300 * step / last},${4 + 52 * (1 - (loss - least) / (most - least || 1))}`);
  $('curve').firstElementChild.setAttribute('points', points.join(' '));
  if (name === 'snapshot') $('strip').append(picture(pictures.url(data.image), `after ${data.step.toLocaleString()}`, `After ${data.step} steps`, 'figure'));
  const image = await pictures.bitmap(data.image);
  if (!page.search) return;
  stage.live = image;
  stage.draw();
}

async function showAnswer(answer) {
  page.answer = answer;
  stage.live = null;
  const images = await Promise.all(answer.candidates.map(({ image }) => pictures.bitmap(image)));
  stage.unsure = pictures.heat(await pictures.bitmap(answer.uncertainty));
  $('gallery').replaceChildren(...answer.candidates.map((each, number) => {
    const score = each.loss === null ? '' : each.loss.toFixed(2);
    const button = picture(pictures.url(each.image), `${number + 1}: ${score}`, `Answer ${number + 1}, loss ${score}`);
    button.addEventListener('click', () => pick(images, number));
    return button;
  }));
  $('unlike').hidden = !answer.unlike && !answer.warnings.length;
  $('unlike').textContent = warningOf(answer);
  $('facts').textContent = factsOf(answer);
  $('result').hidden = $('compare').hidden = false;
  say(answer.stopped === 'cancelled' ? 'Stopped; this is the best so far.' : answer.stopped ? 'Time is up; this is the best so far.' : 'Done.');
  pick(images, 0);
  const narrow = matchMedia('(max-width: 60rem)').matches;
  $(narrow ? 'stage-area' : 'result').scrollIntoView({ block: 'nearest', behavior: 'smooth' });
}

function warningOf({ unlike, warnings }) {
  const others = warnings.filter((each) => !each.startsWith('unlike ')).map((each) => `${each[0].toUpperCase()}${each.slice(1)}.`);
  const unlikeText = `This image is unlike the training images of the model “${page.model.id}”, so take the answer for a guess. A model trained on such images would do better.`;
  return [...(unlike ? [unlikeText] : []), ...others].join(' ');
}

function factsOf({ confidence, method, steps, seconds, seed }) {
  const sure = confidence === null ? '' : `About ${Math.round(100 * confidence)} % of the missing pixels should be correct. `;
  return `${sure}Method ${method}, ${steps.toLocaleString()} steps, ${seconds.toFixed(2)} s, seed ${seed}. The best answer comes first; a lower loss fits the known pixels better.`;
}

function pick(images, number) {
  page.chosen = number;
  stage.answer = images[number];
  [...$('gallery').children].forEach((each, at) => each.setAttribute('aria-pressed', at === number));
  $('compare').hidden = false;
  stage.draw();
}

function download() {
  const { image, file } = page.answer.candidates[page.chosen];
  const stem = page.file.name.replace(/\.[^.]*$/, '');
  const content = new Blob([pictures.bytes(file?.data ?? image)], { type: file?.type ?? 'image/png' });
  pictures.save(content, `${stem}-completed${file?.suffix ?? '.png'}`);
}

// What the visitor does

const on = (id, event, action) => $(id).addEventListener(event, guarded(action));
const picked = (id, action) => on(id, 'change', async ({ target }) => { const files = [...target.files]; target.value = ''; if (files.length) await action(files); });

on('model', 'change', ({ target }) => choose(page.models.find(({ id }) => id === target.value)));
on('about-model', 'click', showModel);
on('theme', 'click', () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
  document.documentElement.dataset.theme = dark === 'dark' ? 'light' : 'dark';
});
for (const id of ['open', 'open-first']) on(id, 'click', () => $('file').click());
picked('file', ([file]) => open(file));
on('mask-import', 'click', () => $('mask-file').click());
picked('mask-file', ([file]) => importMask(file));
on('mask-export', 'click', async () => pictures.save(await stage.mask.toBlob(), `${page.file.name.replace(/\.[^.]*$/, '')}-mask.png`));
on('many-open', 'click', () => openMany([], { settings, stage, limits: page.limits }));
$('shapes').replaceChildren(...SHAPES.map(([spec, name]) => {
  const button = Object.assign(document.createElement('button'), { type: 'button', textContent: name, title: spec });
  button.addEventListener('click', guarded(() => shape(spec)));
  return button;
}));
const tools = [...document.querySelectorAll('[data-tool]')];
function take(tool) {
  stage.tool = tool;
  tools.forEach((each) => each.setAttribute('aria-pressed', each.dataset.tool === tool));
}
tools.forEach((each) => each.addEventListener('click', () => take(each.dataset.tool)));
on('size', 'input', ({ target }) => resize(Number(target.value)));
on('undo', 'click', () => stage.undo());
on('redo', 'click', () => stage.redo());
on('clear', 'click', () => { stage.mask.clear(); stage.edit(); stage.changed(); });
on('fit', 'click', () => stage.fit());
on('edit', 'click', () => stage.edit());
on('wipe', 'input', ({ target }) => { stage.wipe = Number(target.value) / 100; stage.draw(); });
on('overlay', 'change', ({ target }) => { stage.showUnsure = target.checked; stage.draw(); });
on('effort', 'input', showEffort);
on('go', 'click', complete);
on('download', 'click', download);
on('link', 'click', async () => {
  const link = linkOf();
  try { await navigator.clipboard.writeText(link); say('The link is copied.'); } catch { location.hash = new URL(link).hash; say('The link is in the address bar.'); }
});
stage.addEventListener('change', maskChanged);
stage.addEventListener('edit', () => { $('compare').hidden = true; });

document.addEventListener('keydown', (event) => {
  const typing = event.target.matches('input:not([type=range]):not([type=checkbox]), select, textarea') || document.querySelector('dialog[open]');
  if (typing) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === 'z') { event.preventDefault(); if (event.shiftKey) stage.redo(); else stage.undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const letters = { b: 'brush', e: 'eraser', r: 'rectangle', l: 'lasso' };
  if (key in letters) take(letters[key]);
  if (key === '[') resize(stage.size - Math.max(1, Math.round(stage.size / 8)));
  if (key === ']') resize(stage.size + Math.max(1, Math.round(stage.size / 8)));
  if (key === '0') stage.fit();
});

const images = (items) => [...items].filter(({ type }) => type.startsWith('image/'));
const openFiles = guarded(async (files) => {
  if (files.length > 1) openMany(files, { settings, stage, limits: page.limits });
  else if (files.length) await open(files[0]);
  else throw new Error('That is not an image. Drop a PNG, JPEG, WebP, BMP or GIF file.');
});
const frame = $('stage-frame');
for (const name of ['dragenter', 'dragover']) document.addEventListener(name, (event) => { event.preventDefault(); frame.classList.add('dropping'); });
document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) frame.classList.remove('dropping'); });
document.addEventListener('drop', (event) => { event.preventDefault(); frame.classList.remove('dropping'); openFiles(images(event.dataTransfer.files)); });
document.addEventListener('paste', (event) => { if (event.clipboardData.files.length) openFiles(images(event.clipboardData.files)); });

guarded(start)();
