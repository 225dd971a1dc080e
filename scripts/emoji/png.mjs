// Reads and writes the two kinds of PNG that generate.mjs needs: 8 bits, not interlaced, RGBA in and RGB out.
import { crc32, deflateSync, inflateSync } from 'node:zlib';

const SIGNATURE = Buffer.from('89504e470d0a1a0a', 'hex');

/** The prediction of filter `kind` from the bytes left (a), above (b) and above left (c). */
function predicted(kind, a, b, c) {
  switch (kind) {
    case 0: return 0;
    case 1: return a;
    case 2: return b;
    case 3: return (a + b) >> 1;
    case 4: {
      const [toA, toB, toC] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      if (toA <= toB && toA <= toC) return a;
      return toB <= toC ? b : c;
    }
    default: throw new Error(`unknown PNG filter ${kind}`);
  }
}

/** PNG file bytes to { width, height, rgba }. */
export function decode(file) {
  if (!file.subarray(0, 8).equals(SIGNATURE)) throw new Error('not a PNG');
  let header;
  const parts = [];
  for (let at = 8; at < file.length;) {
    const length = file.readUInt32BE(at);
    const kind = file.toString('latin1', at + 4, at + 8);
    const data = file.subarray(at + 8, at + 8 + length);
    if (kind === 'IHDR') header = data;
    if (kind === 'IDAT') parts.push(data);
    at += 12 + length;
  }
  if (header.toString('hex', 8) !== '0806000000') throw new Error('not an 8-bit RGBA PNG without interlacing');
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const packed = inflateSync(Buffer.concat(parts));
  const stride = width * 4;
  const rgba = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const kind = packed[y * (stride + 1)];
    for (let i = 0; i < stride; i++) {
      const at = y * stride + i;
      const a = i >= 4 ? rgba[at - 4] : 0;
      const b = y > 0 ? rgba[at - stride] : 0;
      const c = i >= 4 && y > 0 ? rgba[at - stride - 4] : 0;
      rgba[at] = packed[y * (stride + 1) + 1 + i] + predicted(kind, a, b, c);
    }
  }
  return { width, height, rgba };
}

/** One row with the filter whose bytes, taken as signed, have the smallest sum. */
function filtered(row, above) {
  let best, least = Infinity;
  for (let kind = 0; kind < 5; kind++) {
    const bytes = Buffer.alloc(row.length + 1);
    bytes[0] = kind;
    let sum = 0;
    for (let i = 0; i < row.length; i++) {
      bytes[i + 1] = row[i] - predicted(kind, row[i - 3] ?? 0, above[i], above[i - 3] ?? 0);
      sum += Math.abs(bytes.readInt8(i + 1));
    }
    if (sum < least) [best, least] = [bytes, sum];
  }
  return best;
}

function chunk(kind, data) {
  const body = Buffer.concat([Buffer.from(kind, 'latin1'), data]);
  const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  check.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, check]);
}

/** RGB rows to PNG file bytes. */
export function encode(width, height, rgb) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2], 8);
  const rows = [];
  let above = Buffer.alloc(width * 3);
  for (let y = 0; y < height; y++) {
    const row = rgb.subarray(y * width * 3, (y + 1) * width * 3);
    rows.push(filtered(row, above));
    above = row;
  }
  const data = deflateSync(Buffer.concat(rows), { level: 9, memLevel: 9 });
  return Buffer.concat([SIGNATURE, chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))]);
}
