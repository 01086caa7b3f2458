// The page: connects its elements with the stage and the back end.

import { backend, complete } from './completer.js';
import { openMany } from './many.js';
import * as pictures from './pictures.js';
import { Stage } from './stage.js';

const $ = (id) => document.getElementById(id);
const stage = new Stage($('stage'));
const page = { models: [], limits: {}, model: null, search: null, result: null, chosen: 0, shapes: 0 };
const SHAPES = [['center:0.5', 'Centre'], ['half:left', 'Left half'], ['half:right', 'Right half'], ['half:top', 'Top half'], ['half:bottom', 'Bottom half'],
  ['random:0.8', 'Random'], ['grid', 'Grid'], ['lowres:4', 'Low resolution'], ['strokes:0.25', 'Strokes']];

// Messages lie on the stage, where the eye is.
function show(id, words) {
  $(id).textContent = words;
  $(id).parentElement.hidden = !words;
}

const fail = (error) => show('error', error?.message ?? String(error));
const say = (words) => { $('status').textContent = words; };
const guarded = (action) => async (...values) => {
  show('error', '');
  try { await action(...values); } catch (error) { fail(error); }
  // A button that was hidden or disabled by its own action must not take the focus with it.
  const focused = document.activeElement;
  if ((focused === document.body || focused.disabled) && stage.image) $('stage').focus({ preventScroll: true });
};

// Links: settings, example and mask shape

const FIELDS = ['method', 'steps', 'seconds', 'candidates', 'seed', 'answer', 'blend', 'view'];

function linkOf() {
  const parameters = new URLSearchParams({ model: page.model.id, effort: $('effort').value });
  for (const name of FIELDS) if ($(name).value !== '') parameters.set(name, $(name).value);
  const { image, shape } = stage.mask;
  if (image?.example != null) parameters.set('example', image.example);
  if (shape) parameters.set('mask', shape.spec);
  if (shape) parameters.set('mask_seed', shape.seed);
  return new URL(`#${parameters}`, location.href).href;
}

async function follow(parameters) {
  if (parameters.get('model')) choose(page.models.find((each) => each.id === parameters.get('model')) ?? page.model);
  if (parameters.get('effort')) { $('effort').value = parameters.get('effort'); showEffort(); }
  for (const name of FIELDS) if (parameters.get(name)) $(name).value = parameters.get(name);
  if (parameters.get('example')) await openExample(Number(parameters.get('example')));
  if (parameters.get('mask') && stage.image) await shape(parameters.get('mask'), Number(parameters.get('mask_seed') ?? $('seed').value));
}

// Models

async function start() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const { models, limits } = await backend.models();
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
  Object.assign($('effort'), { max: model.efforts.length - 1, value: model.inpainter ? middle : model.efforts.length - 2 });
  showEffort();
  $('knows').replaceChildren(Object.assign(document.createElement('strong'), { textContent: `${model.id}: ` }), knowledgeOf(model));
  $('examples-words').textContent = !model.examples ? '' : model.drawn_examples ? 'or try one that the model drew:' : 'or try one of these, which it was not trained on:';
  showExamples().catch(fail);
}

// What a model knows, in a sentence
function knowledgeOf({ card, size, channels }) {
  const colours = { L: 'grey', RGB: 'colour', RGBA: 'colour with transparency' }[channels];
  const title = card.title?.replace(`, ${size} px`, '') ?? (card.training_images ? `images like the ${card.training_images.toLocaleString()} it was trained on` : 'images');
  return `${title} (${colours}, ${size} × ${size} pixels)`;
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
    const button = picture(URL.createObjectURL(await backend.example(id, number)), '', `Example ${number + 1}`);
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
  $('samples').src = URL.createObjectURL(await backend.samples(page.model.id));
  $('about-title').textContent = page.model.id;
  $('about-knows').textContent = knowledgeOf(page.model);
  const { card: { title, ...card }, size, channels, inpainter } = page.model;
  const facts = { size: `${size} × ${size} pixels`, channels, inpainter, ...card };
  $('card').replaceChildren(...Object.entries(facts).filter(([, value]) => typeof value !== 'object').flatMap(([name, value]) => {
    const term = Object.assign(document.createElement('dt'), { textContent: name.replaceAll('_', ' ') });
    return [term, Object.assign(document.createElement('dd'), { textContent: value.toLocaleString() })];
  }));
  $('about').showModal();
}

// Images and masks

