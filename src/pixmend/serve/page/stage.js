// The canvas: shows image, hole, search and answers; pointers and keys paint, zoom and pan.

import { Mask } from './mask.js';

export class Stage extends EventTarget {
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.mask = new Mask(null);
    this.tool = 'brush';
    this.size = 6;
    this.live = null;        // the newest preview of the search, { picture, box } as the answer
    this.answer = null;      // { picture, box: [left, top, width, height], unsure }
    this.showUnsure = false;
    this.wipe = 0;           // share of the width that shows the original
    this.peek = false;
    this.scale = 1;
    this.offset = [0, 0];
    this.cursor = null;      // keyboard cursor, in image pixels
    this.pointers = new Map();
    this.space = false;
    this.draft = null;       // unfinished rectangle or lasso
    new ResizeObserver(() => this.#resized()).observe(canvas);
    this.#listen();
  }

  get image() { return this.mask.image?.bitmap ?? null; }
  get editing() { return this.image && !this.answer && !this.live; }

  // image: as of a Mask
  open(image) {
    this.mask = new Mask(image);
    this.live = this.answer = this.cursor = null;
    this.fit();
    this.changed();
  }

  fit() {
    if (!this.image) return;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const scale = Math.min((width - 24) / this.image.width, (height - 24) / this.image.height);
    this.scale = scale > 1 ? Math.floor(scale) : scale;  // whole factors when enlarging
    this.offset = [(width - this.image.width * this.scale) / 2, (height - this.image.height * this.scale) / 2];
    this.draw();
  }

  // Call after changing the mask; a stroke does at its end, as counting the pixels of a large image takes long.
  changed() {
    this.draw();
    this.dispatchEvent(new Event('change'));
  }

  edit() { this.live = this.answer = null; this.draw(); this.dispatchEvent(new Event('edit')); }

  undo() { if (this.mask.undo()) { this.edit(); this.changed(); } }
  redo() { if (this.mask.redo()) { this.edit(); this.changed(); } }

