//! Any sampler, chosen at run time: for host tools and for firmware that serves them all. A firmware that names one sampler's
//! own type carries that one only.

use super::{
    Adaptive, Boundary, Consistency, Ddim, Ddpm, DpmSolverPp, Euler, EulerAncestral, EulerMaruyama, FlowMidpoint, Heun,
    Images, Langevin, Method, Outcome, Plms, Pndm, PredictorCorrector, ProbabilityFlow, RectifiedFlow, Sampler,
    SamplerError, StepContext, UniPc, Variance, adaptive::Position,
};
use crate::schedule::Level;
use crate::spacing::Spacing;

/// One of the samplers, with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnySampler {
    /// DDIM.
    Ddim(Ddim),
    /// DDPM ancestral sampling.
    Ddpm(Ddpm),
    /// Euler in the variance-exploding view.
    Euler(Euler),
    /// Euler with fresh noise.
    EulerAncestral(EulerAncestral),
    /// Heun in the variance-exploding view.
    Heun(Heun),
    /// The probability-flow ODE.
    ProbabilityFlow(ProbabilityFlow),
    /// The reverse SDE.
    EulerMaruyama(EulerMaruyama),
    /// The reverse SDE with Langevin correctors.
    PredictorCorrector(PredictorCorrector),
    /// Annealed Langevin dynamics.
    Langevin(Langevin),
    /// DPM-Solver++(2M).
    DpmSolverPp(DpmSolverPp),
    /// UniPC.
    UniPc(UniPc),
    /// Linear multistep.
    Plms(Plms),
    /// Linear multistep after Runge–Kutta.
    Pndm(Pndm),
    /// Rectified flow by Euler.
    RectifiedFlow(RectifiedFlow),
    /// Rectified flow by the midpoint rule.
    FlowMidpoint(FlowMidpoint),
    /// Consistency models.
    Consistency(Consistency),
    /// Adaptive steps of the ODE.
    Adaptive(Adaptive),
}

impl AnySampler {
    /// Every sampler by its name, with its usual settings. Numbers on the wire count through this list: it only grows.
    pub const ALL: [(&'static str, Self); 21] = [
        ("ddim", Self::Ddim(Ddim { eta: 0.0 })),
        ("ddpm", Self::Ddpm(Ddpm { variance: Variance::FixedSmall })),
        ("euler", Self::Euler(Euler)),
        ("euler-ancestral", Self::EulerAncestral(EulerAncestral { eta: 1.0 })),
        ("heun", Self::Heun(Heun)),
        ("pf-euler", Self::ProbabilityFlow(ProbabilityFlow { method: Method::Euler })),
        ("pf-heun", Self::ProbabilityFlow(ProbabilityFlow { method: Method::Heun })),
        ("euler-maruyama", Self::EulerMaruyama(EulerMaruyama)),
        ("predictor-corrector", Self::PredictorCorrector(PredictorCorrector { corrector_steps: 1, snr: 0.16 })),
        ("langevin", Self::Langevin(Langevin { moves: 5, step_size: 0.2 })),
        ("dpmpp-2m", Self::DpmSolverPp(DpmSolverPp { eta: 0.0 })),
        ("dpmpp-2m-sde", Self::DpmSolverPp(DpmSolverPp::SDE)),
        ("unipc", Self::UniPc(UniPc)),
        ("plms", Self::Plms(Plms)),
        ("pndm", Self::Pndm(Pndm)),
        ("flow-euler", Self::RectifiedFlow(RectifiedFlow)),
        ("flow-midpoint", Self::FlowMidpoint(FlowMidpoint)),
        ("consistency", Self::Consistency(Consistency { boundary: Boundary::Plain })),
        ("lcm", Self::Consistency(Consistency { boundary: Boundary::Lcm { timestep_scaling: 10.0 } })),
        ("adaptive", Self::Adaptive(Adaptive { tolerance: 0.02 })),
        ("consistency-openai", Self::Consistency(Consistency { boundary: Boundary::OpenAi { sigma_min: 0.004 } })),
    ];

    /// The sampler of a name, with its usual settings.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, sampler)| *sampler)
    }
}

impl Sampler for AnySampler {
    /// Those of the greediest.
    const HISTORY: usize = Pndm::HISTORY;
    type State = Position;

