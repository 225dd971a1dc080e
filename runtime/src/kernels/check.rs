//! Holds a back end to the definition of convolution, over random shapes, tails and extreme values; for tests.

use super::{Geometry, Taps};
use crate::blob::{BLOCK_PIXELS, PlainWeights, direct_bytes, phases_bytes, winograd_bytes};
use crate::rng::NoiseStream;
use std::vec;
use std::vec::Vec;

/// The loops of a back end.
#[allow(clippy::type_complexity, reason = "the signatures of the loops, once")]
pub(super) struct Kernels {
    pub(super) direct: fn(&Taps<'_>, &[u8], usize, usize, &mut [i32]),
    pub(super) phase: fn([Option<&[i16]>; 2], &Geometry, &[u8], usize, usize, &mut [i32]),
    pub(super) winograd_input: fn([&[i16]; 4], &Geometry, usize, &mut [i16]),
    pub(super) winograd_products: fn(&[i16], usize, &[u8], &mut [i32], &mut [i32]),
}

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
    /// Four rows \[column\]\[cin\], zero where a padding column or an absent row is.
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
        let rows = (0..4).map(|_| (0..width * stride * cin).map(|_| draw(most) as i16).collect()).collect();
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

    fn check_winograd(&self, kernels: &Kernels) {
        let geometry = self.geometry(self.width);
        let mut packed = vec![0; winograd_bytes(self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_winograd(&mut packed);
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

    /// Rows 0 and 1 of the source under the two output rows between them.
    fn check_phases(&self, kernels: &Kernels) {
        let geometry = self.geometry(self.width);
        let mut packed = vec![0; phases_bytes(self.cin as u32, self.cout as u32) as usize];
        self.plain().pack_phases(&mut packed);
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
