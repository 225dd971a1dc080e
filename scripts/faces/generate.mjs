// Writes the first 20,000 DiceBear pixel-art faces as one gzip file, each face as a palette and 256 indices into it.
//
// Decompressed: for each face one byte n and n RGB colours in order of first use; then for each face 256 bytes, rows top
// to bottom, each the place of the pixel's colour in that face's palette. (0.6 MB; plain RGB would be 1.6 MB.)
//
// Usage: npm ci --ignore-scripts && node generate.mjs OUT.pal.gz
// Artwork: "Pixel Art" by DiceBear, CC0 1.0. It is a combinatorial generator: seeds 0..17999 are the training split,
// 18000..19999 the test split.
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { createAvatar } from '@dicebear/core';
import * as style from '@dicebear/pixel-art';
import { rasterise } from './raster.mjs';

/** One face's RGB bytes as [palette bytes, index bytes]. */
function indexed(rgb) {
  const places = new Map();
  const palette = [];
  const indices = [];
  for (let i = 0; i < rgb.length; i += 3) {
    const pixel = rgb.subarray(i, i + 3);
    const key = pixel.join();
    if (!places.has(key)) {
      places.set(key, places.size);
      palette.push(...pixel);
    }
    indices.push(places.get(key));
  }
  return [[places.size, ...palette], indices];
}

const COUNT = 20000;
const BACKGROUNDS = ['b6e3f4', 'c0aede', 'd1d4f9', 'ffd5dc', 'ffdfbf'];

const out = process.argv[2];
if (!out) throw new Error('usage: node generate.mjs OUT.pal.gz');
const sha256 = createHash('sha256');
const palettes = [];
const indices = [];
for (let seed = 0; seed < COUNT; seed++) {
  const avatar = createAvatar(style, { seed: String(seed), beardProbability: 0, backgroundColor: BACKGROUNDS });
  const rgb = rasterise(avatar.toString());
  sha256.update(rgb);
  const [ownPalette, ownIndices] = indexed(rgb);
  palettes.push(...ownPalette);
  indices.push(...ownIndices);
}
writeFileSync(out, gzipSync(Uint8Array.from(palettes.concat(indices)), { level: 9, memLevel: 9 }));
console.log(`${COUNT} faces, sha256 of the RGB bytes ${sha256.digest('hex')}`);
