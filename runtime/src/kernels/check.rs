//! Holds a back end to the definition of convolution, over random shapes, tails and extreme values; for tests.

use super::{Feed, FeedTarget, Finish, Geometry, Prepared, Residual, RowSource, Taps, portable};
use crate::blob::{BLOCK_PIXELS, Expansion, PlainWeights, Transform, direct_bytes, phases_bytes, winograd_bytes};
use crate::f16 as convert;
use crate::quant::Quantiser;
use crate::rng::NoiseStream;
use crate::tensor::{Elements, ElementsMut};
use half::f16;
use std::vec;
use std::vec::Vec;

/// The loops of a back end.
#[allow(clippy::type_complexity, reason = "the signatures of the loops, once")]
pub(super) struct Kernels {
    pub(super) direct: fn(&Taps<'_>, &[u8], usize, usize, &mut [i32]),
    pub(super) phase: fn([Option<&[i16]>; 2], &Geometry, &[u8], usize, usize, &mut [i32]),
    pub(super) winograd_input: fn([&[i16]; 4], &Geometry, usize, &mut [i16]),
    pub(super) winograd_products: fn(&[i16], usize, &[u8], &mut [i32], &mut [i32]),
    pub(super) strided_input: fn([&[i16]; 5], &Geometry, usize, &mut [i16]),
    pub(super) strided_products: fn(&[i16], usize, &[u8], usize, &mut [i32], &mut [i32]),
}

/// A loop for whole rows: packed direct weights, which it prepares before row 0, and what [`super::direct_row`] takes.
pub(super) type RowLoop =
    fn(&[u8], &mut Prepared, usize, &Taps<'_>, &Finish<'_>, Residual<'_>, ElementsMut<'_>, &mut [f32]) -> bool;

/// One layer: an image with a border of zeros, and weights.
pub(super) struct Case {
    kernel: usize,
    stride: usize,
    cin: usize,
    cout: usize,
    /// Outputs of a row.
    width: usize,
    /// Which of the three rows lies outside the image.
    absent: Option<usize>,
    weight: Vec<i8>,
    /// Five rows \[column\]\[cin\], zero where a padding column or an absent row is.
    rows: Vec<Vec<i16>>,
}

impl Case {
    pub(super) fn draw(index: u64) -> Self {
        let mut stream = NoiseStream::new(11, index);
        let mut below = |n: u32| stream.below(n) as usize;
        let kernel = if index.is_multiple_of(4) { 1 } else { 3 };
        let stride = if index % 4 == 1 { 2 } else { 1 };
        let (cin, cout, width) = (1 + below(40), 1 + below(20), 1 + below(19));
        let absent = if kernel == 3 && index.is_multiple_of(3) { Some(2 * below(2)) } else { None };
        // Few bits, many bits, and for a third of the cases only the extremes; sums stay below 2²³.
        let limit =
            if index.is_multiple_of(2) { 128 } else { 4096 / (kernel * kernel * cin).next_power_of_two().max(8) * 8 };
        let extreme = index % 3 == 1;
        let mut draw = |limit: i64| {
            let bits = i64::from(stream.next_u32());
            if extreme { if bits % 2 == 0 { limit - 1 } else { -limit } } else { bits % (2 * limit) - limit }
        };
        let most = ((1 << 23) / (kernel * kernel * cin * 128) as i64).min(limit as i64).max(2);
        let weight = (0..cout * kernel * kernel * cin).map(|_| draw(128).max(-127) as i8).collect();
        let rows = (0..5).map(|_| (0..width * stride * cin).map(|_| draw(most) as i16).collect()).collect();
        Self { kernel, stride, cin, cout, width, absent, weight, rows }
    }

    fn plain(&self) -> PlainWeights<'_> {
        PlainWeights { weight: &self.weight, kernel: self.kernel, cin: self.cin, cout: self.cout }
    }

    fn geometry(&self, outputs: usize) -> Geometry {
        let blocks = outputs.next_multiple_of(BLOCK_PIXELS) * self.stride;
        let columns = blocks + if self.kernel == 1 { 0 } else { 2 };
        Geometry { kernel: self.kernel, stride: self.stride, pairs: self.cin.div_ceil(2), columns }
    }

