//! Noise schedules by formula: each is a table `alphas_cumprod` over `num_train_timesteps` discrete times, which the blob carries.

use std::f64::consts::FRAC_PI_2;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// The noise schedule as `alphas_cumprod` (ᾱ) over `num_train_timesteps` (T) discrete times t, least noise first.
///
/// u = (t + 1)/T where a formula is in continuous time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// β linear from `beta_start` to `beta_end` (DDPM).
    Linear {
        /// T.
        num_train_timesteps: usize,
        /// β of timestep 0.
        beta_start: f64,
        /// β of timestep T − 1.
        beta_end: f64,
    },
    /// √β linear (latent diffusion, arXiv:2112.10752).
    ScaledLinear {
        /// T.
        num_train_timesteps: usize,
        /// β of timestep 0.
        beta_start: f64,
        /// β of timestep T − 1.
        beta_end: f64,
    },
    /// ᾱ(u) = cos²((u + s)/(1 + s)·π/2), β clipped at 0.999 (improved DDPM, arXiv:2102.09672).
    Cosine {
        /// T.
        num_train_timesteps: usize,
        /// Offset; 0.008 in the paper.
        s: f64,
    },
    /// σ̂^(1/ρ) even from `sigma_min` to `sigma_max`, ᾱ = 1/(1 + σ̂²) (arXiv:2206.00364).
    Karras {
        /// T.
        num_train_timesteps: usize,
        /// σ̂ of timestep 0.
        sigma_min: f64,
        /// σ̂ of timestep T − 1.
        sigma_max: f64,
        /// 7 in the paper.
        rho: f64,
    },
    /// ln σ̂ even from `sigma_min` to `sigma_max` (the variance-exploding SDE, arXiv:2011.13456).
    Exponential {
        /// T.
        num_train_timesteps: usize,
        /// σ̂ of timestep 0.
        sigma_min: f64,
        /// σ̂ of timestep T − 1.
        sigma_max: f64,
    },
    /// α = cos θ, σ = sin θ with θ = u·π/2 (TrigFlow, arXiv:2410.11081): no signal at the end.
    TrigFlow {
        /// T.
        num_train_timesteps: usize,
    },
    /// The straight line (1 − u)·x0 + u·ε (rectified flow, arXiv:2209.03003): ᾱ = (1 − u)²/((1 − u)² + u²), no signal at the end.
    Flow {
        /// T.
        num_train_timesteps: usize,
    },
    /// A table from elsewhere, for instance learned.
    Table {
        /// ᾱ of each timestep, falling, in 0..1.
        alphas_cumprod: Vec<f64>,
    },
    /// Another schedule with √ᾱ shifted and scaled so that it starts where it did and ends at 0 (arXiv:2305.08891, algorithm 1).
    ZeroTerminalSnr {
        /// The other schedule.
        of: Box<ScheduleConfig>,
    },
}

impl ScheduleConfig {
    /// T.
    #[must_use]
    pub fn num_train_timesteps(&self) -> usize {
        match self {
            Self::Linear { num_train_timesteps, .. }
            | Self::ScaledLinear { num_train_timesteps, .. }
            | Self::Cosine { num_train_timesteps, .. }
            | Self::Karras { num_train_timesteps, .. }
            | Self::Exponential { num_train_timesteps, .. }
            | Self::TrigFlow { num_train_timesteps }
            | Self::Flow { num_train_timesteps } => *num_train_timesteps,
            Self::Table { alphas_cumprod } => alphas_cumprod.len(),
            Self::ZeroTerminalSnr { of } => of.num_train_timesteps(),
        }
    }

