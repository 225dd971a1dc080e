//! 1×1 convolutions from inputs to outputs, against the portable sums and what makes outputs of them.

use half::f16;
use picodream::BACKEND;
use picodream::blob::BLOCK_PIXELS;
use picodream::f16::to_f32;
use picodream::kernels::{ElementsMut, Finish, Geometry, Point, Residual, Taps, portable};

use crate::chance::{Aligned, Chance, compare};
use crate::ends::{comparable, half, store};

const MAX_PAIRS: usize = 24;
const MAX_CHANNELS: usize = 80;
const MAX_COLUMNS: usize = 24;
/// A row's outputs, and some behind.
const OUT: usize = MAX_CHANNELS * MAX_COLUMNS + 12;
const UNTOUCHED: i32 = 0x5a5a_5a5a;
/// Where a case differs that the back end should not have declined.
const DECLINED: usize = usize::MAX;

/// A layer and one of its rows.
struct Case {
    geometry: Geometry,
    channels: usize,
    pixels: usize,
    /// Elements, and bytes, by which inputs and weights are shifted, and elements by which outputs are.
    shift: [usize; 3],
    row: Aligned<i16, { 2 * MAX_PAIRS * MAX_COLUMNS + 2 }>,
    weight: Aligned<u8, { 2 * MAX_PAIRS * MAX_CHANNELS + 4 }>,
    scale: Aligned<[u8; 4], MAX_CHANNELS>,
    bias: [f32; MAX_CHANNELS],
}

impl Case {
    fn draw(chance: &mut Chance) -> Self {
        let pairs = if chance.one_in(8) { 1 + chance.below(MAX_PAIRS) } else { 8 + 8 * chance.below(MAX_PAIRS / 8) };
        let channels =
            if chance.one_in(8) { 1 + chance.below(MAX_CHANNELS) } else { 8 + 8 * chance.below(MAX_CHANNELS / 8) };
        let columns = BLOCK_PIXELS * (1 + chance.below(MAX_COLUMNS / BLOCK_PIXELS));
        // Small scales are those whose products may be subnormal numbers.
        let exponent = if chance.one_in(8) { -36 } else { -12 };
        let odd = chance.one_in(8);
        let mut case = Self {
            geometry: Geometry { kernel: 1, stride: 1, pairs, columns },
            channels,
            pixels: 1 + chance.below(columns),
            shift: if odd { [chance.below(2), chance.below(4), chance.below(4)] } else { [0, 0, 2 * chance.below(2)] },
            row: Aligned([0; 2 * MAX_PAIRS * MAX_COLUMNS + 2]),
            weight: Aligned([0; 2 * MAX_PAIRS * MAX_CHANNELS + 4]),
            scale: Aligned(core::array::from_fn(|_| chance.float(exponent).abs().to_le_bytes())),
            bias: core::array::from_fn(|_| chance.float(0)),
        };
        // Sums of odd channels may pass 2²³, where they wrap.
        case.row.0.iter_mut().for_each(|value| *value = chance.within(4096) as i16);
        for bytes in case.weight.0[case.shift[1]..].as_chunks_mut::<2>().0 {
            let halfword = 256 * chance.within(128).max(-127) + chance.within(128).max(-127);
            *bytes = (halfword as i16).to_le_bytes();
        }
        case
    }

    fn row(&self) -> &[i16] {
        &self.row.0[self.shift[0]..][..self.geometry.len()]
    }

    fn weight(&self) -> &[u8] {
        &self.weight.0[self.shift[1]..][..4 * self.geometry.pairs * self.channels.div_ceil(2)]
    }