    /// A row in the kernel's order, padding included.
    fn row(&self, row: usize, geometry: &Geometry) -> Vec<i16> {
        let mut fed = vec![0; geometry.len()];
        for (i, value) in self.rows[row].iter().enumerate() {
            fed[geometry.index(i / self.cin + self.kernel / 2, i % self.cin)] = *value;
        }
        fed
    }

    /// Input of `row` at column `x` (may be outside) and channel `c`.
    fn input(&self, row: usize, x: isize, c: usize) -> i64 {
        let columns = (self.rows[row].len() / self.cin) as isize;
        if (0..columns).contains(&x) { self.rows[row][x as usize * self.cin + c].into() } else { 0 }
    }

    fn weight(&self, o: usize, ky: usize, kx: usize, c: usize) -> i64 {
        self.weight[((o * self.kernel + ky) * self.kernel + kx) * self.cin + c].into()
    }

    /// The definition, rows `rows[0..kernel]`, output `x` of `o`; with `doubled`, the columns are those of the doubled image.
    fn expected(&self, rows: &[Option<usize>], x: usize, o: usize, doubled: bool) -> i64 {
        let mut sum = 0;
        for (ky, row) in rows.iter().enumerate() {
            let Some(row) = row else { continue };
            for (kx, c) in (0..self.kernel).flat_map(|kx| (0..self.cin).map(move |c| (kx, c))) {
                let column = (x * self.stride + kx) as isize - (self.kernel / 2) as isize;
                sum += self.weight(o, ky, kx, c) * self.input(*row, column >> u32::from(doubled), c);
            }
        }
        sum
    }

    pub(super) fn check(&self, kernels: &Kernels) {
        self.check_direct(kernels);
        if (self.kernel, self.stride) == (3, 1) {
            self.check_winograd(kernels);
            self.check_phases(kernels);
        }
        if (self.kernel, self.stride) == (3, 2) {
            self.check_strided(kernels);
        }
    }

