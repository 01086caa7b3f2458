// Pixels of image files, and PNG files of pixels (ISO/IEC 15948): a canvas would multiply colours by alpha.

import * as pictures from './pictures.js';
import { crc32 } from './zip.js';

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const COLOURS = { 1: 0, 3: 2, 4: 6 };  // types by the number of bands

// Returns { pixels, width, height, bands }: bytes of 1, 3 or, with transparency or where `alpha` is wanted, 4 bands.
export async function read(file, alpha = false) {
  const bitmap = await pictures.open(file);
  const { width, height } = bitmap;
  const content = new DataView(await file.arrayBuffer());
  const isPng = content.byteLength > 33 && SIGNATURE.every((byte, at) => content.getUint8(at) === byte);
  if (isPng && content.getUint8(24) === 16) throw new Error(`${file.name}: 16 bits a channel, of which a browser keeps 8. Use pixmend complete.`);
  const pixels = new Uint8Array(pictures.pixels(bitmap).buffer);
  const words = new Uint32Array(pixels.buffer);
  if (!words.every((word) => word >>> 24 === 255)) {
    if (!isPng || content.getUint8(25) !== 6 || content.getUint8(28)) throw new Error(`${file.name}: a browser keeps transparency exactly only of PNG files in RGBA that are not interlaced. Convert it, or use pixmend complete.`);
    return { pixels: await decode(content, width, height), width, height, bands: 4 };
  }
  if (alpha) return { pixels, width, height, bands: 4 };
  const isGrey = words.every((word) => (word & 255) === ((word >>> 8) & 255) && (word & 255) === ((word >>> 16) & 255));
  const bands = isGrey ? 1 : 3;
  const kept = new Uint8Array(width * height * bands);
  for (let i = 0; i < kept.length; i++) kept[i] = pixels[isGrey ? 4 * i : i + Math.floor(i / 3)];
  return { pixels: kept, width, height, bands };
}

// Decodes RGBA of 8 bits.
async function decode(content, width, height) {
  const parts = [];
  for (let at = 8; at + 12 <= content.byteLength;) {
    const length = content.getUint32(at);
    if (content.getUint32(at + 4) === 0x49444154) parts.push(new Uint8Array(content.buffer, at + 8, length));  // IDAT
    at += 12 + length;
  }
  const lines = await through(new Blob(parts), new DecompressionStream('deflate'));
  const stride = 4 * width;
  const pixels = new Uint8Array(stride * height);
  for (let y = 0, i = 0, from = 0; y < height; y++) {
    const filter = lines[from++];
    for (let x = 0; x < stride; x++, i++) {
      const left = x >= 4 ? pixels[i - 4] : 0;
      const up = y ? pixels[i - stride] : 0;
      const corner = x >= 4 && y ? pixels[i - stride - 4] : 0;
      pixels[i] = lines[from++] + [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
    }
  }
  return pixels;
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [left, up, corner].map((each) => Math.abs(guess - each));
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

// Returns a Blob of bytes in 1, 3 or 4 bands.
export async function encode(pixels, width, height, bands) {
  const stride = width * bands;
  const lines = new Uint8Array((stride + 1) * height);
  for (let y = 0, i = 0, to = 0; y < height; y++) {
    lines[to++] = 1;  // differences from the pixel to the left
    for (let x = 0; x < stride; x++, i++) lines[to++] = pixels[i] - (x >= bands ? pixels[i - bands] : 0);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0800 | COLOURS[bands]);
  const data = await through(new Blob([lines]), new CompressionStream('deflate'));
  const chunks = [chunk('IHDR', new Uint8Array(header.buffer)), chunk('IDAT', data), chunk('IEND', new Uint8Array(0))];
  return new Blob([Uint8Array.from(SIGNATURE), ...chunks], { type: 'image/png' });
}

function chunk(name, content) {
  const whole = new Uint8Array(content.length + 12);
  const view = new DataView(whole.buffer);
  view.setUint32(0, content.length);
  whole.set(new TextEncoder().encode(name), 4);
  whole.set(content, 8);
  view.setUint32(content.length + 8, crc32(whole.subarray(4, -4)));
  return whole;
}

const through = async (blob, stream) => new Uint8Array(await new Response(blob.stream().pipeThrough(stream)).arrayBuffer());

export function base64(blob) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
    reader.readAsDataURL(blob);
  });
}
