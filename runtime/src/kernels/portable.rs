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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::NoiseStream;
    use std::vec::Vec;

    /// The definition, in i64, one output at a time.
    fn naive(taps: &Taps<'_>, weight: &[i8], cout: usize, x: usize, o: usize) -> i64 {
        let k = taps.kernel;
        let mut sum = 0i64;
        for (ky, row) in taps.rows.iter().enumerate().take(k) {
            let Some(row) = row else { continue };
            for kx in 0..k {
                for c in 0..taps.cin {
                    let w = weight[((o * k + ky) * k + kx) * taps.cin + c];
                    sum += i64::from(row[(x * taps.stride + kx) * taps.cin + c]) * i64::from(w);
                }
            }
        }
        assert!(o < cout);
        sum
    }

    #[test]
    fn conv_block_is_the_definition() {
        let mut stream = NoiseStream::new(11, 0);
        for case in 0..300 {
            let kernel = if case % 3 == 0 { 1 } else { 3 };
            let stride = 1 + stream.below(2) as usize;
            let (cin, cout) = (1 + stream.below(40) as usize, 1 + stream.below(20) as usize);
            let pixels = 1 + stream.below(4) as usize;
            let x = stream.below(5) as usize;
            let columns = (x + pixels - 1) * stride + kernel;
            // A third of the cases sits at the extremes: every product ±qmax · 127.
            let extreme = case % 3 == 1;
            let qmax = if case % 2 == 0 { 127 } else { 2047 };
            let mut draw = |limit: i32| match (extreme, stream.next_u32()) {
                (true, bits) => {
                    if bits % 2 == 0 {
                        limit
                    } else {
                        -limit
                    }
                }
                (false, bits) => (bits % (2 * limit as u32 + 1)) as i32 - limit,
            };
            let rows: Vec<Vec<i16>> = (0..3).map(|_| (0..columns * cin).map(|_| draw(qmax) as i16).collect()).collect();
            let weight: Vec<i8> = (0..cout * kernel * kernel * cin).map(|_| draw(127) as i8).collect();
            let mut used = [Some(&rows[0][..]), Some(&rows[1][..]), Some(&rows[2][..])];
            used[case % 3] = if kernel == 3 && case % 4 == 0 { None } else { used[case % 3] };
            let taps = Taps { rows: used, kernel, stride, cin };
            let mut acc = [0; 4 * 20];
            conv_block(&taps, &weight, x, pixels, &mut acc);
            for p in 0..pixels {
                for o in 0..cout {
                    assert_eq!(i64::from(acc[p * cout + o]), naive(&taps, &weight, cout, x + p, o), "case {case}");
                }
            }
        }
    }

    #[test]
    fn linear_is_the_definition() {
        let input = [3i16, -127, 2047, 5];
        let weight = [1i8, 2, 3, 4, -127, 127, 0, -1];
        let mut acc = [0; 2];
        linear(&input, &weight, &mut acc);
        assert_eq!(acc, [3 - 254 + 6141 + 20, -381 - 16129 - 5]);
    }
}
