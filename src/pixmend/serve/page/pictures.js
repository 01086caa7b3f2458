// Conversions between files, base64 and canvas images.

export function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

export const url = (base64) => `data:image/png;base64,${base64}`;
export const bitmap = (base64) => createImageBitmap(new Blob([bytes(base64)], { type: 'image/png' }));

export async function open(file, name = file.name) {
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Error(`${name || 'That'} is not an image this browser can show. Convert it to PNG or JPEG first.`);
  }
}

// The files of a drop, and of the folders in it
export async function dropped({ items, files }) {
  const entries = [...items].map((each) => each.webkitGetAsEntry?.()).filter(Boolean);
  return entries.some(({ isDirectory }) => isDirectory) ? (await Promise.all(entries.map(filesOf))).flat() : [...files];
}

async function filesOf(entry) {
  const ask = (object, method) => new Promise((resolve, reject) => object[method](resolve, reject));
  if (entry.isFile) return [Object.defineProperty(await ask(entry, 'file'), 'webkitRelativePath', { value: entry.fullPath.slice(1) })];
  const reader = entry.createReader();
  const entries = [];
  for (let more = await ask(reader, 'readEntries'); more.length; more = await ask(reader, 'readEntries')) entries.push(...more);
  return (await Promise.all(entries.map(filesOf))).flat();
}

// A canvas of a part of an image
export function part(image, [left, top, width, height]) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext('2d').drawImage(image, -left, -top);
  return canvas;
}

// RGBA bytes of an image
export function pixels(image) {
  const context = part(image, [0, 0, image.width, image.height]).getContext('2d');
  return context.getImageData(0, 0, image.width, image.height).data;
}

// Uncertainty as a heat map: transparent where certain, yellow to red where not.
export function heat(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const colours = new ImageData(image.width, image.height);
  const grey = pixels(image);
  for (let i = 0; i < grey.length; i += 4) {
    const share = grey[i] / 255;
    if (share) colours.data.set([255, Math.round(220 * (1 - share)), 0, Math.round(235 * Math.sqrt(share))], i);
  }
  canvas.getContext('2d').putImageData(colours, 0, 0);
  return canvas;
}

export function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
