// Groups pictures that are near-duplicates, so that no group is on both sides of the split.

const SIDE = 32;
const PIXELS = SIDE * SIDE;
/** Faces, which share their disc, lie below; one thing in another colour or with a detail more lies above. */
const ALIKE = 0.9;

/** The code points of an emoji without what tells its man, woman and person apart. */
function base(unified) {
  const person = { '1F468': 'P', '1F469': 'P', '1F9D1': 'P', '1F474': 'old', '1F475': 'old', '1F9D3': 'old',
    '1F466': 'young', '1F467': 'young', '1F9D2': 'young', '1F934': 'crown', '1F478': 'crown', '1FAC5': 'crown',
    '1F385': 'claus', '1F936': 'claus', '1F470': 'suit', '1F935': 'suit', '1F6B6': 'walk', '1F930': 'pregnant',
    '1FAC3': 'pregnant', '1FAC4': 'pregnant', '1F46B': 'pair', '1F46C': 'pair', '1F46D': 'pair' };
  const ignored = ['200D', 'FE0F', '2640', '2642'];
  const points = unified.split('-').filter((point) => !ignored.includes(point)).map((point) => person[point] ?? point);
  // Mrs Claus's partner P-1F384, pairs with a heart or a kiss whoever they are.
  const text = points.join('-').replace('P-1F384', 'claus').replace(/^P-2764.*/, (pair) => pair.replaceAll('P', ''));
  return text.replace('P-1F91D-P', 'pair').replace(/^1F491$/, '-2764-').replace(/^1F48F$/, '-2764-1F48B-');
}

/** Brightness with mean 0 and length 1; the rows from right to left if `mirrored`. */
function brightness(rgb, mirrored) {
  const values = new Float64Array(PIXELS);
  for (let pixel = 0; pixel < PIXELS; pixel++) {
    const x = pixel % SIDE;
    const at = (mirrored ? pixel - x + SIDE - 1 - x : pixel) * 3;
    values[pixel] = 299 * rgb[at] + 587 * rgb[at + 1] + 114 * rgb[at + 2];
  }
  const mean = values.reduce((sum, x) => sum + x) / PIXELS;
  const length = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0));
  return values.map((x) => (x - mean) / length);
}

function correlation(a, b) {
  let sum = 0;
  for (let i = 0; i < PIXELS; i++) sum += a[i] * b[i];
  return sum;
}

/** For each picture { unified, rgb } the place of the first one of its group. */
export function groups(pictures) {
  const first = pictures.map((_, i) => i);
  const root = (i) => (first[i] === i ? i : (first[i] = root(first[i])));
  const join = (i, j) => {
    const [a, b] = [root(i), root(j)];
    first[Math.max(a, b)] = Math.min(a, b);
  };
  const plain = pictures.map(({ rgb }) => brightness(rgb, false));
  const mirrored = pictures.map(({ rgb }) => brightness(rgb, true));
  const bases = pictures.map(({ unified }) => base(unified));
  for (let i = 0; i < pictures.length; i++) {
    for (let j = 0; j < i; j++) {
      const alike = () => Math.max(correlation(plain[i], plain[j]), correlation(mirrored[i], plain[j])) > ALIKE;
      if (bases[i] === bases[j] || alike()) join(i, j);
    }
  }
  return first.map((_, i) => root(i));
}