    fn check_direct(&self, kernels: &Kernels) {
        let geometry = self.geometry(self.width);
        let mut packed = vec![0; direct_bytes(self.kernel as u32, self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_direct(&mut packed);
        let present: Vec<Option<usize>> =
            (0..self.kernel).map(|row| (Some(row) != self.absent).then_some(row)).collect();
        let fed: Vec<Vec<i16>> = (0..3).map(|row| self.row(row, &geometry)).collect();
        let rows = core::array::from_fn(|k| present.get(k).copied().flatten().map(|row| &fed[row][..]));
        let mut acc = vec![-1; self.cout.next_multiple_of(2) * BLOCK_PIXELS];
        for x in (0..self.width).step_by(BLOCK_PIXELS) {
            let pixels = BLOCK_PIXELS.min(self.width - x);
            (kernels.direct)(&Taps { rows, geometry }, &packed, x, pixels, &mut acc);
            for (o, p) in (0..self.cout).flat_map(|o| (0..pixels).map(move |p| (o, p))) {
                let want = self.expected(&present, x + p, o, false);
                assert_eq!(i64::from(acc[o * BLOCK_PIXELS + p]), want, "direct, output {o} of pixel {}", x + p);
            }
        }
    }

    /// Holds a loop for whole rows to the definition: without and with a residual, into halves and into floats.
    pub(super) fn check_row(&self, run: RowLoop) {
        let geometry = self.geometry(self.width);
        let mut packed = vec![0; direct_bytes(self.kernel as u32, self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_direct(&mut packed);
        let fed: Vec<Vec<i16>> = (0..5).map(|row| self.row(row, &geometry)).collect();
        // Rows under output row y. The image ends with a row that is absent below.
        let outputs = if (self.kernel, self.stride) == (3, 1) && self.absent != Some(2) { 3 } else { 1 };
        let present = |y: usize| -> Vec<Option<usize>> {
            (y..y + self.kernel).map(|row| (Some(row) != self.absent).then_some(row)).collect()
        };
        let taps = |y: usize| {
            let present = present(y);
            let rows = core::array::from_fn(|k| present.get(k).copied().flatten().map(|row| &fed[row][..]));
            Taps { rows, geometry }
        };
        let len = self.width * self.cout;
        let mut stream = NoiseStream::new(13, len as u64);
        let mut draw = |n: usize, scale: f32| (0..n).map(|_| scale * stream.next_gaussian()).collect::<Vec<f32>>();
        let (scale, bias, before) = (draw(self.cout, 1e-3), draw(self.cout, 1.0), draw(2 * self.cout, 1.0));
        let residual: Vec<f16> = draw(len, 3.0).into_iter().map(convert::from_f32).collect();
        let bytes: Vec<[u8; 4]> = scale.iter().map(|x| x.to_le_bytes()).collect();
        let block = Finish { acc: &[], pixels: self.width, scale: &bytes, bias: &bias, pitch: self.cout };
        let value = |y: usize, p: usize, o: usize| self.expected(&present(y), p, o, false) as f32 * scale[o] + bias[o];

        let mut state = Prepared::new();
        for y in 0..outputs {
            let mut floats = vec![0.0; len];
            let out = ElementsMut::F32(&mut floats);
            assert!(run(&packed, &mut state, y, &taps(y), &block, Residual::None, out, &mut []));
            for (p, o) in (0..self.width).flat_map(|p| (0..self.cout).map(move |o| (p, o))) {
                let at = p * self.cout + o;
                assert_eq!(floats[at].to_bits(), value(y, p, o).to_bits(), "output {o} of pixel {p}, row {y}");
            }
        }
        for (kind, y) in (0..3).flat_map(|kind| (0..outputs).map(move |y| (kind, y))) {
            let mut out = if kind == 2 { residual.clone() } else { vec![f16::ZERO; len] };
            let (mut sums, mut want_sums) = (before.clone(), before.clone());
            let from = [Residual::None, Residual::Elsewhere(&residual), Residual::InPlace][kind];
            assert!(run(&packed, &mut state, y, &taps(y), &block, from, ElementsMut::F16(&mut out), &mut sums));
            for (p, o) in (0..self.width).flat_map(|p| (0..self.cout).map(move |o| (p, o))) {
                let at = p * self.cout + o;
                let value = if kind == 0 { value(y, p, o) } else { value(y, p, o) + convert::to_f32(residual[at]) };
                let want = convert::from_f32(value);
                assert_eq!(out[at].to_bits(), want.to_bits(), "output {o} of pixel {p}, row {y}, residual {kind}");
                want_sums[2 * o] += convert::to_f32(want);
                want_sums[2 * o + 1] += convert::to_f32(want) * convert::to_f32(want);
            }
            assert_eq!(sums, want_sums, "sums, row {y}, residual {kind}");
        }
    }

    /// Transformed weights by way of direct ones.
    fn expanded(&self, transform: Transform, bytes: usize) -> Vec<u8> {
        let mut direct = vec![0; direct_bytes(3, self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_direct(&mut direct);
        let (in_pairs, out_pairs) = (self.cin.div_ceil(2), self.cout.div_ceil(2));
        let mut out = vec![0; bytes];
        super::expand(&Expansion { transform, in_pairs, out_pairs }, &direct, &mut out);
        out
    }

    fn check_winograd(&self, kernels: &Kernels) {
        let geometry = self.geometry(self.width);
        let mut packed = vec![0; winograd_bytes(self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_winograd(&mut packed);
        assert_eq!(self.expanded(Transform::Winograd, packed.len()), packed);
        let fed: Vec<Vec<i16>> = (0..4).map(|row| self.row(row, &geometry)).collect();
        let mut tiles = vec![0; 128 * geometry.pairs];
        let (mut products, mut acc) = (vec![0; 128], vec![0; 32]);
        for x in (0..self.width).step_by(BLOCK_PIXELS) {
            (kernels.winograd_input)(core::array::from_fn(|k| &fed[k][..]), &geometry, x, &mut tiles);
            for (pair, weight) in packed.chunks_exact(packed.len() / self.cout.div_ceil(2)).enumerate() {
                (kernels.winograd_products)(&tiles, geometry.pairs, weight, &mut products, &mut acc);
                for (row, o) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    for p in (0..BLOCK_PIXELS.min(self.width - x)).take_while(|_| 2 * pair + o < self.cout) {
                        let rows: Vec<_> = (row..row + 3).map(Some).collect();
                        let want = self.expected(&rows, x + p, 2 * pair + o, false);
                        assert_eq!(i64::from(acc[(row * 2 + o) * BLOCK_PIXELS + p]), want, "winograd");
                    }
                }
            }
        }
    }

    fn check_strided(&self, kernels: &Kernels) {
        let geometry = self.geometry(self.width);
        let mut packed = vec![0; winograd_bytes(self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_strided(&mut packed);
        let fed: Vec<Vec<i16>> = (0..5).map(|row| self.row(row, &geometry)).collect();
        let channels = self.cout.next_multiple_of(2);
        let mut tiles = vec![0; 200 * geometry.pairs];
        let (mut sums, mut acc) = (vec![-1; 36 * channels], vec![-1; 2 * BLOCK_PIXELS * channels]);
        for x in (0..self.width).step_by(BLOCK_PIXELS) {
            let pixels = BLOCK_PIXELS.min(self.width - x);
            (kernels.strided_input)(core::array::from_fn(|k| &fed[k][..]), &geometry, 2 * x, &mut tiles);
            (kernels.strided_products)(&tiles, geometry.pairs, &packed, pixels, &mut sums, &mut acc);
            for (row, o, p) in (0..2 * self.cout * pixels).map(|at| (at % 2, at / 2 % self.cout, at / 2 / self.cout)) {
                let rows: Vec<_> = (2 * row..2 * row + 3).map(Some).collect();
                let want = self.expected(&rows, x + p, o, false);
                assert_eq!(i64::from(acc[(row * channels + o) * BLOCK_PIXELS + p]), want, "strided");
            }
        }
    }

    /// Rows 0 and 1 of the source under the two output rows between them.
    fn check_phases(&self, kernels: &Kernels) {
        let geometry = self.geometry(self.width);
        let mut packed = vec![0; phases_bytes(self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_phases(&mut packed);
        assert_eq!(self.expanded(Transform::Phases, packed.len()), packed);
        let fed: Vec<Vec<i16>> = (0..2).map(|row| self.row(row, &geometry)).collect();
        let rows = core::array::from_fn(|k| (self.absent != Some(2 * k)).then_some(&fed[k][..]));
        let present = |k: usize| (self.absent != Some(2 * k)).then_some(k);
        for parity in 0..2 {
            // The doubled rows under an even output row are 0, 1, 1 and under an odd one 0, 0, 1.
            let doubled = [present(0), present(1 - parity), present(1)];
            for x in (0..self.width).step_by(BLOCK_PIXELS / 2) {
                let mut acc = vec![-1; self.cout.next_multiple_of(2) * BLOCK_PIXELS];
                for column in 0..2 {
                    let weight = &packed[(2 * parity + column) * packed.len() / 4..][..packed.len() / 4];
                    (kernels.phase)(rows, &geometry, weight, x, column, &mut acc);
                }
                let pixels = BLOCK_PIXELS.min(2 * (self.width - x));
                for (o, p) in (0..self.cout).flat_map(|o| (0..pixels).map(move |p| (o, p))) {
                    let want = self.expected(&doubled, 2 * x + p, o, true);
                    assert_eq!(i64::from(acc[o * BLOCK_PIXELS + p]), want, "phases, pixel {}", 2 * x + p);
                }
            }
        }
    }
}

/// A loop that feeds a row of any storage.
pub(super) type FeedLoop = fn(&RowSource<'_>, &Feed<'_>, &mut FeedTarget<'_>) -> bool;

/// Holds a loop that feeds rows to [`portable::feed_with`], for rows of every order and storage, with tails, and with
/// infinities, NaN and what leaves the limits; a source that begins inside a pair of channels may be declined.
pub(super) fn check_feed(run: FeedLoop) {
    for index in 0..300u64 {
        let mut stream = NoiseStream::new(17, index);
        let mut below = |n: u32| stream.below(n) as usize;
        let (channels, width, channel) = (1 + below(35), 1 + below(19), below(6));
        // For a third of the cases whole vectors.
        let channels = if index % 3 == 0 { channels.next_multiple_of(16) } else { channels };
        let (kernel, stride, doubled) = [(1, 1, false), (3, 2, false), (3, 1, true), (3, 1, false)][below(4)];
        let columns = (width << usize::from(doubled)).next_multiple_of(BLOCK_PIXELS) * stride + kernel - 1;
        let geometry = Geometry { kernel, stride, pairs: (channel + channels).div_ceil(2), columns };
        let size = [1.0f32, 30.0, 3000.0][below(3)];
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65504.0, -65504.0, 0.0, -0.0, 1e-7];
        let first = below(3) * channels;
        let mut value = || match stream.below(16) {
            0 => special[stream.below(8) as usize],
            _ => size * stream.next_gaussian(),
        };
        let halves: Vec<f16> = (0..first + width * channels).map(|_| convert::from_f32(value())).collect();
        let bytes: Vec<i8> = halves.iter().map(|half| half.to_bits() as i8).collect();
        let scales: Vec<f32> = (0..channels).map(|_| stream.next_gaussian()).collect();
        let affine: Vec<f32> = (0..2 * channels).map(|_| 300.0 * stream.next_gaussian()).collect();
        let affine = if index % 5 == 0 { &[] } else { &affine[..] };
        let qmax = [127, 2047][stream.below(2) as usize];
        let quantiser =
            Quantiser::new(index.is_multiple_of(2), [0.0625, 3.5, 511.9375][stream.below(3) as usize], qmax);
        let feed = Feed { values: &[], channels, affine, quantiser };
        let floats: Vec<f32> = halves.iter().map(|half| 1.000_1 * convert::to_f32(*half)).collect();
        for elements in [Elements::F16(&halves), Elements::I8(&bytes, &scales), Elements::F32(&floats)] {
            let mut row = vec![0; geometry.len()];
            let mut want = row.clone();
            let target = |row| FeedTarget { row, geometry, column: kernel / 2, channel };
            let load = |at: usize, out: &mut [f32]| elements.load(first + at, out);
            portable::feed_with(load, &feed, width, doubled, &mut target(&mut want));
            if run(&RowSource { elements, first, width, doubled }, &feed, &mut target(&mut row)) {
                assert_eq!(row, want, "case {index}");
            } else {
                let few = matches!(elements, Elements::F32(_)) && channels < 8;
                assert!(channel % 2 == 1 || few, "case {index} is declined");
            }
        }
    }
}

/// Holds the SiLU of such a loop to [`Quantiser::quantise`] for every number that it tells apart, and beyond its limits.
pub(super) fn check_silu(run: FeedLoop) {
    const CHANNELS: usize = 16;
    let geometry = Geometry { kernel: 1, stride: 1, pairs: CHANNELS / 2, columns: BLOCK_PIXELS };
    let mut row = vec![0; geometry.len()];
    for multiplier in [16.0, 511.9375] {
        let quantiser = Quantiser::new(true, multiplier, 2047);
        let feed = Feed { values: &[], channels: CHANNELS, affine: &[], quantiser };
        for start in (-(1 << 18)..1 << 18).step_by(geometry.len()) {
            let floats: Vec<f32> = (start..).take(geometry.len()).map(|x| x as f32).collect();
            let source = RowSource { elements: Elements::F32(&floats), first: 0, width: BLOCK_PIXELS, doubled: false };
            assert!(run(&source, &feed, &mut FeedTarget { row: &mut row, geometry, column: 0, channel: 0 }));
            for (at, x) in floats.iter().enumerate() {
                let got = row[geometry.index(at / CHANNELS, at % CHANNELS)];
                assert_eq!(got, quantiser.quantise(*x), "SiLU of {x}, times {multiplier}");
            }
        }
    }
}
