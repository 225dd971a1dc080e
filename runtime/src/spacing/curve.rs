//! Levels on a curve of noise between two ends: Karras, exponential, and even angles (TrigFlow).

use super::Spacing;
use crate::math;
use crate::sampler::SamplerError;
use crate::schedule::{Level, Schedule};

/// The two ends of a curve, as noise σ̂ of the variance-exploding view; `None` is the schedule's own end, and a first noise
/// above it is limited to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ends {
    /// Noise of the last step.
    pub sigma_min: Option<f32>,
    /// Noise of the first step.
    pub sigma_max: Option<f32>,
}

impl Ends {
    /// The schedule's own.
    pub const FULL: Self = Self { sigma_min: None, sigma_max: None };
    /// From 80, the first noise of Karras et al.; schedules that go on to almost no signal cost first steps for nothing.
    pub const FROM_80: Self = Self { sigma_min: None, sigma_max: Some(80.0) };

    fn of(&self, schedule: &Schedule<'_>) -> (f32, f32) {
        let min = self.sigma_min.unwrap_or_else(|| schedule.level(0).sigma_ve());
        let own = schedule.noisiest().sigma_ve();
        (min, self.sigma_max.map_or(own, |max| if max < own { max } else { own }))
    }

    fn check(&self, schedule: &Schedule<'_>) -> Result<(), SamplerError> {
        let (min, max) = self.of(schedule);
        let max = self.sigma_max.unwrap_or(max);
        if !(1e-6..=1e6).contains(&max) {
            let allowed = "in 0.000001..=1000000 (give one where the schedule ends without signal)";
            return Err(SamplerError { field: "sigma_max", value: max, allowed });
        }
        if !(1e-6..max).contains(&min) {
            return Err(SamplerError { field: "sigma_min", value: min, allowed: "in 0.000001..sigma_max" });
        }
        Ok(())
    }
}

/// σ̂ of Karras et al. (arXiv:2206.00364, eq. 5): σ̂^(1/ρ) falls evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Karras {
    /// The exponent, 1..=20; 7 in the paper. Larger spends more steps on little noise.
    pub rho: f32,
    /// From where to where.
    pub ends: Ends,
}

impl Karras {
    /// ρ = 7 over the whole schedule.
    pub const FULL: Self = Self { rho: 7.0, ends: Ends::FULL };
}

impl Default for Karras {
    fn default() -> Self {
        Self::FULL
    }
}

impl Spacing for Karras {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        let (min, max) = self.ends.of(schedule);
        let root = |sigma: f32| math::exp(math::ln(sigma) / self.rho);
        level_between(schedule, (min, max), steps, step, |part| {
            let root = root(max) + part * (root(min) - root(max));
            math::exp(self.rho * math::ln(root))
        })
    }

    fn check(&self, schedule: &Schedule<'_>, _steps: u16) -> Result<(), SamplerError> {
        if !(1.0..=20.0).contains(&self.rho) {
            return Err(SamplerError { field: "rho", value: self.rho, allowed: "in 1..=20" });
        }
        self.ends.check(schedule)
    }
}

/// σ̂ falls by the same factor every step: even in log-SNR, the geometric levels of annealed Langevin dynamics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exponential {
    /// From where to where.
    pub ends: Ends,
}

impl Spacing for Exponential {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        let (min, max) = self.ends.of(schedule);
        level_between(schedule, (min, max), steps, step, |part| {
            math::exp(math::ln(max) + part * (math::ln(min) - math::ln(max)))
        })
    }

    fn check(&self, schedule: &Schedule<'_>, _steps: u16) -> Result<(), SamplerError> {
        self.ends.check(schedule)
    }
}

/// The angle θ with α = cos θ, σ = sin θ falls evenly from the schedule's noisiest to its least noisy level (TrigFlow,
/// arXiv:2410.11081).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrigFlow;

