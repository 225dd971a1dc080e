//! 4-bit weights: how they lie in the blob, and how they become direct weights again before a convolution.
//!
//! A weight is q · m with q in −8..=7 of its own and m in 0..=15 shared by a group: the words `16·g..16·g + 16` of one
//! output channel in the order of direct weights (`packing.rs`), which is 32 weights. The products fit int8, so behind the
//! unpacking every kernel is the one for int8 weights, with the same sums.
//!
//! - **groups** \[cout / 2\]\[words / 16\] bytes: m of the even output channel, and m of the odd one in the upper four bits.
//! - **nibbles** \[cout / 2\]\[ky\]\[cp\]\[kx\]\[2 input channels\] bytes: q of the even output channel, and of the odd one above.

use super::packing::{PlainWeights, direct_bytes};

/// Words of direct weights that share multipliers.
pub const GROUP_WORDS: usize = 16;

/// Bytes of the 4-bit weights of a convolution: half of the direct ones.
#[must_use]
pub fn nibble_bytes(kernel: u32, cin: u32, cout: u32) -> u64 {
    direct_bytes(kernel, cin, cout) / 2
}

/// Bytes of their multipliers.
#[must_use]
pub fn group_bytes(kernel: u32, cin: u32, cout: u32) -> u64 {
    let words = u64::from(kernel) * u64::from(kernel) * u64::from(cin).div_ceil(2);
    u64::from(cout).div_ceil(2) * words.div_ceil(GROUP_WORDS as u64)
}

/// Group of input (ky, kx, c) of a convolution's weights.
#[must_use]
pub const fn group_of(kernel: usize, cin: usize, (ky, kx, c): (usize, usize, usize)) -> usize {
    ((ky * cin.div_ceil(2) + c / 2) * kernel + kx) / GROUP_WORDS
}

/// Packs weights that are multiples of their group's multiplier, `multipliers` \[cout\]\[groups\]; `groups` holds
/// [`group_bytes`] and `nibbles` [`nibble_bytes`].
pub fn pack_nibbles(plain: &PlainWeights<'_>, multipliers: &[u8], groups: &mut [u8], nibbles: &mut [u8]) {
    let PlainWeights { kernel, cin, cout, .. } = *plain;
    let per_channel = group_of(kernel, cin, (kernel - 1, kernel - 1, cin - 1)) + 1;
    let multiplier = |o: usize, group: usize| if o < cout { multipliers[o * per_channel + group] } else { 0 };
    for (i, byte) in groups.iter_mut().enumerate() {
        let (pair, group) = (i / per_channel, i % per_channel);
        *byte = multiplier(2 * pair, group) | multiplier(2 * pair + 1, group) << 4;
    }
    let mut bytes = nibbles.iter_mut();
    for pair in 0..cout.div_ceil(2) {
        for (ky, cp) in (0..kernel).flat_map(|ky| (0..cin.div_ceil(2)).map(move |cp| (ky, cp))) {
            for (kx, c) in (0..kernel).flat_map(|kx| [(kx, 2 * cp), (kx, 2 * cp + 1)]) {
                let group = group_of(kernel, cin, (ky, kx, c));
                let nibble = |o: usize| {
                    let m = i32::from(multiplier(o, group));
                    (if m == 0 { 0 } else { plain.get(o, ky, kx, c) / m }) as u8 & 15
                };
                if let Some(byte) = bytes.next() {
                    *byte = nibble(2 * pair) | nibble(2 * pair + 1) << 4;
                }
            }
        }
    }
}

/// Writes direct weights over `out`, which holds twice the bytes of `nibbles`, those of `pairs` pairs of output channels.
pub fn unpack_nibbles(groups: &[u8], nibbles: &[u8], pairs: usize, out: &mut [u8]) {
    let (of_groups, of_nibbles) = (groups.len() / pairs.max(1), nibbles.len() / pairs.max(1));
    let rows = groups.chunks_exact(of_groups.max(1)).zip(nibbles.chunks_exact(of_nibbles.max(1)));
    for ((groups, nibbles), out) in rows.zip(out.chunks_exact_mut((2 * of_nibbles).max(1))) {
        let runs = nibbles.chunks(2 * GROUP_WORDS).zip(out.chunks_mut(4 * GROUP_WORDS));
        for (&both, (nibbles, out)) in groups.iter().zip(runs) {
            let (even, odd) = (i32::from(both & 15), i32::from(both >> 4) << 8);
            for (&byte, halfword) in nibbles.iter().zip(out.as_chunks_mut::<2>().0) {
                let (low, high) = (i32::from((byte << 4).cast_signed() >> 4), i32::from(byte.cast_signed() >> 4));
                *halfword = ((high * odd + low * even) as i16).to_le_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;
    use crate::rng::NoiseStream;

    /// Weights that are q · m, with their multipliers.
    fn weights(kernel: usize, cin: usize, cout: usize) -> (Vec<i8>, Vec<u8>) {
        let mut noise = NoiseStream::new(5, (kernel * 1000 + cin * 50 + cout) as u64);
        let mut integer = |n: u32| (noise.next_gaussian().abs() * 1e4) as u32 % n;
        let groups = (kernel * kernel * cin.div_ceil(2)).div_ceil(GROUP_WORDS);
        let multipliers: Vec<u8> = (0..cout * groups).map(|_| integer(16) as u8).collect();
        let mut plain = Vec::new();
        for o in 0..cout {
            for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                for c in 0..cin {
                    let m = i32::from(multipliers[o * groups + group_of(kernel, cin, (ky, kx, c))]);
                    plain.push(((integer(16) as i32 - 8) * m) as i8);
                }
            }
        }
        (plain, multipliers)
    }

    #[test]
    fn unpacked_weights_are_the_direct_ones() {
        for (kernel, cin, cout) in [(3, 16, 16), (3, 48, 8), (1, 32, 6), (3, 3, 5), (1, 1, 1), (3, 7, 2)] {
            let (plain, multipliers) = weights(kernel, cin, cout);
            let plain = PlainWeights { weight: &plain, kernel, cin, cout };
            let (k, i, o) = (kernel as u32, cin as u32, cout as u32);
            let mut direct = vec![0; direct_bytes(k, i, o) as usize];
            plain.pack_direct(&mut direct);
            let (mut groups, mut nibbles) =
                (vec![0; group_bytes(k, i, o) as usize], vec![0; nibble_bytes(k, i, o) as usize]);
            pack_nibbles(&plain, &multipliers, &mut groups, &mut nibbles);
            let mut unpacked = vec![1; direct.len()];
            unpack_nibbles(&groups, &nibbles, cout.div_ceil(2), &mut unpacked);
            assert_eq!(unpacked, direct, "{kernel} {cin} {cout}");
        }
    }

    #[test]
    fn any_bytes_unpack_to_products_within_int8() {
        for byte in 0..=255u8 {
            for group in 0..=255u8 {
                let mut out = [0; 2];
                unpack_nibbles(&[group], &[byte], 1, &mut out);
                let both = i32::from(i16::from_le_bytes(out));
                let (even, odd) = (i32::from(both as i8), (both - i32::from(both as i8)) >> 8);
                let sign = |q: u8| if q > 7 { i32::from(q) - 16 } else { i32::from(q) };
                assert_eq!(even, sign(byte & 15) * i32::from(group & 15));
                assert_eq!(odd, sign(byte >> 4) * i32::from(group >> 4));
            }
        }
    }
}
