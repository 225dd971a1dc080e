//! Computers: whole rows of convolutions in vectors of output channels, with what the processor turns out to have.
//!
//! The choice is made at run time, so that one program is fast on every x86-64; elsewhere the compiler makes vectors of the
//! plain loops. Every choice gives the same bits: integer sums are exact, and f32 operations keep their order.

#![allow(unsafe_code)] // Instructions that not every processor has, and memory that is not initialised; each block says why.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod detect;
#[cfg(target_arch = "x86_64")]
mod feed;
#[cfg(target_arch = "x86_64")]
mod feed512;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod mix;
#[cfg(target_arch = "x86_64")]
mod narrow;
#[cfg(target_arch = "x86_64")]
mod place;
mod prepare;
mod row;
mod winograd;

use super::{Feed, FeedTarget, Finish, Geometry, Mix, Residual, RowSource, Taps, portable};
use crate::tensor::ElementsMut;
#[cfg(target_arch = "x86_64")]
use detect::Level;
use lanes::Plain;

pub use super::portable::{BLOB_ALIGN, feed, finish, phase, winograd_input, winograd_products};
pub(crate) use prepare::Prepared;

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "host";

/// Brings direct weights of `cout` channels into the order of [`direct_row`], for rows of a geometry.
pub(crate) fn prepare(weight: &[u8], geometry: &Geometry, cout: usize, prepared: &mut Prepared) {
    #[cfg(target_arch = "x86_64")]
    match detect::level() {
        Level::Baseline => {}
        // SAFETY: the processor has what the function is compiled for.
        Level::Avx2 => return unsafe { x86::prepare_avx2(weight, geometry, cout, prepared) },
        // SAFETY: as above.
        Level::Avx512 => return unsafe { x86::prepare_avx512(weight, geometry, cout, prepared) },
    }
    prepared.write_for::<Plain>(weight, geometry, cout);
}

/// Quantises a row of any storage; `false` leaves it to the caller, who calls [`portable::feed_with`]: the definition.
pub(crate) fn feed_row(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    #[cfg(target_arch = "x86_64")]
    match detect::level() {
        Level::Baseline => {}
        // SAFETY: the processor has what the functions are compiled for.
        Level::Avx512 if unsafe { feed512::feed(source, feed, target) } => return true,
        // SAFETY: as above.
        Level::Avx2 | Level::Avx512 => return unsafe { feed::feed(source, feed, target) },
    }
    let _ = (source, feed, target);
    false
}

/// Attention from queries to mixed values; `false` leaves it to the caller, whose loop (`ops/attention.rs`) defines the result.
pub(crate) fn mix(mix: &mut Mix<'_>) -> bool {
    #[cfg(target_arch = "x86_64")]
    match detect::level() {
        Level::Baseline => {}
        // SAFETY: the processor has what the functions are compiled for.
        Level::Avx512 if unsafe { x86::mix_avx512(mix) } => return true,
        // SAFETY: as above.
        Level::Avx2 | Level::Avx512 => return unsafe { x86::mix_avx2(mix) },
    }
    let _ = mix;
    false
}

/// A tensor to 8 bits, as `ops/narrow.rs` does it; its channels are as many as scales. `false` leaves it to the caller.
pub fn narrow(values: &[half::f16], integers: &mut [i8], scales: &mut [f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if detect::level() >= Level::Avx2 {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { narrow::narrow(values, integers, scales) };
    }
    let _ = (values, integers, scales);
    false
}

/// acc\[o\]\[p\] = Σ input · weight, as [`portable::direct`] defines it.
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    if detect::level() >= Level::Avx2 {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { x86::direct_avx2(taps, weight, x, pixels, acc) };
    }
    portable::direct(taps, weight, x, pixels, acc);
}

/// Output row `y`, whole: the sums of [`direct`], stored as by [`finish`]; `block.acc` is not used. Row 0 is the first after
/// [`prepare`], and the others follow in order. `false`: not done, because nothing is prepared.
pub(crate) fn direct_row(
    prepared: &mut Prepared,
    y: usize,
    taps: &Taps<'_>,
    block: &Finish<'_>,
    residual: Residual<'_>,
    out: ElementsMut<'_>,
    sums: &mut [f32],
) -> bool {
    #[cfg(target_arch = "x86_64")]
    match detect::level() {
        Level::Baseline => {}
        // SAFETY: the processor has what the function is compiled for.
        Level::Avx2 => return unsafe { x86::row_avx2(prepared, y, taps, block, residual, out, sums) },
        // SAFETY: as above.
        Level::Avx512 => return unsafe { x86::row_avx512(prepared, y, taps, block, residual, out, sums) },
    }
    row::row::<Plain, 2>(prepared, y, taps, block, residual, out, sums)
}

