//! The noise schedule: `alphas_cumprod` by timestep, as the blob carries it, read at any level of noise in between.

use crate::math;

/// How much noise there is: x_t = α·x0 + σ·ε with α² + σ² = 1 (the variance-preserving view).
///
/// The variance-exploding view of the same x is x/α with noise σ/α ([`Level::sigma_ve`]); the flow view is x/(α + σ) with
/// time σ/(α + σ) ([`Level::flow_time`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// What the network is told; between two timesteps a fraction.
    pub timestep: f32,
    /// ᾱ = α².
    pub alphas_cumprod: f32,
    /// 1 − ᾱ = σ², kept apart because it is small where ᾱ is near 1.
    pub variance: f32,
}

impl Level {
    /// No noise: the end of the way.
    pub const CLEAN: Self = Self { timestep: 0.0, alphas_cumprod: 1.0, variance: 0.0 };

    /// Whether there is no noise.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.variance <= 0.0
    }

    /// α = √ᾱ.
    #[must_use]
    pub fn alpha(&self) -> f32 {
        math::sqrt(self.alphas_cumprod)
    }

    /// σ = √(1 − ᾱ).
    #[must_use]
    pub fn sigma(&self) -> f32 {
        math::sqrt(self.variance)
    }

    /// σ/α, the noise of the variance-exploding view; infinite where nothing of the image is left.
    #[must_use]
    pub fn sigma_ve(&self) -> f32 {
        math::sqrt(self.variance / self.alphas_cumprod)
    }

    /// σ/(α + σ) in 0..=1, the time of the flow view (arXiv:2209.03003).
    #[must_use]
    pub fn flow_time(&self) -> f32 {
        let sigma = self.sigma();
        sigma / (self.alpha() + sigma)
    }

    /// θ in 0..=π/2 with α = cos θ, σ = sin θ (TrigFlow, arXiv:2410.11081).
    #[must_use]
    pub fn theta(&self) -> f32 {
        math::angle(self.alpha(), self.sigma())
    }

    /// ᾱ/(1 − ᾱ), the signal-to-noise ratio.
    #[must_use]
    pub fn snr(&self) -> f32 {
        self.alphas_cumprod / self.variance
    }

    /// ln of the signal-to-noise ratio; twice the λ of DPM-Solver. For 0 < ᾱ < 1.
    #[must_use]
    pub fn log_snr(&self) -> f32 {
        math::ln(self.alphas_cumprod) - math::ln(self.variance)
    }
}

/// ᾱ_t for t = 0..T, a view of little-endian f32 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Schedule<'a> {
    alphas_cumprod: &'a [u8],
}

impl<'a> Schedule<'a> {
    /// Over the bytes of T f32 values in 0..=1 that never rise.
    #[must_use]
    pub fn new(alphas_cumprod: &'a [u8]) -> Self {
        Self { alphas_cumprod }
    }

    /// T.
    #[must_use]
    pub fn num_train_timesteps(&self) -> u16 {
        (self.alphas_cumprod.len() / 4) as u16
    }

