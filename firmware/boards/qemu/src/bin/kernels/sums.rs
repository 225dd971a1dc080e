//! The integer loops: direct, phases and the two halves of Winograd and of strided convolutions.

use picodream::blob::{BLOCK_PIXELS, Expansion, Transform};
use picodream::kernels::{self, Geometry, Taps, portable};

use crate::chance::{Aligned, Chance, compare};

const MAX_PAIRS: usize = 21;
const MAX_OUT_PAIRS: usize = 6;
/// Four blocks of eight, or three at stride 2, with padding.
const MAX_COLUMNS: usize = 50;
const ROW: usize = 2 * MAX_PAIRS * MAX_COLUMNS;
/// Inputs are within ±4096, weights within ±127; sums of odd channels may pass 2²³, where they wrap.
const INPUT: i32 = 4096;
/// Weights of a case, of any algorithm.
const WEIGHT_BYTES: usize = 9 * 4 * MAX_PAIRS * MAX_OUT_PAIRS;
const UNTOUCHED: i32 = 0x5a5a_5a5a;

/// A layer, its rows and its weights; one in eight lies where no word may be read at once.
struct Case {
    geometry: Geometry,
    out_pairs: usize,
    /// Elements, and bytes, by which rows and weights are shifted.
    shift: (usize, usize),
    rows: [Aligned<i16, { ROW + 8 }>; 5],
    present: [bool; 4],
    weight: Aligned<u8, { WEIGHT_BYTES + 4 }>,
}

impl Case {
    fn draw(chance: &mut Chance, kernel: usize, stride: usize) -> Self {
        let most = if chance.one_in(4) { 3 } else { MAX_PAIRS };
        let pairs = 1 + chance.below(most);
        let blocks = 1 + chance.below(if stride == 2 { 3 } else { 4 });
        let columns = BLOCK_PIXELS * blocks * stride + if kernel == 1 { 0 } else { 2 };
        let odd = chance.one_in(8);
        let mut case = Self {
            geometry: Geometry { kernel, stride, pairs, columns },
            out_pairs: 1 + chance.below(MAX_OUT_PAIRS),
            shift: if odd { (chance.below(2), chance.below(4)) } else { (2 * chance.below(3), 4 * chance.below(2)) },
            rows: [const { Aligned([0; ROW + 8]) }; 5],
            present: core::array::from_fn(|_| !chance.one_in(6)),
            weight: Aligned([0; WEIGHT_BYTES + 4]),
        };
        for row in &mut case.rows {
            let zeros = chance.one_in(8);
            row.0.iter_mut().for_each(|value| *value = if zeros { 0 } else { chance.within(INPUT) as i16 });
        }
        case
    }

    fn fill_weights(&mut self, mut halfword: impl FnMut() -> i32) {
        let shift = self.shift.1;
        for bytes in self.weight.0[shift..].as_chunks_mut::<2>().0 {
            *bytes = (halfword() as i16).to_le_bytes();
        }
    }

    fn weight(&self, bytes: usize) -> &[u8] {
        &self.weight.0[self.shift.1..][..bytes]
    }

    fn row(&self, index: usize) -> &[i16] {
        &self.rows[index].0[self.shift.0..][..self.geometry.len()]
    }

    fn row_or_none(&self, index: usize) -> Option<&[i16]> {
        self.present[index].then(|| self.row(index))
    }
}

