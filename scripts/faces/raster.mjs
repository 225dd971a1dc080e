// Draws a DiceBear pixel-art SVG into exact pixels: integer coordinates, paths of M m h v H V z only, no antialiasing needed.
//
// A layer is painted as out = out·(1 − opacity) + fill·opacity in floating point; the sum is rounded to a byte once, at the end.

const SIZE = 16;

/** Vertical edges [x, top, bottom, direction] of a path made of horizontal and vertical lines. */
function verticalEdges(d) {
  const tokens = d.match(/[A-Za-z]|-?\d+(\.\d+)?/g);
  const edges = [];
  let command = '', x = 0, y = 0, startX = 0, startY = 0, at = 0;
  const number = () => {
    const value = Number(tokens[at++]);
    if (!Number.isInteger(value)) throw new Error(`not an integer coordinate in path ${d}`);
    return value;
  };
  const lineToY = (to) => {
    if (to !== y) edges.push([x, Math.min(y, to), Math.max(y, to), Math.sign(to - y)]);
    y = to;
  };
  while (at < tokens.length) {
    if (/[A-Za-z]/.test(tokens[at])) command = tokens[at++];
    else if ('MmZz'.includes(command)) throw new Error(`implicit line in path ${d}`);
    switch (command) {
      case 'M': x = number(); y = number(); [startX, startY] = [x, y]; break;
      case 'm': x += number(); y += number(); [startX, startY] = [x, y]; break;
      case 'h': x += number(); break;
      case 'H': x = number(); break;
      case 'v': lineToY(y + number()); break;
      case 'V': lineToY(number()); break;
      case 'z': case 'Z':
        if (x !== startX && y !== startY) throw new Error(`slanted closing line in path ${d}`);
        lineToY(startY); x = startX; break;
      default: throw new Error(`unknown command ${command} in path ${d}`);
    }
  }
  return edges;
}

/** Pixels inside a path, as a list of indices y·16 + x. */
function inside(d, evenOdd) {
  const crossings = new Int32Array(SIZE * (SIZE + 1));
  for (const [x, top, bottom, direction] of verticalEdges(d)) {
    for (let y = Math.max(top, 0); y < Math.min(bottom, SIZE); y++) {
      crossings[y * (SIZE + 1) + Math.min(Math.max(x, 0), SIZE)] += evenOdd ? 1 : direction;
    }
  }
  const pixels = [];
  for (let y = 0; y < SIZE; y++) {
    let winding = 0;
    for (let x = 0; x < SIZE; x++) {
      winding += crossings[y * (SIZE + 1) + x];
      if (evenOdd ? winding & 1 : winding !== 0) pixels.push(y * SIZE + x);
    }
  }
  return pixels;
}

/** '#rgb' or '#rrggbb' to three numbers. */
function colour(text) {
  const hex = /^#([0-9a-f]{3}|[0-9a-f]{6})$/i.exec(text)?.[1];
  if (!hex) throw new Error(`unknown colour ${text}`);
  const six = hex.length === 3 ? [...hex].map((c) => c + c).join('') : hex;
  return [0, 2, 4].map((i) => parseInt(six.slice(i, i + 2), 16));
}

/** One SVG to 16·16·3 bytes: rows top to bottom, RGB. `fill` and `fill-rule` are inherited from groups. */
export function rasterise(svg) {
  const body = svg.replace(/<metadata.*?<\/metadata>/s, '').replace(/<mask.*?<\/mask>/s, '');
  const canvas = new Float64Array(SIZE * SIZE * 3);
  const stack = [{ fill: '#000', 'fill-rule': 'nonzero' }];
  for (const [, close, name, text] of body.matchAll(/<(\/?)(\w+)([^>]*?)\/?>/g)) {
    if (close) { stack.pop(); continue; }
    const own = Object.fromEntries([...text.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, key, value]) => [key, value]));
    const style = { ...stack.at(-1), ...own };
    if (name === 'svg' || name === 'g') { stack.push({ fill: style.fill, 'fill-rule': style['fill-rule'] }); continue; }
    const full = name === 'rect' && own.width === '16' && own.height === '16' && own.x === '0' && own.y === '0';
    if (name !== 'path' && !full) throw new Error(`unknown element ${name} ${text}`);
    const pixels = full ? inside('M0 0h16v16H0z', false) : inside(own.d, style['fill-rule'] === 'evenodd');
    const [rgb, opacity] = [colour(style.fill), Number(own['fill-opacity'] ?? 1)];
    for (const pixel of pixels) {
      for (let c = 0; c < 3; c++) canvas[pixel * 3 + c] += (rgb[c] - canvas[pixel * 3 + c]) * opacity;
    }
  }
  return Uint8Array.from(canvas, Math.round);
}
