//! The reference loops in plain Rust: exact i32 sums of int8 weights and int16 inputs.

use super::Taps;
use crate::blob::BLOCK_PIXELS;

/// acc\[p\]\[o\] = Σ input · weight for `pixels` (1..=4) neighbouring outputs from column `x`, and every output channel.
///
/// `weight` is \[cout\]\[kernel\]\[kernel\]\[cin\]; `acc` holds at least `pixels` · cout values.
pub fn conv_block(taps: &Taps<'_>, weight: &[i8], x: usize, pixels: usize, acc: &mut [i32]) {
    let span = taps.kernel * taps.cin;
    let cout = weight.len() / (taps.kernel * span).max(1);
    let step = taps.stride * taps.cin;
    for (o, filter) in weight.chunks_exact((taps.kernel * span).max(1)).enumerate() {
        let mut sums = [0i32; BLOCK_PIXELS];
        for (row, filter_row) in taps.rows.iter().zip(filter.chunks_exact(span)) {
            let Some(row) = row else { continue };
            let window = |p: usize| &row[(x * step + p * step)..][..span];
            if pixels == BLOCK_PIXELS {
                dot4([window(0), window(1), window(2), window(3)], filter_row, &mut sums);
            } else {
                for (p, sum) in sums.iter_mut().enumerate().take(pixels) {
                    *sum += dot(window(p), filter_row);
                }
            }
        }
        for (p, sum) in sums.iter().enumerate().take(pixels) {
            acc[p * cout + o] = *sum;
        }
    }
}

/// acc\[o\] = Σ input · weight; `weight` is \[cout\]\[cin\].
pub fn linear(input: &[i16], weight: &[i8], acc: &mut [i32]) {
    for (sum, row) in acc.iter_mut().zip(weight.chunks_exact(input.len().max(1))) {
        *sum = dot(input, row);
    }
}

fn dot(input: &[i16], weight: &[i8]) -> i32 {
    input.iter().zip(weight).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum()
}

/// Four dot products with one pass over the weights.
fn dot4(inputs: [&[i16]; BLOCK_PIXELS], weight: &[i8], sums: &mut [i32; BLOCK_PIXELS]) {
    let [a, b, c, d] = inputs.map(|input| &input[..weight.len()]);
    let mut s = [0i32; BLOCK_PIXELS];
    for (i, &w) in weight.iter().enumerate() {
        let w = i32::from(w);
        s[0] += i32::from(a[i]) * w;
        s[1] += i32::from(b[i]) * w;
        s[2] += i32::from(c[i]) * w;
        s[3] += i32::from(d[i]) * w;
    }
    for (sum, s) in sums.iter_mut().zip(s) {
        *sum += s;
    }
}
