//! Which levels of noise a sampler visits, from the noisiest to the clean image.

mod any;
mod curve;
mod even;
mod few_step;

pub use any::AnySpacing;
pub use curve::{Ends, Exponential, Karras, TrigFlow};
pub use even::{Diffusers, DiffusersRule, Leading, Linspace};
pub use few_step::FewStep;

use crate::sampler::SamplerError;
use crate::schedule::{Level, Schedule};

/// A rule for the levels of a run of `steps` steps.
pub trait Spacing: Copy {
    /// The level at which step `step` begins, 0 the noisiest; the clean end for `step >= steps`.
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level;

    /// The level at which step `step` ends; where the next one begins, but for rules that are odd on purpose.
    fn next_level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        self.level(schedule, steps, step.saturating_add(1))
    }

    /// The first rule that the settings break for `steps` steps.
    ///
    /// # Errors
    /// [`SamplerError`] with the field and its value.
    fn check(&self, schedule: &Schedule<'_>, steps: u16) -> Result<(), SamplerError> {
        let _ = (schedule, steps);
        Ok(())
    }
}

/// "Trailing" spacing (arXiv:2305.08891), exactly round(T·(steps − step)/steps) − 1, halves up. The default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailing;

impl Spacing for Trailing {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        if step >= steps {
            return Level::CLEAN;
        }
        let (t, n) = (u32::from(schedule.num_train_timesteps()), u32::from(steps));
        let left = n - u32::from(step);
        schedule.level(((2 * t * left + n) / (2 * n)).saturating_sub(1) as u16)
    }
}

/// Levels by their noise in the variance-exploding view: σ̂ of every step, falling. As many as steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sigmas<'a>(pub &'a [f32]);

impl Spacing for Sigmas<'_> {
    fn level(&self, schedule: &Schedule<'_>, _steps: u16, step: u16) -> Level {
        self.0.get(usize::from(step)).map_or(Level::CLEAN, |&sigma| schedule.level_of_sigma(sigma))
    }

    fn check(&self, _schedule: &Schedule<'_>, steps: u16) -> Result<(), SamplerError> {
        check_falling("sigmas", self.0, steps, f32::MIN_POSITIVE, 1e6)
    }
}

/// Levels by their timesteps, which may have fractions, falling. As many as steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timesteps<'a>(pub &'a [f32]);

impl Spacing for Timesteps<'_> {
    fn level(&self, schedule: &Schedule<'_>, _steps: u16, step: u16) -> Level {
        self.0.get(usize::from(step)).map_or(Level::CLEAN, |&timestep| schedule.level_at(timestep))
    }

    fn check(&self, schedule: &Schedule<'_>, steps: u16) -> Result<(), SamplerError> {
        let last = f32::from(schedule.num_train_timesteps().saturating_sub(1));
        check_falling("timesteps", self.0, steps, 0.0, last)
    }
}

fn check_falling(field: &'static str, values: &[f32], steps: u16, low: f32, high: f32) -> Result<(), SamplerError> {
    if values.len() != usize::from(steps) {
        return Err(SamplerError { field, value: values.len() as f32, allowed: "as many values as steps" });
    }
    if let Some(&value) = values.iter().find(|value| !(low..=high).contains(*value)) {
        return Err(SamplerError { field, value, allowed: "within the schedule" });
    }
    match values.windows(2).find(|pair| pair[1] >= pair[0]) {
        Some(pair) => Err(SamplerError { field, value: pair[1], allowed: "below the value before it" }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn table() -> Vec<u8> {
        (0..1000).flat_map(|t| (1.0 - (t as f32 + 0.5) / 1000.0).to_le_bytes()).collect()
    }

    #[test]
    fn trailing_matches_its_definition() {
        let table = table();
        let schedule = Schedule::new(&table);
        let steps = |n: u16| (0..n).map(|i| Trailing.level(&schedule, n, i).timestep).collect::<Vec<_>>();
        assert_eq!(steps(1), [999.0]);
        assert_eq!(steps(4), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(steps(1000), (0..1000u16).rev().map(f32::from).collect::<Vec<_>>());
        for n in 1..=1000u16 {
            for (i, &t) in steps(n).iter().enumerate() {
                let exact = 1000.0 * f64::from(n - i as u16) / f64::from(n) - 1.0;
                assert!((f64::from(t) - exact).abs() <= 0.5, "{n} {i}");
            }
            assert!(Trailing.level(&schedule, n, n).is_clean());
        }
    }

    #[test]
    fn tables_are_refused_unless_they_fall_within_the_schedule() {
        let table = table();
        let schedule = Schedule::new(&table);
        let allowed =
            |values: &[f32], steps| Timesteps(values).check(&schedule, steps).map_err(|e| (e.field, e.allowed));
        assert_eq!(allowed(&[999.0, 12.5, 0.0], 3), Ok(()));
        assert_eq!(allowed(&[999.0, 12.5], 3), Err(("timesteps", "as many values as steps")));
        assert_eq!(allowed(&[5.0, 5.0], 2), Err(("timesteps", "below the value before it")));
        assert_eq!(allowed(&[5.0, 7.0], 2), Err(("timesteps", "below the value before it")));
        for bad in [1000.0, -1.0, f32::NAN] {
            assert_eq!(allowed(&[bad], 1), Err(("timesteps", "within the schedule")));
        }
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = Sigmas(&[bad]).check(&schedule, 1).unwrap_err();
            assert_eq!((error.field, error.allowed), ("sigmas", "within the schedule"));
        }
        assert!(Sigmas(&[80.0, 0.8]).check(&schedule, 2).is_ok());
    }

    #[test]
    fn few_step_levels_begin_at_the_noisiest() {
        let table = table();
        let schedule = Schedule::new(&table);
        let few = FewStep { sigma: 4.0 };
        for (steps, sigmas) in [(1, &[][..]), (2, &[4.0][..]), (3, &[6.324_555, 2.529_822]), (4, &[10.0, 4.0, 1.6])] {
            assert_eq!(few.level(&schedule, steps, 0).timestep, 999.0);
            for (i, sigma) in sigmas.iter().enumerate() {
                // The runtime's own exp and ln, and interpolation between levels of the table.
                assert!((few.level(&schedule, steps, 1 + i as u16).sigma_ve() / sigma - 1.0).abs() < 1e-5);
            }
            assert!(few.level(&schedule, steps, steps).is_clean());
        }
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = FewStep { sigma: bad }.check(&schedule, 2).unwrap_err();
            assert_eq!((error.field, error.allowed), ("sigma", "above 0"));
        }
    }
}