async function open(file, example = null) {
  const bitmap = await pictures.open(file);
  page.search?.abort();
  $('welcome').hidden = true;
  forget();
  stage.open({ bitmap, file, name: file.name, example });
  say('');
  $('stage').setAttribute('aria-label', `${file.name}, ${bitmap.width} by ${bitmap.height} pixels`);
  $('image-facts').textContent = `${file.name}, ${bitmap.width} × ${bitmap.height}`;
  const size = Math.max(1, Math.round(Math.min(bitmap.width, bitmap.height) / 10));
  $('size').max = Math.max(64, size * 4);
  resize(size);
  $('stage').focus({ preventScroll: true });
}

async function openExample(number) {
  const content = await backend.example(page.model.id, number);
  await open(new File([content], `example-${number + 1}.png`, { type: 'image/png' }), number);
}

// Answers go once the mask is another.
function forget() {
  page.result = null;
  $('result').hidden = $('search').hidden = $('compare').hidden = true;
  show('unlike', '');
}

function resize(size) {
  stage.size = Math.min(Number($('size').max), Math.max(1, size));
  $('size').value = stage.size;
  $('size-value').textContent = stage.size;
  stage.draw();
}

function opened() {
  if (!stage.image) throw new Error('Open an image first.');
  return stage.image;
}

async function shape(spec, seed) {
  const { width, height } = opened();
  if (width * height > page.limits.pixels) throw new Error('This image is too large for shapes, which cover all of it. Paint what is missing.');
  const mask = await createImageBitmap(await backend.shape(spec, width, height, seed));
  change((hole) => hole.load(pictures.pixels(mask), { spec, seed }));
}

async function loadMask(file) {
  const { width, height } = opened();
  const mask = await pictures.open(file);
  if (mask.width !== width || mask.height !== height) throw new Error(`${file.name} is ${mask.width} × ${mask.height} and the image ${width} × ${height}. Give a mask of the image's size.`);
  change((hole) => hole.load(pictures.pixels(mask)));
}

// Applies a tool to the mask.
function change(tool) {
  opened();
  tool(stage.mask);
  stage.edit();
  stage.changed();
}

// Applies a tool that adds to the mask; one that finds nothing is undone, and said.
function add(tool, nothing) {
  const before = stage.mask.count;
  change(tool);
  if (stage.mask.count > before) return;
  stage.undo();
  throw new Error(nothing);
}

const many = (files) => openMany(files, { settings, stage, limits: page.limits, shapes: SHAPES });
const reach = () => Math.max(1, Math.round(Math.min(stage.image.width, stage.image.height) / 128));  // of grow and shrink, in pixels

