//! The levels that models tuned for consistency draw in few steps with.

use super::{Spacing, Trailing};
use crate::math;
use crate::sampler::SamplerError;
use crate::schedule::{Level, Schedule};

/// The levels of few-step models tuned for consistency: T − 1, then σ̂ falling by [`FewStep::RATIO`] from step to step, with
/// `sigma` in the middle: `sigma` for two steps; 2.5, 1 and 0.4 times it for four. More than 8 steps are [`Trailing`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FewStep {
    /// σ̂ of the middle, above 0. The best hangs on the data: high where outlines matter, low where flat colours do.
    pub sigma: f32,
}

impl Default for FewStep {
    /// What ECT (arXiv:2406.14548) takes for two steps: 0.821 for data whose deviation is 0.5.
    fn default() -> Self {
        Self::ECT
    }
}

impl FewStep {
    /// See [`FewStep::default`].
    pub const ECT: Self = Self { sigma: 1.642 };

    /// What σ̂ falls by.
    pub const RATIO: f32 = 2.5;

    /// Most steps that it has levels for.
    const MOST: u16 = 8;
}

impl Spacing for FewStep {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        if steps > Self::MOST {
            return Trailing.level(schedule, steps, step);
        }
        match step {
            0 => schedule.noisiest(),
            step if step >= steps => Level::CLEAN,
            step => {
                let above_middle = 0.5 * f32::from(steps) - f32::from(step);
                schedule.level_of_sigma(self.sigma * math::exp(above_middle * math::ln(Self::RATIO)))
            }
        }
    }

    fn check(&self, schedule: &Schedule<'_>, steps: u16) -> Result<(), SamplerError> {
        let refuse = |allowed| Err(SamplerError { field: "sigma", value: self.sigma, allowed });
        if self.sigma <= 0.0 || !self.sigma.is_finite() {
            return refuse("above 0");
        }
        // Its levels fall by themselves; the first that hangs on sigma must fall from the noisiest.
        if (2..=Self::MOST).contains(&steps) && self.level(schedule, steps, 1).variance >= schedule.noisiest().variance
        {
            return refuse("with the second level below the noisiest");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// ᾱ of σ̂ = 0.1, 1 and 50.
    fn schedule() -> Vec<u8> {
        [0.1f32, 1.0, 50.0].into_iter().flat_map(|sigma| (1.0 / (1.0 + sigma * sigma)).to_le_bytes()).collect()
    }

    #[test]
    fn sigma_stands_in_the_middle_and_all_fall_by_the_ratio() {
        let bytes = schedule();
        let schedule = Schedule::new(&bytes);
        let few = FewStep { sigma: 4.0 };
        for (steps, want) in [(1, &[50.0][..]), (2, &[50.0, 4.0]), (4, &[50.0, 10.0, 4.0, 1.6])] {
            assert_eq!(few.check(&schedule, steps), Ok(()));
            for (step, want) in (0..).zip(want) {
                let got = few.level(&schedule, steps, step).sigma_ve();
                assert!((got / want - 1.0).abs() < 1e-5, "{step} of {steps}: {got} for {want}");
            }
            assert!(few.level(&schedule, steps, steps).is_clean());
        }
        assert_eq!(few.level(&schedule, 9, 4), Trailing.level(&schedule, 9, 4));
    }

    #[test]
    fn levels_that_do_not_fall_from_the_noisiest_are_refused() {
        let bytes = schedule();
        let schedule = Schedule::new(&bytes);
        let refused = |sigma, steps| FewStep { sigma }.check(&schedule, steps).is_err();
        assert!([0.0, -1.0, f32::NAN, f32::INFINITY].into_iter().all(|sigma| refused(sigma, 1)));
        // The second level of four is 2.5 · sigma; one step, or more than it has levels for, never asks for sigma.
        assert!(refused(50.0, 2) && !refused(49.0, 2) && refused(20.1, 4) && !refused(19.9, 4));
        assert!(!refused(50.0, 1) && !refused(50.0, 9));
    }
}