/// Sums of the block's first pixels; nothing behind the last channel may be written.
pub fn direct(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(21, index);
    let (kernel, stride) = [(3, 1), (1, 1), (3, 2)][chance.below(3)];
    let mut case = Case::draw(&mut chance, kernel, stride);
    case.fill_weights(|| 256 * chance.within(128).max(-127) + chance.within(128).max(-127));
    let geometry = case.geometry;
    let rows = core::array::from_fn(|k| if k < kernel { case.row_or_none(k) } else { None });
    let weight = case.weight(kernel * kernel * geometry.pairs * 4 * case.out_pairs);
    let used = case.out_pairs * 2 * BLOCK_PIXELS;
    for x in (0..geometry.columns / stride / BLOCK_PIXELS * BLOCK_PIXELS).step_by(BLOCK_PIXELS) {
        let pixels = 1 + chance.below(BLOCK_PIXELS);
        let mut accs = [const { Aligned([UNTOUCHED; 2 * BLOCK_PIXELS * (MAX_OUT_PAIRS + 1)]) }; 2];
        let [got, want] = &mut accs;
        let taps = Taps { rows, geometry };
        kernels::direct(&taps, weight, x, pixels, &mut got.0[..used]);
        portable::direct(&taps, weight, x, pixels, &mut want.0[..used]);
        for (o, (got, want)) in got.0.chunks(BLOCK_PIXELS).zip(want.0.chunks(BLOCK_PIXELS)).enumerate() {
            let pixels = if o < 2 * case.out_pairs { pixels } else { BLOCK_PIXELS };
            compare(&got[..pixels], &want[..pixels]).map_err(|p| o * BLOCK_PIXELS + p)?;
        }
    }
    Ok(())
}

/// One parity of the columns; the other parity's sums stay as they are.
pub fn phase(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(22, index);
    let mut case = Case::draw(&mut chance, 3, 1);
    case.fill_weights(|| chance.within(4 * 127 + 1));
    let geometry = case.geometry;
    let rows = [case.row_or_none(0), case.row_or_none(1)];
    let weight = case.weight(16 * geometry.pairs * case.out_pairs);
    let used = case.out_pairs * 2 * BLOCK_PIXELS;
    for x in (0..geometry.columns - 2).step_by(BLOCK_PIXELS / 2) {
        for parity in 0..2 {
            let mut accs = [const { Aligned([UNTOUCHED; 2 * BLOCK_PIXELS * (MAX_OUT_PAIRS + 1)]) }; 2];
            let [got, want] = &mut accs;
            kernels::phase(rows, &geometry, weight, x, parity, &mut got.0[..used]);
            portable::phase(rows, &geometry, weight, x, parity, &mut want.0[..used]);
            compare(&got.0, &want.0)?;
        }
    }
    Ok(())
}

/// Transformed inputs of every block of a row.
pub fn winograd_input(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(23, index);
    let case = Case::draw(&mut chance, 3, 1);
    let geometry = case.geometry;
    let rows = core::array::from_fn(|k| case.row(k));
    for x in (0..geometry.columns - 2).step_by(BLOCK_PIXELS) {
        let mut tiles = [const { Aligned([UNTOUCHED as i16; 128 * MAX_PAIRS + 8]) }; 2];
        let [got, want] = &mut tiles;
        let used = case.shift.0..case.shift.0 + 128 * geometry.pairs;
        kernels::winograd_input(rows, &geometry, x, &mut got.0[used.clone()]);
        portable::winograd_input(rows, &geometry, x, &mut want.0[used]);
        compare(&got.0, &want.0)?;
    }
    Ok(())
}

/// Products and output transform of one pair of channels.
pub fn winograd_products(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(24, index);
    let mut case = Case::draw(&mut chance, 3, 1);
    case.fill_weights(|| chance.within(9 * 127 + 1));
    let mut tiles = Aligned([0i16; 128 * MAX_PAIRS + 8]);
    tiles.0.iter_mut().for_each(|value| *value = chance.within(4 * INPUT) as i16);
    let pairs = case.geometry.pairs;
    let (tiles, weight) = (&tiles.0[case.shift.0..][..128 * pairs], case.weight(128 * pairs));
    let mut accs = [[UNTOUCHED; 40]; 2];
    let [got, want] = &mut accs;
    kernels::winograd_products(tiles, pairs, weight, &mut [0; 128], &mut got[..32]);
    portable::winograd_products(tiles, pairs, weight, &mut [0; 128], &mut want[..32]);
    compare(got, want)
}

/// Transformed inputs of every block of a row at stride 2.
pub fn strided_input(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(31, index);
    let case = Case::draw(&mut chance, 3, 2);
    let geometry = case.geometry;
    let rows = core::array::from_fn(|k| case.row(k));
    for x in (0..geometry.columns - 2).step_by(2 * BLOCK_PIXELS) {
        let mut tiles = [const { Aligned([UNTOUCHED as i16; 200 * MAX_PAIRS + 8]) }; 2];
        let [got, want] = &mut tiles;
        let used = case.shift.0..case.shift.0 + 200 * geometry.pairs;
        kernels::strided_input(rows, &geometry, x, &mut got.0[used.clone()]);
        portable::strided_input(rows, &geometry, x, &mut want.0[used]);
        compare(&got.0, &want.0)?;
    }
    Ok(())
}