    /// ᾱ_t; 1 past the table (no noise).
    #[must_use]
    pub fn alphas_cumprod(&self, timestep: u16) -> f32 {
        let at = usize::from(timestep) * 4;
        match self.alphas_cumprod.get(at..at + 4) {
            Some(&[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => 1.0,
        }
    }

    /// The level of a timestep of the table.
    #[must_use]
    pub fn level(&self, timestep: u16) -> Level {
        let alphas_cumprod = self.alphas_cumprod(timestep);
        Level { timestep: timestep.into(), alphas_cumprod, variance: 1.0 - alphas_cumprod }
    }

    /// The noisiest level, of timestep T − 1.
    #[must_use]
    pub fn noisiest(&self) -> Level {
        self.level(self.num_train_timesteps().saturating_sub(1))
    }

    /// The level of a timestep that may have a fraction: ln(ᾱ/(1 − ᾱ)) is linear between two timesteps of the table; ᾱ
    /// itself is where one of the two has ᾱ = 0 or 1. Limited to 0..=T − 1.
    #[must_use]
    pub fn level_at(&self, timestep: f32) -> Level {
        let last = self.num_train_timesteps().saturating_sub(1);
        let timestep = if timestep > 0.0 { timestep } else { 0.0 };
        let below = timestep as u16; // Saturates.
        if below >= last {
            return self.level(last);
        }
        let part = timestep - f32::from(below);
        let (low, high) = (self.level(below), self.level(below + 1));
        if part == 0.0 {
            return low;
        }
        if low.is_clean() || high.alphas_cumprod <= 0.0 {
            let alphas_cumprod = low.alphas_cumprod + part * (high.alphas_cumprod - low.alphas_cumprod);
            return Level { timestep, alphas_cumprod, variance: 1.0 - alphas_cumprod };
        }
        let (from, to) = (low.log_snr(), high.log_snr());
        let log_snr = from + part * (to - from);
        Level {
            timestep,
            alphas_cumprod: 1.0 / (1.0 + math::exp(-log_snr)),
            variance: 1.0 / (1.0 + math::exp(log_snr)),
        }
    }

    /// The level whose noise is `sigma_ve` in the variance-exploding view, and the timestep that [`Schedule::level_at`]
    /// gives it (limited to the table; the noise is not).
    #[must_use]
    pub fn level_of_sigma(&self, sigma_ve: f32) -> Level {
        let square = sigma_ve * sigma_ve;
        let total = 1.0 + square;
        let (alphas_cumprod, variance) = (1.0 / total, square / total);
        Level { timestep: self.timestep_of(alphas_cumprod, variance), alphas_cumprod, variance }
    }

    /// The level of an angle, α = cos θ and σ = sin θ; see [`Schedule::level_of_sigma`].
    #[must_use]
    pub fn level_of_theta(&self, theta: f32) -> Level {
        let (sin, cos) = math::sin_cos(theta);
        let (alphas_cumprod, variance) = (cos * cos, sin * sin);
        Level { timestep: self.timestep_of(alphas_cumprod, variance), alphas_cumprod, variance }
    }

    /// The timestep of a level, the inverse of [`Schedule::level_at`].
    fn timestep_of(&self, alphas_cumprod: f32, variance: f32) -> f32 {
        let last = self.num_train_timesteps().saturating_sub(1);
        // Noisier than timestep t: (1 − ᾱ)·ᾱ_t > (1 − ᾱ_t)·ᾱ.
        let noisier_than = |t: u16| {
            let level = self.level(t);
            variance * level.alphas_cumprod > level.variance * alphas_cumprod
        };
        if !noisier_than(0) {
            return 0.0;
        }
        // Invariant: noisier than `low`, and `high` is past the table or not.
        let (mut low, mut high) = (0, last + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if noisier_than(middle) { low = middle } else { high = middle }
        }
        if low >= last {
            return last.into();
        }
        let (from, to) = (self.level(low), self.level(low + 1));
        let part = if from.is_clean() || to.alphas_cumprod <= 0.0 {
            (from.alphas_cumprod - alphas_cumprod) / (from.alphas_cumprod - to.alphas_cumprod)
        } else {
            let log_snr = math::ln(alphas_cumprod) - math::ln(variance);
            (from.log_snr() - log_snr) / (from.log_snr() - to.log_snr())
        };
        f32::from(low) + if part > 0.0 { part } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn linear(zero_terminal: bool) -> Vec<u8> {
        let mut bar = 1.0f64;
        let table = (0..1000).map(|t| {
            bar *= 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(t) / 999.0);
            if zero_terminal && t == 999 { 0.0 } else { bar as f32 }
        });
        table.flat_map(f32::to_le_bytes).collect()
    }

    #[test]
    fn whole_timesteps_are_the_table() {
        for bytes in [linear(false), linear(true)] {
            let schedule = Schedule::new(&bytes);
            assert_eq!(schedule.num_train_timesteps(), 1000);
            for t in 0..1000u16 {
                assert_eq!(schedule.level_at(t.into()), schedule.level(t));
            }
            assert_eq!(schedule.level_at(-1.0), schedule.level(0));
            assert_eq!(schedule.level_at(f32::NAN), schedule.level(0));
            assert_eq!(schedule.level_at(1e9), schedule.noisiest());
        }
    }

    #[test]
    fn between_timesteps_the_log_snr_is_linear_and_sigma_comes_back() {
        let bytes = linear(false);
        let schedule = Schedule::new(&bytes);
        for i in 1..3990u16 {
            let t = f32::from(i) / 4.0;
            let level = schedule.level_at(t);
            let (low, high) = (schedule.level(t as u16), schedule.level(t as u16 + 1));
            let want = low.log_snr() + t.fract() * (high.log_snr() - low.log_snr());
            assert!((level.log_snr() - want).abs() < 4e-6 * (1.0 + want.abs()), "{t}");
            assert!((level.alphas_cumprod + level.variance - 1.0).abs() < 3e-7);
            let back = schedule.level_of_sigma(level.sigma_ve());
            // A log-SNR is known to 1e-5 and falls by at least 0.01 per timestep.
            assert!((back.timestep - t).abs() < 2e-3, "{t}: {back:?}");
            assert!((back.variance / level.variance - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn noise_outside_the_table_keeps_its_amount_and_gets_the_nearest_timestep() {
        let bytes = linear(false);
        let schedule = Schedule::new(&bytes);
        let (low, high) = (schedule.level_of_sigma(0.002), schedule.level_of_sigma(1000.0));
        assert_eq!((low.timestep, high.timestep), (0.0, 999.0));
        assert!((low.sigma_ve() / 0.002 - 1.0).abs() < 1e-6 && (high.sigma_ve() / 1000.0 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn zero_terminal_snr_has_levels_up_to_its_end() {
        let bytes = linear(true);
        let schedule = Schedule::new(&bytes);
        assert_eq!(schedule.noisiest().sigma_ve(), f32::INFINITY);
        assert_eq!(schedule.noisiest().flow_time(), 1.0);
        let half = schedule.level_at(998.5);
        assert!((half.alphas_cumprod - schedule.alphas_cumprod(998) / 2.0).abs() < 1e-9);
        let back = schedule.level_of_sigma(half.sigma_ve());
        assert!((back.timestep - 998.5).abs() < 1e-3, "{back:?}");
    }

    #[test]
    fn views_agree_with_their_definitions() {
        let level = Level { timestep: 3.0, alphas_cumprod: 0.36, variance: 0.64 };
        assert!((level.alpha() - 0.6).abs() < 1e-7 && (level.sigma() - 0.8).abs() < 1e-7);
        assert!((level.sigma_ve() - 0.8 / 0.6).abs() < 1e-6);
        assert!((level.flow_time() - 0.8 / 1.4).abs() < 1e-7);
        assert!((level.snr() - 0.5625).abs() < 1e-7);
        assert!((level.log_snr() - 0.5625f32.ln()).abs() < 2e-6);
        assert!(Level::CLEAN.is_clean() && Level::CLEAN.sigma() == 0.0 && Level::CLEAN.flow_time() == 0.0);
    }
}
