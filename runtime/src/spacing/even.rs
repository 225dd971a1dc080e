//! Levels at even timesteps: leading and linspace (arXiv:2305.08891, table 2), and all three as diffusers computes them.

use super::Spacing;
use crate::sampler::SamplerError;
use crate::schedule::{Level, Schedule};

/// "Leading" spacing, exactly round(T·(steps − 1 − step)/steps) + `offset`, halves up. Ends at timestep `offset`, and so
/// begins below T − 1, where the image is not yet all noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leading {
    /// Added to every timestep.
    pub offset: u16,
}

impl Spacing for Leading {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        if step >= steps {
            return Level::CLEAN;
        }
        let (t, n) = (u32::from(schedule.num_train_timesteps()), u32::from(steps));
        let left = n - 1 - u32::from(step);
        limited(schedule, (2 * t * left + n) / (2 * n) + u32::from(self.offset))
    }

    fn check(&self, schedule: &Schedule<'_>, _steps: u16) -> Result<(), SamplerError> {
        check_offset(self.offset, schedule)
    }
}

/// "Linspace" spacing, exactly (T − 1)·(steps − 1 − step)/(steps − 1), with its fraction: both ends of the schedule and
/// even distances. One step is at T − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Linspace;

impl Spacing for Linspace {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        if step >= steps {
            return Level::CLEAN;
        }
        let last = schedule.num_train_timesteps().saturating_sub(1);
        let (left, gaps) = (u32::from(steps - 1 - step), steps - 1);
        if gaps == 0 {
            return schedule.level(last);
        }
        // The product may pass 2²⁴, so whole part and fraction apart.
        let (product, gaps) = (u32::from(last) * left, u32::from(gaps));
        schedule.level_at((product / gaps) as f32 + (product % gaps) as f32 / gaps as f32)
    }
}

/// The rules of diffusers 0.42, roundings and strides included, for equal trajectories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diffusers {
    /// `timestep_spacing`.
    pub rule: DiffusersRule,
    /// `steps_offset`, of leading spacing.
    pub steps_offset: u16,
    /// Each step ends ⌊T/steps⌋ timesteps below its beginning, wherever the next begins (DDIM and DDPM with linspace).
    pub fixed_stride: bool,
    /// The last step ends at the noise of timestep 0 (`set_alpha_to_one=False`), not at none.
    pub end_at_first: bool,
}

/// How timesteps are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiffusersRule {
    /// ⌊T/steps⌋·(steps − 1 − step) + offset.
    #[default]
    Leading,
    /// round(T·(steps − step)/steps) − 1, halves to even.
    Trailing,
    /// round((T − 1)·(steps − 1 − step)/(steps − 1)), halves to even; one step is at 0.
    Linspace,
    /// round((T − 1)·(steps − step)/steps), halves to even: linspace of DPM-Solver and UniPC.
    LinspaceOpen,
}

impl Diffusers {
    /// A rule without offset, ending clean.
    #[must_use]
    pub const fn of(rule: DiffusersRule) -> Self {
        Self { rule, steps_offset: 0, fixed_stride: false, end_at_first: false }
    }

    fn timestep(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> u32 {
        let (t, n, i) = (u32::from(schedule.num_train_timesteps()), u32::from(steps), u32::from(step));
        match self.rule {
            DiffusersRule::Leading => (t / n) * (n - 1 - i) + u32::from(self.steps_offset),
            DiffusersRule::Trailing => divided(t * (n - i), n).saturating_sub(1),
            DiffusersRule::Linspace if n == 1 => 0,
            DiffusersRule::Linspace => divided((t - 1) * (n - 1 - i), n - 1),
            DiffusersRule::LinspaceOpen => divided((t - 1) * (n - i), n),
        }
    }

    fn end(&self, schedule: &Schedule<'_>) -> Level {
        if self.end_at_first { schedule.level(0) } else { Level::CLEAN }
    }
}

impl Spacing for Diffusers {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        if step >= steps {
            return self.end(schedule);
        }
        limited(schedule, self.timestep(schedule, steps, step))
    }

    fn next_level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        if !self.fixed_stride {
            return self.level(schedule, steps, step + 1);
        }
        let stride = u32::from(schedule.num_train_timesteps()) / u32::from(steps);
        match self.timestep(schedule, steps, step).checked_sub(stride) {
            Some(timestep) => limited(schedule, timestep),
            None => self.end(schedule),
        }
    }

    fn check(&self, schedule: &Schedule<'_>, _steps: u16) -> Result<(), SamplerError> {
        check_offset(self.steps_offset, schedule)
    }
}