/// Products and outputs of a few pairs of channels, of the block's first pixels.
pub fn strided_products(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(32, index);
    let mut case = Case::draw(&mut chance, 3, 2);
    case.fill_weights(|| chance.within(4 * 127 + 1));
    let mut tiles = Aligned([0i16; 200 * MAX_PAIRS + 8]);
    tiles.0.iter_mut().for_each(|value| *value = chance.within(4 * INPUT) as i16);
    let (pairs, pixels) = (case.geometry.pairs, 1 + chance.below(BLOCK_PIXELS));
    let tiles = &tiles.0[case.shift.0..][..200 * pairs];
    // As many as there are weights for.
    let out_pairs = 1 + chance.below(WEIGHT_BYTES / (128 * pairs)).min(5);
    let weight = case.weight(128 * pairs * out_pairs);
    let (mut accs, mut sums) = ([[UNTOUCHED; 32 * 6 + 8]; 2], [0; 72 * 6]);
    let [got, want] = &mut accs;
    kernels::strided_products(tiles, pairs, weight, pixels, &mut sums[..72 * out_pairs], &mut got[..32 * out_pairs]);
    portable::strided_products(tiles, pairs, weight, pixels, &mut [], &mut want[..32 * out_pairs]);
    for (o, (got, want)) in got.chunks(BLOCK_PIXELS).zip(want.chunks(BLOCK_PIXELS)).enumerate() {
        let pixels = if o < 4 * out_pairs { pixels } else { BLOCK_PIXELS };
        compare(&got[..pixels], &want[..pixels]).map_err(|p| o * BLOCK_PIXELS + p)?;
    }
    Ok(())
}

/// Direct weights of a few pairs of channels to Winograd's and to those of phases.
pub fn expand(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(30, index);
    let mut case = Case::draw(&mut chance, 3, 1);
    case.fill_weights(|| 256 * chance.within(128).max(-127) + chance.within(128).max(-127));
    let (in_pairs, out_pairs) = (case.geometry.pairs, case.out_pairs.min(3));
    for transform in [Transform::Winograd, Transform::Phases] {
        let expansion = Expansion { transform, in_pairs, out_pairs };
        let direct = case.weight(36 * in_pairs * out_pairs);
        let mut parts = [const { Aligned([0x5a; 128 * MAX_PAIRS * 3 + 16]) }; 2];
        let [got, want] = &mut parts;
        kernels::expand(&expansion, direct, &mut got.0[..128 * in_pairs * out_pairs]);
        expansion.expand(direct, &mut want.0[..128 * in_pairs * out_pairs]);
        compare(&got.0, &want.0)?;
    }
    Ok(())
}

/// Four pairs of channels at once, against one after the other.
pub fn winograd_eight(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(29, index);
    let mut case = Case::draw(&mut chance, 3, 1);
    case.fill_weights(|| chance.within(9 * 127 + 1));
    // As many as there are weights for.
    let pairs = case.geometry.pairs.min(8);
    let mut tiles = Aligned([0i16; 128 * 8 + 8]);
    tiles.0.iter_mut().for_each(|value| *value = chance.within(4 * INPUT) as i16);
    let (tiles, weight) = (&tiles.0[case.shift.0..][..128 * pairs], case.weight(512 * pairs));
    let mut got = [UNTOUCHED; 136];
    if !kernels::winograd_eight(tiles, pairs, weight, &mut got[..128]) {
        return Ok(());
    }
    for (pair, weight) in weight.chunks(128 * pairs).enumerate() {
        let mut want = [0; 32];
        portable::winograd_products(tiles, pairs, weight, &mut [0; 128], &mut want);
        for (row, want) in want.chunks(16).enumerate() {
            let first = 64 * row + 16 * pair;
            compare(&got[first..first + 16], want).map_err(|at| first + at)?;
        }
    }
    compare(&got[128..], &[UNTOUCHED; 8]).map_err(|at| 128 + at)
}