  draw() {
    const { canvas, context } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    const ratio = devicePixelRatio;
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.offset[0], ratio * this.offset[1]);
    context.imageSmoothingEnabled = this.scale < 1;
    context.drawImage(this.image, 0, 0);
    const shown = this.peek ? null : this.answer ?? this.live;
    if (shown) context.drawImage(shown.picture, ...shown.box);
    if (this.answer && !this.peek) this.#drawAnswer();
    else if (this.editing) context.drawImage(this.mask.picture(), 0, 0);
    this.#drawDraft();
  }

  #drawAnswer() {
    const { context, image, answer } = this;
    if (this.showUnsure) context.drawImage(answer.unsure, ...answer.box);
    if (!this.wipe) return;
    const width = image.width * this.wipe;
    context.drawImage(image, 0, 0, width, image.height, 0, 0, width, image.height);
    context.fillStyle = '#e2448c';
    context.fillRect(width - 1 / this.scale, 0, 2 / this.scale, image.height);
  }

  #drawDraft() {
    const { context } = this;
    context.lineWidth = 2 / this.scale;
    context.strokeStyle = '#e2448c';
    if (this.draft) {
      const points = this.draft.points;
      context.beginPath();
      if (this.tool === 'rectangle') {
        const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)].map((p) => p.map(Math.floor));
        context.rect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0) + 1, Math.abs(y1 - y0) + 1);
      } else points.forEach(([x, y]) => context.lineTo(x, y));
      context.stroke();
    }
    if (this.cursor && this.editing) {
      const [x, y] = this.cursor;
      context.strokeRect(x - this.size / 2 + .5, y - this.size / 2 + .5, this.size, this.size);
    }
  }

  #resized() {
    const { canvas } = this;
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    this.fit();
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left - this.offset[0]) / this.scale, (event.clientY - box.top - this.offset[1]) / this.scale];
  }

  zoom(factor, clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [clientX - box.left, clientY - box.top];
    const scale = Math.min(64, Math.max(.05, this.scale * factor));
    this.offset = [x - (x - this.offset[0]) * scale / this.scale, y - (y - this.offset[1]) * scale / this.scale];
    this.scale = scale;
    this.draw();
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener('pointerdown', (event) => this.#down(event));
    canvas.addEventListener('pointermove', (event) => this.#move(event));
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
    }, { passive: false });
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('keydown', (event) => this.#key(event));
    canvas.addEventListener('keyup', (event) => this.#keyUp(event));
    canvas.addEventListener('blur', () => { this.space = false; this.peek = false; this.cursor = null; this.draw(); });
  }

  #down(event) {
    if (!this.image) return;
    this.canvas.focus({ preventScroll: true });
    try { this.canvas.setPointerCapture(event.pointerId); } catch { /* a pointer that has gone */ }
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.pointers.size === 2) { this.#abandon(); return; }
    if (this.space || event.button === 1 || this.pointers.size > 1) return;
    if (!this.editing) { if (this.answer) this.edit(); return; }
    const at = this.#at(event);
    this.cursor = null;
    if (this.tool === 'colour') return this.#pick(at);
    this.mask.begin();
    this.draft = { points: [at], erase: this.tool === 'eraser' || event.button === 2 || event.buttons === 32 };
    this.#paint(at, at);
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const middle = this.#middle();
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.pointers.size === 2) return this.#pinch(middle);
    if (!this.draft) {
      if (!this.space && event.buttons !== 4 && !this.answer) return;
      this.offset = [this.offset[0] + event.clientX - before[0], this.offset[1] + event.clientY - before[1]];
      return this.draw();
    }
    const coalesced = event.getCoalescedEvents?.() ?? [];
    for (const each of coalesced.length ? coalesced : [event]) {
      const at = this.#at(each);
      this.#paint(this.draft.points.at(-1), at);
      this.draft.points.push(at);
    }
    this.draw();
  }

  #up(event) {
    if (!this.pointers.delete(event.pointerId) || !this.draft) return;
    this.#finish();
  }

  #finish() {
    const { points, erase } = this.draft;
    this.draft = null;
    const value = erase ? 0 : 1;
    if (this.tool === 'rectangle') this.mask.rectangle(...points[0], ...points.at(-1), value);
    if (this.tool === 'lasso') this.mask.lasso(points, value);
    this.changed();
  }

  #paint(from, to) {
    if (this.tool === 'brush' || this.tool === 'eraser') {
      this.mask.stroke(...from, ...to, this.size, this.draft.erase ? 0 : 1);
    }
    this.draw();
  }

  #pick(at) {
    const [x, y] = at.map(Math.floor);
    if (x < 0 || y < 0 || x >= this.image.width || y >= this.image.height) return;
    this.dispatchEvent(new CustomEvent('pick', { detail: [x, y] }));
  }

  // A second finger turns the first one's stroke into a pinch.
  #abandon() {
    if (!this.draft) return;
    this.draft = null;
    this.mask.undo();
    this.mask.future = [];
    this.changed();
  }

  #middle() {
    const [[x0, y0], [x1, y1]] = [...this.pointers.values(), ...this.pointers.values()];
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, span: Math.hypot(x1 - x0, y1 - y0) };
  }

  #pinch(before) {
    const now = this.#middle();
    this.offset = [this.offset[0] + now.x - before.x, this.offset[1] + now.y - before.y];
    this.zoom(now.span / Math.max(1, before.span), now.x, now.y);
  }

  #key(event) {
    if (event.code === 'Space') { this.space = true; event.preventDefault(); return; }
    if (event.key === 'Tab' && this.answer && !event.ctrlKey && !event.altKey) {
      event.preventDefault();
      if (!this.peek) { this.peek = true; this.pressed = performance.now(); this.draw(); }
      return;
    }
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.image || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) { event.preventDefault(); this.#steer(moves[event.key], event.shiftKey ? 8 : 1); }
    if (event.key === 'Enter') { event.preventDefault(); this.#press(); }
    if (event.key === 'Escape' && this.draft) { this.draft = null; this.mask.undo(); this.changed(); }
    const box = this.canvas.getBoundingClientRect();
    const zooms = { '+': 1.25, '=': 1.25, '-': .8 };
    if (event.key in zooms) this.zoom(zooms[event.key], box.left + box.width / 2, box.top + box.height / 2);
  }

  // A short press of Tab moves the focus as usual; holding it shows the original.
  #keyUp(event) {
    if (event.code === 'Space') this.space = false;
    if (event.key !== 'Tab' || !this.peek) return;
    this.peek = false;
    this.draw();
    if (performance.now() - this.pressed < 250) {
      const all = [...document.querySelectorAll('button, input, select, a, summary, canvas')].filter((each) => !each.disabled && each.offsetParent);
      all.at((all.indexOf(this.canvas) + (event.shiftKey ? -1 : 1)) % all.length).focus();
    }
  }

  #steer([dx, dy], far) {
    if (this.answer) this.edit();
    const { width, height } = this.image;
    const [x, y] = this.cursor ?? [Math.floor(width / 2), Math.floor(height / 2)];
    this.cursor = [Math.min(width - 1, Math.max(0, x + dx * far)), Math.min(height - 1, Math.max(0, y + dy * far))];
    if (this.draft) this.draft.points.push(this.cursor);
    this.draw();
  }

  // Enter paints a dab, and begins and ends a rectangle or lasso.
  #press() {
    if (!this.editing) return;
    this.cursor ??= [Math.floor(this.image.width / 2), Math.floor(this.image.height / 2)];
    if (this.tool === 'colour') return this.#pick(this.cursor);
    if (this.draft) { this.draft.points.push(this.cursor); return this.#finish(); }
    const middle = this.cursor.map((at) => at + .5);  // of its pixel
    this.mask.begin();
    this.draft = { points: [this.cursor], erase: this.tool === 'eraser' };
    this.#paint(middle, middle);
    if (this.tool === 'brush' || this.tool === 'eraser') this.draft = null;
    this.changed();
  }
}
