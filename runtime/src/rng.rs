//! Noise by counter: ChaCha8 keyed by a `u64` seed, one stream per draw, Gaussians by Box–Muller in [`crate::math`].
//!
//! A value is a function of (seed, stream, index) and of nothing else, so the order in which code asks does not matter.
//! Stream 0 is x_T; stream k + 1 is the noise that a stochastic sampler adds at its k-th step. Host tools use other
//! streams of their own seeds for initial weights, shuffles and training noise.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::math;

/// One reproducible stream of numbers, chosen by (seed, stream).
#[derive(Clone, Debug)]
pub struct NoiseStream {
    rng: ChaCha8Rng,
    spare: Option<f32>,
}

impl NoiseStream {
    /// Stream number `stream` of `seed`, from its start.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(stream);
        Self { rng, spare: None }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        self.rng.next_u32()
    }

    /// Uniform in [0, 1) with 24 bits.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in 0..n without bias worth naming (multiply-shift on 32 bits; n ≤ 2²⁴). Returns 0 when n is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(n)) >> 32) as u32
    }

    /// Standard normal: of each pair of 32-bit words (a, b), u = ((a >> 8) + 1)/2²⁴, θ = 2π·(b >> 8)/2²⁴,
    /// first √(−2 ln u)·cos θ, then √(−2 ln u)·sin θ.
    pub fn next_gaussian(&mut self) -> f32 {
        if let Some(z) = self.spare.take() {
            return z;
        }
        const UNIT: f32 = 1.0 / 16_777_216.0;
        let u = ((self.next_u32() >> 8) + 1) as f32 * UNIT;
        let theta = (self.next_u32() >> 8) as f32 * UNIT * core::f32::consts::TAU;
        let radius = math::sqrt(-2.0 * math::ln(u));
        let (sin, cos) = math::sin_cos(theta);
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Fills `out` with standard normals.
    pub fn fill_gaussian(&mut self, out: &mut [f32]) {
        for x in out {
            *x = self.next_gaussian();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaussian_moments() {
        let mut stream = NoiseStream::new(7, 0);
        let n = 200_000;
        let (mut m1, mut m2, mut m4) = (0.0f64, 0.0f64, 0.0f64);
        for _ in 0..n {
            let z = f64::from(stream.next_gaussian());
            m1 += z;
            m2 += z * z;
            m4 += z * z * z * z;
        }
        let n = f64::from(n);
        // Five standard errors: of the mean 1/√n, of the variance √(2/n), of the fourth moment √(96/n).
        assert!((m1 / n).abs() < 5.0 / n.sqrt());
        assert!((m2 / n - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        assert!((m4 / n - 3.0).abs() < 5.0 * (96.0 / n).sqrt());
    }

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |seed, stream| NoiseStream::new(seed, stream).next_u32();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn chacha8_matches_published_vector() {
        // First words of the ChaCha8 key stream for the all-zero key and nonce
        // (draft-strombergson-chacha-test-vectors-01, TC1, 8 rounds, 256-bit key): 3e00ef2f895f40d67f5bb8e81f09a5a1.
        let mut stream = NoiseStream::new(0, 0);
        let want: [u32; 4] = [0x2fef_003e, 0xd640_5f89, 0xe8b8_5b7f, 0xa1a5_091f];
        assert_eq!(want, core::array::from_fn(|_| stream.next_u32()));
    }
}
