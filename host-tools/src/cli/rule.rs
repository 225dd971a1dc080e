//! Which update rule a model is judged with: what it was made for, unless another is asked for.

use clap::ValueEnum;
use picodream::Ddim;
use picodream::sampler::Consistency;

use crate::config::ModelConfig;
use crate::sampling::SamplerChoice;
use crate::tune::Method;

/// The update rules that can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rule {
    /// DDIM, deterministic.
    Ddim,
    /// Consistency steps over the levels of few-step models.
    Consistency,
}

impl Rule {
    /// What the model's config asks for, when there is one.
    pub fn of(config: Option<&ModelConfig>) -> Self {
        match config.and_then(|c| c.tune.as_ref()).map(|tuned| tuned.recipe.method) {
            Some(Method::Consistency { .. }) => Self::Consistency,
            _ => Self::Ddim,
        }
    }

    /// For titles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIM",
            Self::Consistency => "consistency",
        }
    }

    /// With its usual settings.
    pub fn choice(self) -> SamplerChoice {
        match self {
            Self::Ddim => SamplerChoice::Ddim(Ddim::default()),
            Self::Consistency => SamplerChoice::Consistency(Consistency::default()),
        }
    }

    /// Steps when none were asked for.
    pub fn default_steps(self) -> u16 {
        match self {
            Self::Ddim => 20,
            Self::Consistency => 1,
        }
    }
}