    /// ᾱ_t for t = 0..T.
    #[must_use]
    pub fn alphas_cumprod(&self) -> Vec<f64> {
        let of_sigma = |sigma: f64| 1.0 / (1.0 + sigma * sigma);
        match *self {
            Self::Linear { num_train_timesteps: n, beta_start, beta_end } => products(even(n, beta_start, beta_end)),
            Self::ScaledLinear { num_train_timesteps: n, beta_start, beta_end } => {
                products(even(n, beta_start.sqrt(), beta_end.sqrt()).map(|root| root * root))
            }
            Self::Cosine { num_train_timesteps: n, s } => {
                let bar = |u: f64| ((u + s) / (1.0 + s) * FRAC_PI_2).cos().powi(2);
                let at = move |i: usize| i as f64 / n as f64;
                products((0..n).map(move |i| (1.0 - bar(at(i + 1)) / bar(at(i))).min(0.999)))
            }
            Self::Karras { num_train_timesteps: n, sigma_min, sigma_max, rho } => {
                let roots = even(n, sigma_min.powf(1.0 / rho), sigma_max.powf(1.0 / rho));
                roots.map(|root| of_sigma(root.powf(rho))).collect()
            }
            Self::Exponential { num_train_timesteps: n, sigma_min, sigma_max } => {
                even(n, sigma_min.ln(), sigma_max.ln()).map(|log| of_sigma(log.exp())).collect()
            }
            Self::TrigFlow { num_train_timesteps: n } => {
                let theta = |i: usize| (i + 1) as f64 / n as f64 * FRAC_PI_2;
                // cos(π/2) is not quite 0 in f64.
                (0..n).map(|i| if i + 1 == n { 0.0 } else { theta(i).cos().powi(2) }).collect()
            }
            Self::Flow { num_train_timesteps: n } => {
                let time = |i: usize| (i + 1) as f64 / n as f64;
                (0..n).map(|i| (1.0 - time(i)).powi(2) / ((1.0 - time(i)).powi(2) + time(i).powi(2))).collect()
            }
            Self::Table { ref alphas_cumprod } => alphas_cumprod.clone(),
            Self::ZeroTerminalSnr { ref of } => zero_terminal(&of.alphas_cumprod()),
        }
    }

    /// That the table can be trained on and packed: T in 2..=4096, ᾱ finite, in 0..1, falling.
    pub fn validate(&self) -> Result<()> {
        let steps = self.num_train_timesteps();
        ensure!((2..=4096).contains(&steps), "config: schedule.num_train_timesteps is {steps}, but must be 2..=4096");
        let table = self.alphas_cumprod();
        let within = table.iter().position(|bar| !(0.0..1.0).contains(bar));
        if let Some(t) = within {
            let bar = table[t];
            anyhow::bail!("config: the schedule's alphas_cumprod is {bar} at timestep {t}, but must be in 0..1");
        }
        let rising = table.windows(2).position(|pair| pair[1] >= pair[0]);
        ensure!(
            rising.is_none(),
            "config: the schedule's alphas_cumprod does not fall after timestep {}",
            rising.unwrap_or_default()
        );
        Ok(())
    }
}

/// `n` values from `first` to `last`.
fn even(n: usize, first: f64, last: f64) -> impl Iterator<Item = f64> {
    let gaps = (n.max(2) - 1) as f64;
    (0..n).map(move |i| first + (last - first) * i as f64 / gaps)
}

/// ᾱ_t = Π_{s ≤ t} (1 − β_s).
fn products(betas: impl Iterator<Item = f64>) -> Vec<f64> {
    betas
        .scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        })
        .collect()
}

