//! Any spacing, chosen at run time; see [`crate::sampler::AnySampler`].

use super::{
    Diffusers, DiffusersRule, Ends, Exponential, FewStep, Karras, Leading, Linspace, Spacing, Trailing, TrigFlow,
};
use crate::sampler::SamplerError;
use crate::schedule::{Level, Schedule};

/// One of the spacings, with its settings; explicit tables are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnySpacing {
    /// round(T·(steps − step)/steps) − 1.
    Trailing(Trailing),
    /// round(T·(steps − 1 − step)/steps) + offset.
    Leading(Leading),
    /// Even over 0..=T − 1, with fractions.
    Linspace(Linspace),
    /// Even in σ̂^(1/ρ).
    Karras(Karras),
    /// Even in ln σ̂.
    Exponential(Exponential),
    /// Even in the angle.
    TrigFlow(TrigFlow),
    /// The levels of few-step models.
    FewStep(FewStep),
    /// As diffusers rounds.
    Diffusers(Diffusers),
}

impl AnySpacing {
    /// Every spacing by its name, with its usual settings. Numbers on the wire count through this list: it only grows.
    pub const ALL: [(&'static str, Self); 10] = [
        ("trailing", Self::Trailing(Trailing)),
        ("leading", Self::Leading(Leading { offset: 0 })),
        ("linspace", Self::Linspace(Linspace)),
        ("karras", Self::Karras(Karras { rho: 7.0, ends: Ends::FROM_80 })),
        ("exponential", Self::Exponential(Exponential { ends: Ends::FROM_80 })),
        ("trigflow", Self::TrigFlow(TrigFlow)),
        ("few-step", Self::FewStep(FewStep::ECT)),
        ("diffusers-leading", Self::Diffusers(Diffusers::of(DiffusersRule::Leading))),
        ("diffusers-trailing", Self::Diffusers(Diffusers::of(DiffusersRule::Trailing))),
        ("diffusers-linspace", Self::Diffusers(Diffusers::of(DiffusersRule::Linspace))),
    ];

    /// The spacing of a name, with its usual settings.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, spacing)| *spacing)
    }
}

impl Spacing for AnySpacing {
    fn level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        match self {
            Self::Trailing(spacing) => spacing.level(schedule, steps, step),
            Self::Leading(spacing) => spacing.level(schedule, steps, step),
            Self::Linspace(spacing) => spacing.level(schedule, steps, step),
            Self::Karras(spacing) => spacing.level(schedule, steps, step),
            Self::Exponential(spacing) => spacing.level(schedule, steps, step),
            Self::TrigFlow(spacing) => spacing.level(schedule, steps, step),
            Self::FewStep(spacing) => spacing.level(schedule, steps, step),
            Self::Diffusers(spacing) => spacing.level(schedule, steps, step),
        }
    }

    fn next_level(&self, schedule: &Schedule<'_>, steps: u16, step: u16) -> Level {
        match self {
            Self::Diffusers(spacing) => spacing.next_level(schedule, steps, step),
            // The others keep the rule of the trait.
            _ => self.level(schedule, steps, step.saturating_add(1)),
        }
    }

    fn check(&self, schedule: &Schedule<'_>, steps: u16) -> Result<(), SamplerError> {
        match self {
            Self::Trailing(spacing) => spacing.check(schedule, steps),
            Self::Leading(spacing) => spacing.check(schedule, steps),
            Self::Linspace(spacing) => spacing.check(schedule, steps),
            Self::Karras(spacing) => spacing.check(schedule, steps),
            Self::Exponential(spacing) => spacing.check(schedule, steps),
            Self::TrigFlow(spacing) => spacing.check(schedule, steps),
            Self::FewStep(spacing) => spacing.check(schedule, steps),
            Self::Diffusers(spacing) => spacing.check(schedule, steps),
        }
    }
}