    fn multistep(&self) -> bool {
        match self {
            Self::Ddim(sampler) => sampler.multistep(),
            Self::Ddpm(sampler) => sampler.multistep(),
            Self::Euler(sampler) => sampler.multistep(),
            Self::EulerAncestral(sampler) => sampler.multistep(),
            Self::Heun(sampler) => sampler.multistep(),
            Self::ProbabilityFlow(sampler) => sampler.multistep(),
            Self::EulerMaruyama(sampler) => sampler.multistep(),
            Self::PredictorCorrector(sampler) => sampler.multistep(),
            Self::Langevin(sampler) => sampler.multistep(),
            Self::DpmSolverPp(sampler) => sampler.multistep(),
            Self::UniPc(sampler) => sampler.multistep(),
            Self::Plms(sampler) => sampler.multistep(),
            Self::Pndm(sampler) => sampler.multistep(),
            Self::RectifiedFlow(sampler) => sampler.multistep(),
            Self::FlowMidpoint(sampler) => sampler.multistep(),
            Self::Consistency(sampler) => sampler.multistep(),
            Self::Adaptive(sampler) => sampler.multistep(),
        }
    }

    fn reads_variances(&self) -> bool {
        matches!(self, Self::Ddpm(sampler) if sampler.reads_variances())
    }

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, state: &Position) -> Level {
        match self {
            Self::Ddim(sampler) => sampler.level(context, &()),
            Self::Ddpm(sampler) => sampler.level(context, &()),
            Self::Euler(sampler) => sampler.level(context, &()),
            Self::EulerAncestral(sampler) => sampler.level(context, &()),
            Self::Heun(sampler) => sampler.level(context, &()),
            Self::ProbabilityFlow(sampler) => sampler.level(context, &()),
            Self::EulerMaruyama(sampler) => sampler.level(context, &()),
            Self::PredictorCorrector(sampler) => sampler.level(context, &()),
            Self::Langevin(sampler) => sampler.level(context, &()),
            Self::DpmSolverPp(sampler) => sampler.level(context, &()),
            Self::UniPc(sampler) => sampler.level(context, &()),
            Self::Plms(sampler) => sampler.level(context, &()),
            Self::Pndm(sampler) => sampler.level(context, &()),
            Self::RectifiedFlow(sampler) => sampler.level(context, &()),
            Self::FlowMidpoint(sampler) => sampler.level(context, &()),
            Self::Consistency(sampler) => sampler.level(context, &()),
            Self::Adaptive(sampler) => sampler.level(context, state),
        }
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, state: &mut Position, images: Images<'_>) -> Outcome {
        match self {
            Self::Ddim(sampler) => sampler.update(context, &mut (), images),
            Self::Ddpm(sampler) => sampler.update(context, &mut (), images),
            Self::Euler(sampler) => sampler.update(context, &mut (), images),
            Self::EulerAncestral(sampler) => sampler.update(context, &mut (), images),
            Self::Heun(sampler) => sampler.update(context, &mut (), images),
            Self::ProbabilityFlow(sampler) => sampler.update(context, &mut (), images),
            Self::EulerMaruyama(sampler) => sampler.update(context, &mut (), images),
            Self::PredictorCorrector(sampler) => sampler.update(context, &mut (), images),
            Self::Langevin(sampler) => sampler.update(context, &mut (), images),
            Self::DpmSolverPp(sampler) => sampler.update(context, &mut (), images),
            Self::UniPc(sampler) => sampler.update(context, &mut (), images),
            Self::Plms(sampler) => sampler.update(context, &mut (), images),
            Self::Pndm(sampler) => sampler.update(context, &mut (), images),
            Self::RectifiedFlow(sampler) => sampler.update(context, &mut (), images),
            Self::FlowMidpoint(sampler) => sampler.update(context, &mut (), images),
            Self::Consistency(sampler) => sampler.update(context, &mut (), images),
            Self::Adaptive(sampler) => sampler.update(context, state, images),
        }
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        match self {
            Self::Ddim(sampler) => sampler.check(context),
            Self::Ddpm(sampler) => sampler.check(context),
            Self::Euler(sampler) => sampler.check(context),
            Self::EulerAncestral(sampler) => sampler.check(context),
            Self::Heun(sampler) => sampler.check(context),
            Self::ProbabilityFlow(sampler) => sampler.check(context),
            Self::EulerMaruyama(sampler) => sampler.check(context),
            Self::PredictorCorrector(sampler) => sampler.check(context),
            Self::Langevin(sampler) => sampler.check(context),
            Self::DpmSolverPp(sampler) => sampler.check(context),
            Self::UniPc(sampler) => sampler.check(context),
            Self::Plms(sampler) => sampler.check(context),
            Self::Pndm(sampler) => sampler.check(context),
            Self::RectifiedFlow(sampler) => sampler.check(context),
            Self::FlowMidpoint(sampler) => sampler.check(context),
            Self::Consistency(sampler) => sampler.check(context),
            Self::Adaptive(sampler) => sampler.check(context),
        }
    }
}
