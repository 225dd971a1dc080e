//! The noise schedule: `alphas_cumprod` by timestep, as the blob carries it, and which timesteps a sampler visits.

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

    /// Timestep of step `step` of `steps`, noisiest first: "trailing" spacing (arXiv:2305.08891), exactly
    /// round(T·(steps − step)/steps) − 1, halves up.
    #[must_use]
    pub fn trailing_timestep(&self, steps: u16, step: u16) -> u16 {
        let (t, n) = (u32::from(self.num_train_timesteps()), u32::from(steps.max(1)));
        let left = n - u32::from(step).min(n - 1);
        ((2 * t * left + n) / (2 * n)).saturating_sub(1) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn trailing_matches_its_definition() {
        let table: Vec<u8> = (0..1000).flat_map(|t| (1.0 - t as f32 / 1000.0).to_le_bytes()).collect();
        let schedule = Schedule::new(&table);
        assert_eq!(schedule.num_train_timesteps(), 1000);
        let steps = |n: u16| (0..n).map(|i| schedule.trailing_timestep(n, i)).collect::<Vec<_>>();
        assert_eq!(steps(1), [999]);
        assert_eq!(steps(4), [999, 749, 499, 249]);
        assert_eq!(steps(1000), (0..1000).rev().collect::<Vec<u16>>());
        for n in 1..=1000u16 {
            for (i, &t) in steps(n).iter().enumerate() {
                let exact = 1000.0 * f64::from(n - i as u16) / f64::from(n) - 1.0;
                assert!((f64::from(t) - exact).abs() <= 0.5, "{n} {i}");
            }
        }
    }
}