impl Spacing for TrigFlow {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        match step {
            _ if step >= steps => Level::CLEAN,
            0 => schedule.noisiest(),
            _ => {
                let (from, to) = (schedule.noisiest().theta(), schedule.level(0).theta());
                schedule.level_of_theta(from + f32::from(step) / f32::from(steps - 1) * (to - from))
            }
        }
    }
}

/// The ends exactly, and `curve` of the part of the way in between.
fn level_between(
    schedule: &Schedule<'_>,
    (min, max): (f32, f32),
    steps: u16,
    step: u16,
    curve: impl Fn(f32) -> f32,
) -> Level {
    match step {
        _ if step >= steps => Level::CLEAN,
        0 => schedule.level_of_sigma(max),
        _ if step + 1 == steps => schedule.level_of_sigma(min),
        _ => schedule.level_of_sigma(curve(f32::from(step) / f32::from(steps - 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn linear() -> Vec<u8> {
        let mut bar = 1.0f64;
        let table = (0..1000).map(|t| {
            bar *= 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(t) / 999.0);
            bar as f32
        });
        table.flat_map(f32::to_le_bytes).collect()
    }

    fn assert_curve(spacing: impl Spacing, want: impl Fn(f64) -> f64, get: impl Fn(Level) -> f32) {
        let bytes = linear();
        let schedule = Schedule::new(&bytes);
        for steps in [2u16, 3, 10, 57] {
            assert!(spacing.check(&schedule, steps).is_ok());
            for step in 0..steps {
                let exact = want(f64::from(step) / f64::from(steps - 1));
                let got = f64::from(get(spacing.level(&schedule, steps, step)));
                assert!((got / exact - 1.0).abs() < 2e-5, "{step} of {steps}: {got} for {exact}");
            }
            assert!(spacing.level(&schedule, steps, steps).is_clean());
        }
        // One step begins at the noisiest level.
        let alone = f64::from(get(spacing.level(&schedule, 1, 0)));
        assert!((alone / want(0.0) - 1.0).abs() < 2e-5);
    }

    #[test]
    fn curves_match_their_definitions() {
        let ends = Ends { sigma_min: Some(0.02), sigma_max: Some(80.0) };
        let root = |sigma: f64| sigma.powf(1.0 / 7.0);
        let karras = move |part: f64| (root(80.0) + part * (root(0.02) - root(80.0))).powf(7.0);
        assert_curve(Karras { rho: 7.0, ends }, karras, |level| level.sigma_ve());
        assert_curve(Exponential { ends }, |part| 80.0 * (0.02f64 / 80.0).powf(part), |level| level.sigma_ve());
        let bytes = linear();
        let schedule = Schedule::new(&bytes);
        let angle = |level: Level| f64::from(level.sigma_ve()).atan();
        let (from, to) = (angle(schedule.noisiest()), angle(schedule.level(0)));
        assert_curve(TrigFlow, |part| from + part * (to - from), |level| level.theta());
    }

    #[test]
    fn bad_ends_are_refused() {
        let bytes = linear();
        let schedule = Schedule::new(&bytes);
        let field = |sigma_min, sigma_max| {
            let spacing = Exponential { ends: Ends { sigma_min, sigma_max } };
            spacing.check(&schedule, 5).map_err(|error| error.field)
        };
        assert_eq!(field(None, None), Ok(()));
        for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
            assert_eq!(field(None, Some(bad)), Err("sigma_max"));
            assert_eq!(field(Some(bad), None), Err("sigma_min"));
        }
        assert_eq!(field(Some(2.0), Some(1.0)), Err("sigma_min"));
        for rho in [0.5, 21.0, f32::NAN] {
            assert_eq!(Karras { rho, ..Karras::default() }.check(&schedule, 5).unwrap_err().field, "rho");
        }
        let dark: Vec<u8> = [0.5f32, 0.0].into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(Karras::default().check(&Schedule::new(&dark), 2).unwrap_err().field, "sigma_max");
    }
}