    /// The row by the back end; `false` when it has no loop for it.
    fn run(&self, residual: Residual<'_>, out: ElementsMut<'_>, sums: &mut [f32]) -> bool {
        let (scale, bias) = (&self.scale.0[..self.channels], &self.bias[..self.channels]);
        let Some(point) = Point::new(self.weight(), self.geometry, scale, bias) else { return false };
        let mut acc = [UNTOUCHED; BLOCK_PIXELS * MAX_CHANNELS + 8];
        let used = BLOCK_PIXELS * self.channels;
        let done = point.row(self.row(), self.pixels, residual, out, sums, &mut acc[..used]);
        done && acc[used..].iter().all(|word| *word == UNTOUCHED)
    }

    /// Whether this back end has a loop for it.
    fn expected(&self) -> bool {
        let normal = self.scale.0[..self.channels].iter().all(|scale| f32::from_le_bytes(*scale) > 1e-12);
        let whole = self.geometry.pairs.is_multiple_of(8) && self.channels.is_multiple_of(8);
        BACKEND == "cortex-m-helium" && whole && normal && self.shift[..2] == [0, 0] && self.shift[2].is_multiple_of(2)
    }

    /// The definition, block by block.
    fn define(&self, mut put: impl FnMut(usize, &mut [f32]), sums: &mut [f32]) {
        let taps = Taps { rows: [Some(self.row()), None, None], geometry: self.geometry };
        for x in (0..self.pixels).step_by(BLOCK_PIXELS) {
            let mut acc = [0; BLOCK_PIXELS * MAX_CHANNELS];
            let pixels = BLOCK_PIXELS.min(self.pixels - x);
            portable::direct(&taps, self.weight(), x, pixels, &mut acc);
            let channels = self.channels;
            let (scale, bias) = (&self.scale.0[..channels], &self.bias[..channels]);
            let block = Finish { acc: &acc, pixels, scale, bias, pitch: channels };
            portable::finish_with(&block, |at, values| put(x * channels + at, values), sums);
        }
    }
}

/// A row to halves, with any residual, with statistics or without; nothing else may be written.
pub fn halves(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(32, index);
    let case = Case::draw(&mut chance);
    let anything = chance.one_in(4);
    let mut wants = Aligned::<f16, OUT>(core::array::from_fn(|_| half(&mut chance, anything)));
    let elsewhere = Aligned::<f16, OUT>(core::array::from_fn(|_| half(&mut chance, anything)));
    let mut gots = Aligned(wants.0);
    let first = case.shift[2];
    let residual = [Residual::None, Residual::Elsewhere(&elsewhere.0[first..]), Residual::InPlace][chance.below(3)];
    let statistics = if chance.one_in(3) { 0 } else { 2 * case.channels };
    let mut sums = [[0.0f32; 2 * MAX_CHANNELS + 2]; 2];
    sums[0].iter_mut().for_each(|sum| *sum = chance.float(2));
    sums[1] = sums[0];
    let [got_sums, want_sums] = &mut sums;

    let out = ElementsMut::F16(&mut gots.0[first..]);
    if !case.run(residual, out, &mut got_sums[..statistics]) {
        return if case.expected() { Err(DECLINED) } else { Ok(()) };
    }
    let put = |at: usize, values: &mut [f32]| store(residual, at, values, &mut wants.0[first..]);
    case.define(put, &mut want_sums[..statistics]);
    compare(&gots.0.map(|half| comparable(to_f32(half))), &wants.0.map(|half| comparable(to_f32(half))))?;
    compare(&got_sums.map(comparable), &want_sums.map(comparable)).map_err(|at| at + OUT)
}

/// A row to floats.
pub fn floats(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(33, index);
    let case = Case::draw(&mut chance);
    let mut outs = [const { Aligned([-1.0f32; OUT]) }; 2];
    let [got, want] = &mut outs;
    let first = case.shift[2];
    let out = ElementsMut::F32(&mut got.0[first..]);
    if !case.run(Residual::None, out, &mut []) {
        return if case.expected() { Err(DECLINED) } else { Ok(()) };
    }
    case.define(|at, values| want.0[first + at..][..values.len()].copy_from_slice(values), &mut []);
    compare(&got.0.map(f32::to_bits), &want.0.map(f32::to_bits))
}
