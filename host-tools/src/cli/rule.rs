//! Which update rule a model is judged with: what it was made for, unless another is asked for.

use clap::ValueEnum;
use picodream::Ddim;
use picodream::sampler::Consistency;

use super::shipped::ModelFiles;
use crate::sampling::SamplerChoice;

/// The update rules that can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rule {
    /// DDIM, deterministic.
    Ddim,
    /// Consistency steps over the levels of few-step models.
    Consistency,
}

impl Rule {
    /// What a model was made for, by its blob, or by its config where there is only a checkpoint.
    pub fn of(files: &ModelFiles) -> Self {
        let by_blob = || files.model().ok()?.header().ok().map(|header| header.few_steps > 0);
        let by_config = || files.checkpoint().ok().map(|checkpoint| checkpoint.config.for_consistency());
        match by_blob().or_else(by_config) {
            Some(true) => Self::Consistency,
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
