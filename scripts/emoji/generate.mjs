// Cuts a subset of the Noto emoji out of their sheet and writes one PNG of all and a list of what they are.
//
// OUT.png: RGB, 40 pictures of 32×32 a row, in the order of OUT.tsv, the rest of the last row white.
// OUT.tsv, one line a picture: train or test, class, group of near-duplicates (a number), name; separated by tabs.
//
// Kept: one picture of each emoji, in the skin colour that is its default. Left out: flags and symbols (drawings of
// signs, not of things), hearts and speech bubbles (one shape in many colours), the 24 clock faces, families and busts
// (pictograms), emoji that are another's mirror image ("facing right"), and pictures that are there already.
//
// Laid over white: that is what the emoji are drawn for (white ones have a grey outline), and what they are shown on.
//
// Near-duplicates are one group, and a group is on one side of the split: the man, woman and person of one emoji, and
// any two pictures whose brightness correlates by more than 0.9, mirrored or not. One group in six is for the test.
//
// Usage: npm ci --ignore-scripts && node generate.mjs OUT
// Images: Noto Emoji, Google, Apache-2.0; emoji.json: emoji-datasource, Cal Henderson, MIT.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { decode, encode } from './png.mjs';
import { groups } from './similar.mjs';

const FOLDER = new URL('node_modules/emoji-datasource-google/', import.meta.url);
const SIDE = 32;
/** A picture's place in the sheet: one pixel of margin on each side. */
const PITCH = SIDE + 2;
const COLUMNS = 40;

function verified(name, want) {
  const bytes = readFileSync(new URL(name, FOLDER));
  const got = createHash('sha256').update(bytes).digest('hex');
  if (got !== want) throw new Error(`${name} has sha256 ${got}, but ${want} is right`);
  return bytes;
}

/** The class of an emoji, or undefined if it is left out. */
function classOf({ category, subcategory, short_name: name, unified }) {
  const pictogram = subcategory === 'person-symbol' || (subcategory === 'family' && /1F46[67A]/.test(unified));
  if (pictogram || ['emotion', 'heart'].includes(subcategory) || /^clock\d/.test(name) || unified.includes('27A1')) return;
  switch (category) {
    case 'Smileys & Emotion': return 'Faces';
    case 'People & Body': return /^(hand|body)/.test(subcategory) ? 'Body' : 'People';
    case 'Animals & Nature': return subcategory.startsWith('plant') ? 'Plants' : 'Animals';
    case 'Food & Drink': return 'Food';
    case 'Travel & Places': return 'Travel';
    case 'Activities': case 'Objects': return category;
  }
}

/** RGB of the picture in column x and row y of the sheet, laid over white. */
function cut(sheet, x, y) {
  const rgb = new Uint8Array(SIDE * SIDE * 3);
  for (let pixel = 0; pixel < SIDE * SIDE; pixel++) {
    const row = y * PITCH + 1 + Math.floor(pixel / SIDE);
    const at = (row * sheet.width + x * PITCH + 1 + pixel % SIDE) * 4;
    const alpha = sheet.rgba[at + 3];
    for (let c = 0; c < 3; c++) {
      rgb[pixel * 3 + c] = Math.floor((sheet.rgba[at + c] * alpha + 255 * (255 - alpha) + 127) / 255);
    }
  }
  return rgb;
}

/** What is kept, in the order in which keyboards show it. */
function chosen() {
  const list = JSON.parse(verified('emoji.json', '1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f'));
  const sheet = decode(
    verified('img/google/sheets/32.png', 'b417e9f6cd4bbc10656bbfd5e13b6e9a2545b55e6a4cf7312d75be1faaa34952'));
  const seen = new Set();
  return list
    .filter((emoji) => classOf(emoji))
    .sort((a, b) => a.sort_order - b.sort_order)
    .map((emoji) => ({
      name: emoji.short_name,
      unified: emoji.unified,
      class: classOf(emoji),
      rgb: cut(sheet, emoji.sheet_x, emoji.sheet_y),
    }))
    .filter(({ rgb }) => {
      const key = Buffer.from(rgb).toString('base64');
      return !seen.has(key) && seen.add(key);
    });
}

const out = process.argv[2];
if (!out) throw new Error('usage: node generate.mjs OUT');
const emoji = chosen();
const group = groups(emoji);
const lines = emoji.map((one, i) => {
  // The group's first emoji decides, by the CRC-32 of its name.
  const side = crc32(emoji[group[i]].name) % 6 === 0 ? 'test' : 'train';
  return `${side}\t${one.class}\t${group[i]}\t${one.name}\n`;
});
const rows = Math.ceil(emoji.length / COLUMNS);
const canvas = Buffer.alloc(COLUMNS * SIDE * rows * SIDE * 3, 255);
emoji.forEach(({ rgb }, i) => {
  for (let y = 0; y < SIDE; y++) {
    const at = ((Math.floor(i / COLUMNS) * SIDE + y) * COLUMNS + i % COLUMNS) * SIDE * 3;
    canvas.set(rgb.subarray(y * SIDE * 3, (y + 1) * SIDE * 3), at);
  }
});
writeFileSync(`${out}.png`, encode(COLUMNS * SIDE, rows * SIDE, canvas));
writeFileSync(`${out}.tsv`, lines.join(''));
const sha256 = createHash('sha256');
for (const { rgb } of emoji) sha256.update(rgb);
sha256.update(lines.join(''));
const test = lines.filter((line) => line.startsWith('test')).length;
console.log(`${emoji.length} emoji, ${test} of them for the test, sha256 of the RGB bytes and the list ${sha256.digest('hex')}`);