fn check_offset(offset: u16, schedule: &Schedule<'_>) -> Result<(), SamplerError> {
    if offset < schedule.num_train_timesteps() {
        return Ok(());
    }
    Err(SamplerError { field: "offset", value: offset.into(), allowed: "below the schedule's number of timesteps" })
}

fn limited(schedule: &Schedule<'_>, timestep: u32) -> Level {
    let last = schedule.num_train_timesteps().saturating_sub(1);
    schedule.level(u16::try_from(timestep).map_or(last, |timestep| timestep.min(last)))
}

/// a/b to the nearest integer, halves to even.
fn divided(a: u32, b: u32) -> u32 {
    let (whole, rest) = (a / b, a % b);
    whole + u32::from(2 * rest > b || (2 * rest == b && whole % 2 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn table() -> Vec<u8> {
        (0..1000).flat_map(|t| (1.0 - (t as f32 + 0.5) / 1001.0).to_le_bytes()).collect()
    }

    fn timesteps(spacing: impl Spacing, steps: u16) -> Vec<f32> {
        let table = table();
        (0..steps).map(|i| spacing.level(&Schedule::new(&table), steps, i).timestep).collect()
    }

    #[test]
    fn exact_rules_match_their_definitions() {
        assert_eq!(timesteps(Leading { offset: 1 }, 4), [751.0, 501.0, 251.0, 1.0]);
        assert_eq!(timesteps(Linspace, 1), [999.0]);
        assert_eq!(timesteps(Linspace, 5), [999.0, 749.25, 499.5, 249.75, 0.0]);
        for n in 2..=1000u16 {
            let (leading, linspace) = (timesteps(Leading::default(), n), timesteps(Linspace, n));
            for i in 0..usize::from(n) {
                let left = f64::from(n) - 1.0 - i as f64;
                assert!((f64::from(leading[i]) - 1000.0 * left / f64::from(n)).abs() <= 0.5, "{n} {i}");
                assert!((f64::from(linspace[i]) - 999.0 * left / (f64::from(n) - 1.0)).abs() < 1e-4, "{n} {i}");
            }
        }
    }

    /// `numpy` 2: `(np.arange(0, n) * (1000 // n)).round()[::-1]`, `np.round(np.arange(1000, 0, -1000 / n)) - 1`,
    /// `np.linspace(0, 999, n).round()[::-1]`, `np.linspace(0, 999, n + 1).round()[::-1][:-1]`.
    #[test]
    fn diffusers_rules_match_numpy() {
        let of = |rule, n| timesteps(Diffusers { rule, ..Diffusers::default() }, n);
        assert_eq!(of(DiffusersRule::Leading, 7), [852.0, 710.0, 568.0, 426.0, 284.0, 142.0, 0.0]);
        assert_eq!(of(DiffusersRule::Trailing, 7), [999.0, 856.0, 713.0, 570.0, 428.0, 285.0, 142.0]);
        // 1000·7/16 = 437.5 to 438, 1000·5/16 = 312.5 to 312: halves to even.
        let trailing = of(DiffusersRule::Trailing, 16);
        assert_eq!((trailing[9], trailing[11]), (437.0, 311.0));
        assert_eq!(of(DiffusersRule::Linspace, 7), [999.0, 832.0, 666.0, 500.0, 333.0, 166.0, 0.0]);
        assert_eq!(of(DiffusersRule::LinspaceOpen, 7), [999.0, 856.0, 714.0, 571.0, 428.0, 285.0, 143.0]);
        assert_eq!(of(DiffusersRule::Linspace, 1), [0.0]);
    }

    #[test]
    fn diffusers_ends_are_its_own() {
        let table = table();
        let schedule = Schedule::new(&table);
        let odd = Diffusers { rule: DiffusersRule::Linspace, fixed_stride: true, ..Diffusers::default() };
        // 999 − ⌊1000/7⌋, although the next step begins at 832.
        assert_eq!(odd.next_level(&schedule, 7, 0).timestep, 857.0);
        assert!(odd.next_level(&schedule, 7, 6).is_clean());
        let first = Diffusers { end_at_first: true, ..odd };
        assert_eq!(first.next_level(&schedule, 7, 6), schedule.level(0));
        let far = Diffusers { steps_offset: 1000, ..Diffusers::default() };
        assert_eq!(far.check(&schedule, 5).unwrap_err().field, "offset");
        assert!(Leading { offset: 999 }.check(&schedule, 5).is_ok());
    }
}
