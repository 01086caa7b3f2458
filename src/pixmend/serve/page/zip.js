// Zip archives of compressed files, stored as they are (APPNOTE 6.3, sections 4.3.7, 4.3.12, 4.3.16).

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

export function crc32(content) {
  let rest = ~0;
  for (const byte of content) rest = TABLE[(rest ^ byte) & 255] ^ (rest >>> 8);
  return ~rest >>> 0;
}

// entries: [name, Uint8Array] each; returns a Blob.
export function zip(entries) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, content] of entries) {
    const encoded = new TextEncoder().encode(name);
    const common = [20, 0x0800, 0, 0, 0x21];  // version, names in UTF-8, stored, time, 1 January 1980
    const sizes = [crc32(content), content.length, content.length];
    parts.push(record([0x04034b50], common, sizes, [encoded.length, 0]), encoded, content);
    directory.push(record([0x02014b50], [20, ...common], sizes, [encoded.length, 0, 0, 0, 0], [0, offset]), encoded);
    offset += 30 + encoded.length + content.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const end = record([0x06054b50], [0, 0, entries.length, entries.length], [length, offset], [0]);
  return new Blob([...parts, ...directory, end], { type: 'application/zip' });
}

// Little-endian: groups of 32, 16, 32, 16 ... bits in turn.
function record(...groups) {
  const bytes = [];
  groups.forEach((numbers, index) => numbers.forEach((number) => {
    for (let byte = 0; byte < (index % 2 ? 2 : 4); byte++) bytes.push((number >>> (8 * byte)) & 255);
  }));
  return Uint8Array.from(bytes);
}