fn zero_terminal(table: &[f64]) -> Vec<f64> {
    let (Some(first), Some(last)) = (table.first(), table.last()) else { return Vec::new() };
    let (first, last) = (first.sqrt(), last.sqrt());
    let rescaled = table.iter().map(|bar| ((bar.sqrt() - last) * first / (first - last)).powi(2));
    rescaled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: usize = 1000;

    const REFERENCE: [[f64; 3]; 4] = [
        [9.998999834e-01, 7.858723402e-02, 4.035830352e-05],
        [9.991499782e-01, 2.776694298e-01, 4.660095088e-03],
        [9.999586940e-01, 4.938434660e-01, 2.428734991e-09],
        [9.998999834e-01, 7.602872699e-02, 0.000000000e+00],
    ];

    fn all() -> Vec<ScheduleConfig> {
        let num_train_timesteps = T;
        let linear = ScheduleConfig::Linear { num_train_timesteps, beta_start: 1e-4, beta_end: 0.02 };
        vec![
            linear.clone(),
            ScheduleConfig::ScaledLinear { num_train_timesteps, beta_start: 0.00085, beta_end: 0.012 },
            ScheduleConfig::Cosine { num_train_timesteps, s: 0.008 },
            ScheduleConfig::Karras { num_train_timesteps, sigma_min: 0.002, sigma_max: 80.0, rho: 7.0 },
            ScheduleConfig::Exponential { num_train_timesteps, sigma_min: 0.01, sigma_max: 50.0 },
            ScheduleConfig::TrigFlow { num_train_timesteps },
            ScheduleConfig::Flow { num_train_timesteps },
            ScheduleConfig::Table { alphas_cumprod: (0..T).map(|t| (1023 - t) as f64 / 1024.0).collect() },
            ScheduleConfig::ZeroTerminalSnr { of: Box::new(linear) },
        ]
    }

    #[test]
    fn every_kind_is_valid_and_survives_json() {
        for schedule in all() {
            schedule.validate().unwrap();
            assert_eq!(schedule.num_train_timesteps(), T);
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<ScheduleConfig>(&json).unwrap(), schedule, "{json}");
        }
    }

    /// diffusers 0.42.1, f32: `DDIMScheduler(beta_schedule=B).alphas_cumprod[[0, 499, 999]]` with B "linear"; "scaled_linear"
    /// from 0.00085 to 0.012; "squaredcos_cap_v2"; "linear" and `rescale_betas_zero_snr=True`.
    #[test]
    fn tables_match_diffusers() {
        let schedules = all();
        for (schedule, want) in [
            (&schedules[0], REFERENCE[0]),
            (&schedules[1], REFERENCE[1]),
            (&schedules[2], REFERENCE[2]),
            (&schedules[8], REFERENCE[3]),
        ] {
            let table = schedule.alphas_cumprod();
            for (t, want) in [0, 499, 999].into_iter().zip(want) {
                // A product of 1000 roundings to f32.
                assert!((table[t] - want).abs() <= 4e-6 * want + 1e-12, "{schedule:?} at {t}: {} for {want}", table[t]);
            }
        }
    }

    #[test]
    fn continuous_kinds_match_their_definitions() {
        let schedules = all();
        let sigma = |schedule: &ScheduleConfig, t: usize| {
            let bar = schedule.alphas_cumprod()[t];
            ((1.0 - bar) / bar).sqrt()
        };
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(near(sigma(&schedules[3], 0), 0.002) && near(sigma(&schedules[3], 999), 80.0));
        let middle =
            (0.002f64.powf(1.0 / 7.0) + (80f64.powf(1.0 / 7.0) - 0.002f64.powf(1.0 / 7.0)) * 333.0 / 999.0).powi(7);
        assert!(near(sigma(&schedules[3], 333), middle));
        assert!(near(sigma(&schedules[4], 333), 0.01 * 5000f64.powf(333.0 / 999.0)));
        assert!(near(schedules[5].alphas_cumprod()[499], 0.5) && schedules[5].alphas_cumprod()[999] == 0.0);
        // (1 − u)·x0 + u·ε has σ̂ = u/(1 − u).
        assert!(near(sigma(&schedules[6], 249), 0.25 / 0.75) && schedules[6].alphas_cumprod()[999] == 0.0);
        let rescaled = schedules[8].alphas_cumprod();
        assert!(near(rescaled[0], schedules[0].alphas_cumprod()[0]) && rescaled[999] == 0.0);
    }

    #[test]
    fn refuses_what_is_no_schedule() {
        let refused = |schedule: ScheduleConfig| schedule.validate().unwrap_err().to_string();
        let table = |alphas_cumprod: &[f64]| ScheduleConfig::Table { alphas_cumprod: alphas_cumprod.to_vec() };
        assert!(refused(table(&[0.5])).contains("num_train_timesteps is 1"));
        assert!(refused(table(&[0.5, 0.6])).contains("does not fall after timestep 0"));
        assert!(refused(table(&[1.0, 0.6])).contains("is 1 at timestep 0"));
        assert!(refused(table(&[0.5, f64::NAN])).contains("is NaN at timestep 1"));
        let wild = ScheduleConfig::Linear { num_train_timesteps: 10, beta_start: 0.5, beta_end: 1.5 };
        assert!(refused(wild).contains("alphas_cumprod"));
    }
}