function showMask() {
  const { mask } = stage;
  const count = mask.count;
  $('undo').disabled = !mask.past.length;
  $('redo').disabled = !mask.future.length;
  $('mask-export').disabled = !count;
  $('go').disabled = !count || page.search !== null;
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

function check() {
  for (const name of ['candidates', 'steps', 'seconds', 'seed']) {
    if ($(name).checkValidity()) continue;
    $('more').open ||= $('more').contains($(name));
    $(name).focus();
    throw new Error(`${$(name).labels[0].textContent.trim()}: ${$(name).validationMessage}`);
  }
  if (stage.mask.count === stage.mask.pixels.length) throw new Error('All of the image is painted. Leave some of it, for the answer to go by.');
}

async function run() {
  check();
  const search = new AbortController();
  page.search = search;
  busy(true);
  say(backend.waiting ?? 'Waiting in the queue …');
  forget();
  $('strip').replaceChildren();
  const { mask } = stage;
  const losses = [];
  $('stop').onclick = null;
  try {
    const result = await complete(mask.image, mask, settings(), {
      limits: page.limits,
      signal: search.signal,
      onStart: ({ steps, stop }) => {
        page.steps = steps;
        say(steps ? 'Searching …' : 'Completing …');
        $('stop').onclick = guarded(async () => { say('Stopping …'); await stop(); });
      },
      onStep: (step) => showStep(step, losses),
    });
    if (page.search === search) showResult(result);
  } catch (error) {
    if (error.name === 'AbortError') return;
    stage.edit();
    say('');
    throw error;
  } finally {
    if (page.search === search) page.search = null;
    busy(page.search !== null);
  }
}

// The focus goes from Complete to Stop and back.
function busy(is) {
  const [shown, hidden] = is ? ['stop', 'go'] : ['go', 'stop'];
  const isFocused = document.activeElement === $(hidden);
  $(shown).hidden = false;
  $(hidden).hidden = true;
  $('progress').hidden = !is;
  $('progress').removeAttribute('value');
  showMask();
  if (isFocused) $(shown).focus({ preventScroll: true });
}

async function showStep(data, losses) {
  $('search').hidden = !page.steps;
  losses.push([data.step, data.loss]);
  say(`Step ${data.step.toLocaleString()}, loss ${data.loss?.toFixed(2)}`);
  if (page.steps) Object.assign($('progress'), { max: page.steps, value: Math.min(data.step, page.steps) });
  const least = Math.min(...losses.map(([, loss]) => loss));
  const [most, last] = [losses[0][1], data.step || 1];
  const points = losses.map(([step, loss]) => `${300 * step / last},${4 + 52 * (1 - (loss - least) / (most - least || 1))}`);
  $('curve').firstElementChild.setAttribute('points', points.join(' '));
  if (data.isSnapshot) $('strip').append(picture(pictures.url(data.image), `after ${data.step.toLocaleString()}`, `After ${data.step} steps`, 'figure'));
  const picture = await pictures.bitmap(data.image);
  if (!page.search) return;
  stage.live = { picture, box: data.box };
  stage.draw();
}

function showResult(result) {
  page.result = result;
  stage.live = null;
  const box = thumbnailBox(result.box);
  $('gallery').replaceChildren(...result.answers.map((each, number) => {
    // Without a search the loss is not what orders the answers.
    const score = result.steps && each.loss !== null ? each.loss.toFixed(2).replace(/^-(0\.00)$/, '$1') : '';
    const button = Object.assign(document.createElement('button'), { type: 'button' });
    button.setAttribute('aria-label', `Answer ${number + 1}${score && `, loss ${score}`}`);
    button.append(thumbnail(each.picture, box), `${number + 1}${score && `: ${score}`}`);
    button.addEventListener('click', () => pick(number));
    return button;
  }));
  show('unlike', warningOf(result));
  $('facts').textContent = factsOf(result);
  $('result').hidden = false;
  say(result.stopped === 'cancelled' ? 'Stopped; this is the best so far.' : result.stopped ? 'Time is up; this is the best so far.' : 'Done.');
  $('wipe').value = 100;
  stage.wipe = 0;
  pick(0);
  const narrow = matchMedia('(max-width: 60rem)').matches;
  $(narrow ? 'stage-area' : 'result').scrollIntoView({ block: 'nearest', behavior: 'smooth' });
}

// The square around the hole, in pixels of the answers
function thumbnailBox([offsetX, offsetY, width, height]) {
  const [left, top, right, bottom] = stage.mask.bounds;
  const side = Math.min(Math.ceil(1.25 * Math.max(right - left, bottom - top, 6)), Math.max(width, height));
  const start = (first, last, length) => Math.round(Math.max(0, Math.min((first + last - side) / 2, length - side)));
  return [start(left - offsetX, right - offsetX, width), start(top - offsetY, bottom - offsetY, height), side];
}

function thumbnail(picture, [left, top, side]) {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = Math.min(side, 160);
  canvas.getContext('2d').drawImage(picture, left, top, side, side, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function warningOf({ unlike, warnings }) {
  const inWords = (each) => `${each[0].toUpperCase()}${each.slice(1)}.`.replace('view = window', 'under More settings, the View “a window around each hole”');
  const others = warnings.filter((each) => !each.startsWith('unlike ')).map(inWords);
  const unlikeText = `This image is unlike the training images of the model “${page.model.id}”, so take the answer for a guess. A model trained on such images would do better.`;
  return [...(unlike ? [unlikeText] : []), ...others].join(' ');
}

function factsOf({ alike, confidence, method, sent, steps, seconds, seed, unlike }) {
  const sure = confidence === null ? '' : `About ${Math.round(100 * confidence)} % of the missing pixels should be correct. `;
  const guess = unlike ? 'A guess: the model knows no such images. ' : '';
  const more = alike ? `${alike === 1 ? 'One more answer looks' : `${alike} more answers look`} the same. ` : '';
  const part = sent ? `Of this large image, ${sent.width} × ${sent.height} pixels around the hole were sent. ` : '';
  const search = steps ? ` ${steps.toLocaleString()} steps,` : '';
  const order = `The best answer comes first${steps ? '; a lower loss fits the known pixels better' : ''}.`;
  return `${sure}${guess}${more}${part}${order} Method ${method},${search} ${seconds.toFixed(2)} s, seed ${seed}.`;
}

function pick(number) {
  const { answers, box, uncertainty } = page.result;
  page.chosen = number;
  stage.answer = { picture: answers[number].picture, box, unsure: uncertainty };
  [...$('gallery').children].forEach((each, at) => each.setAttribute('aria-pressed', at === number));
  $('compare').hidden = false;
  stage.draw();
}

const chosen = () => page.result.answers[page.chosen];
const stem = () => stage.mask.image.name.replace(/\.[^.]*$/, '');

async function download() {
  const { blob, suffix } = await chosen().file();
  pictures.save(blob, `${stem()}-completed${suffix}`);
}

// Goes on from the chosen answer; undo goes back to the image before.
async function use() {
  const { name } = stage.mask.image;
  const image = { ...await chosen().open(), name, example: null };
  change((hole) => hole.replaceImage(image));
  $('stage').focus({ preventScroll: true });
  say('Paint what to change next. Undo goes back.');
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
picked('mask-file', ([file]) => loadMask(file));
on('mask-export', 'click', async () => pictures.save(await stage.mask.toBlob(), `${stem()}-mask.png`));
on('mask-grow', 'click', () => change((hole) => hole.grow(reach())));
on('mask-shrink', 'click', () => change((hole) => hole.shrink(reach())));
on('mask-invert', 'click', () => change((hole) => hole.invert()));
on('mask-alpha', 'click', () => add((hole) => hole.addTransparent(pictures.pixels(opened())), 'No pixel of this image is fully transparent.'));
stage.addEventListener('pick', guarded(({ detail: [x, y] }) => {
  const data = pictures.pixels(stage.image);
  const at = 4 * (y * stage.image.width + x);
  add((hole) => hole.addColour(data, data.slice(at, at + 3), Number($('tolerance').value)), 'All pixels of that colour are painted already.');
}));
on('many-open', 'click', () => many([]));
$('shapes').replaceChildren(...SHAPES.map(([spec, name]) => {
  const button = Object.assign(document.createElement('button'), { type: 'button', textContent: name, title: spec });
  // Random and Strokes are drawn anew each time.
  button.addEventListener('click', guarded(() => shape(spec, Number($('seed').value) + page.shapes++)));
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
on('clear', 'click', () => change((hole) => hole.clear()));
on('fit', 'click', () => stage.fit());
on('edit', 'click', () => stage.edit());
on('use', 'click', use);
on('wipe', 'input', ({ target }) => { stage.wipe = 1 - Number(target.value) / 100; stage.draw(); });
on('overlay', 'change', ({ target }) => { stage.showUnsure = target.checked; stage.draw(); });
on('effort', 'input', showEffort);
on('go', 'click', run);
on('download', 'click', download);
on('link', 'click', async () => {
  const link = linkOf();
  try { await navigator.clipboard.writeText(link); say('The link is copied.'); } catch { location.hash = new URL(link).hash; say('The link is in the address bar.'); }
});
for (const close of document.querySelectorAll('.message button')) close.addEventListener('click', () => { close.parentElement.hidden = true; $('stage').focus({ preventScroll: true }); });
stage.addEventListener('change', () => {
  if (page.result) { forget(); say(''); }
  if (page.search) { page.search.abort(); say('The mask has changed; complete again.'); }
  showMask();
});
stage.addEventListener('edit', () => { $('compare').hidden = true; });

document.addEventListener('keydown', (event) => {
  const typing = event.target.matches('input:not([type=range]):not([type=checkbox]), select, textarea') || document.querySelector('dialog[open]');
  if (typing) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === 'z') { event.preventDefault(); if (event.shiftKey) stage.redo(); else stage.undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const letters = { b: 'brush', e: 'eraser', r: 'rectangle', l: 'lasso', c: 'colour' };
  if (key in letters) take(letters[key]);
  if (key === '[') resize(stage.size - Math.max(1, Math.round(stage.size / 8)));
  if (key === ']') resize(stage.size + Math.max(1, Math.round(stage.size / 8)));
  if (key === '0') stage.fit();
});

const images = (items) => [...items].filter(({ type }) => type.startsWith('image/'));
const openFiles = guarded(async (files) => {
  if (files.length > 1) many(files);
  else if (files.length) await open(files[0]);
  else throw new Error('That is not an image. Drop a PNG, JPEG, WebP, BMP or GIF file.');
});
const frame = $('stage-frame');
for (const name of ['dragenter', 'dragover']) document.addEventListener(name, (event) => { event.preventDefault(); frame.classList.add('dropping'); });
document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) frame.classList.remove('dropping'); });
document.addEventListener('drop', (event) => { event.preventDefault(); frame.classList.remove('dropping'); guarded(async (data) => openFiles(images(await pictures.dropped(data))))(event.dataTransfer); });
document.addEventListener('paste', (event) => { if (event.clipboardData.files.length) openFiles(images(event.clipboardData.files)); });

guarded(start)();