/// The loops once more for processors with more.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;

    #[target_feature(enable = "avx2")]
    pub(super) fn prepare_avx2(weight: &[u8], geometry: &Geometry, cout: usize, prepared: &mut Prepared) {
        prepared.write_for::<avx2::Avx2>(weight, geometry, cout);
    }

    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn prepare_avx512(weight: &[u8], geometry: &Geometry, cout: usize, prepared: &mut Prepared) {
        prepared.write_for::<avx512::Avx512>(weight, geometry, cout);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn direct_avx2(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
        portable::direct(taps, weight, x, pixels, acc);
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn mix_avx2(mix: &mut Mix<'_>) -> bool {
        mix::mix::<avx2::Avx2>(mix)
    }

    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl")]
    pub(super) fn mix_avx512(mix: &mut Mix<'_>) -> bool {
        mix::mix::<avx512::Avx512>(mix)
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn row_avx2(
        prepared: &mut Prepared,
        y: usize,
        taps: &Taps<'_>,
        block: &Finish<'_>,
        residual: Residual<'_>,
        out: ElementsMut<'_>,
        sums: &mut [f32],
    ) -> bool {
        row::row::<avx2::Avx2, 2>(prepared, y, taps, block, residual, out, sums)
    }

    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn row_avx512(
        prepared: &mut Prepared,
        y: usize,
        taps: &Taps<'_>,
        block: &Finish<'_>,
        residual: Residual<'_>,
        out: ElementsMut<'_>,
        sums: &mut [f32],
    ) -> bool {
        row::row::<avx512::Avx512, 4>(prepared, y, taps, block, residual, out, sums)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, Case, Kernels, RowLoop};
    use super::lanes::Lanes;
    use super::*;
    use crate::f16 as convert;
    use half::f16;
    use std::vec::Vec;

    /// Every loop that this processor can run.
    fn row_loops() -> Vec<RowLoop> {
        let mut loops: Vec<RowLoop> = Vec::new();
        loops.push(|weight, prepared, y, taps, block, residual, out, sums| {
            if y == 0 {
                prepared.write_for::<Plain>(weight, &taps.geometry, block.scale.len());
            }
            row::row::<Plain, 2>(prepared, y, taps, block, residual, out, sums)
        });
        loops.push(|weight, prepared, y, taps, block, residual, out, sums| {
            if y == 0 {
                prepare(weight, &taps.geometry, block.scale.len(), prepared);
            }
            direct_row(prepared, y, taps, block, residual, out, sums)
        });
        #[cfg(target_arch = "x86_64")]
        if detect::level() >= Level::Avx2 {
            loops.push(|weight, prepared, y, taps, block, residual, out, sums| {
                // SAFETY: the processor has what the functions are compiled for.
                unsafe {
                    if y == 0 {
                        x86::prepare_avx2(weight, &taps.geometry, block.scale.len(), prepared);
                    }
                    x86::row_avx2(prepared, y, taps, block, residual, out, sums)
                }
            });
        }
        loops
    }

    #[test]
    fn every_row_is_the_definition() {
        for run in row_loops() {
            for index in 0..120 {
                Case::draw(index).check_row(run);
            }
        }
    }

    #[test]
    fn every_algorithm_is_the_definition() {
        for index in 0..60 {
            let (strided_input, strided_products) = (portable::strided_input, portable::strided_products);
            Case::draw(index).check(&Kernels {
                direct,
                phase,
                winograd_input,
                winograd_products,
                strided_input,
                strided_products,
            });
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_fed_row_is_the_definition() {
        if detect::level() >= Level::Avx2 {
            // SAFETY: the processor has what the function is compiled for.
            let avx2 = |source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>| unsafe {
                feed::feed(source, feed, target)
            };
            for run in [feed_row, avx2] {
                check::check_feed(run);
                check::check_silu(run);
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_processors_conversions_are_ours() {
        if detect::level() >= Level::Avx2 {
            // SAFETY: the processor has what the function is compiled for.
            unsafe { conversions_avx2() };
        }
        if detect::level() == Level::Avx512 {
            // SAFETY: as above.
            unsafe { conversions_avx512() };
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    fn conversions_avx2() {
        conversions::<avx2::Avx2>();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn conversions_avx512() {
        conversions::<avx512::Avx512>();
    }

    /// Every half; every midpoint between two halves and one step of f32 to either side; a walk over all exponents.
    #[inline(always)]
    fn conversions<V: Lanes>() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let mut floats = [0.0; 16];
            V::store_floats(V::load_halves(&[half; 16]), &mut floats);
            let want = convert::to_f32(half);
            assert!(floats[0].to_bits() == want.to_bits() || floats[0].is_nan() && want.is_nan(), "{bits:04x}");
        }
        for bits in 0..0x7c00u16 {
            let low = convert::to_f32(f16::from_bits(bits));
            let high = if bits == 0x7bff { 65536.0 } else { convert::to_f32(f16::from_bits(bits + 1)) };
            let middle = (low + high) / 2.0;
            for x in [low, middle, middle.next_up(), middle.next_down(), high.next_down()] {
                check_store::<V>(x);
                check_store::<V>(-x);
            }
        }
        for bits in (0..=u32::MAX).step_by(4093) {
            check_store::<V>(f32::from_bits(bits));
        }
    }

    #[inline(always)]
    fn check_store<V: Lanes>(x: f32) {
        let (mut halves, mut floats) = ([f16::ZERO; 16], [0.0; 16]);
        V::store_floats(V::store_halves(V::load_floats(&[x; 16]), &mut halves), &mut floats);
        let want = convert::from_f32(x);
        if x.is_nan() {
            assert!(halves[0].is_nan() && floats[0].is_nan());
        } else {
            assert_eq!(halves[0].to_bits(), want.to_bits(), "{x}");
            assert_eq!(floats[0].to_bits(), convert::to_f32(want).to_bits(), "{x}");
        }
    }
}
