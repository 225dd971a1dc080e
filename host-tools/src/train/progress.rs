//! What a run tells: a bar or plain lines on standard error, and a log file.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::trainer::TrainOptions;

/// Steps between two lines of the log.
const LOG_EVERY: usize = 100;

/// The bar (or plain lines) on stderr and the log file.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
    log: File,
    recent: Vec<f64>,
    total: usize,
    first: usize,
    /// When this run began.
    pub start: Instant,
}

impl Progress {
    /// Of a run of `total` steps that stands at `step`.
    pub fn new(total: usize, options: &TrainOptions, step: usize) -> Result<Self> {
        let path = options.out.with_extension("log");
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let log = OpenOptions::new()
            .create(true)
            .write(true)
            .append(options.resume)
            .truncate(!options.resume)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !options.quiet).then(|| {
            let bar = ProgressBar::new(total as u64).with_position(step as u64);
            let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg} {per_sec} ETA {eta}");
            bar.with_style(style.expect("a valid template"))
        });
        let plain = !terminal && !options.quiet;
        Ok(Self { bar, plain, log, recent: Vec::new(), total, first: step, start: Instant::now() })
    }

    /// Step number `step` (from 1) is done: its loss, learning rate and gradient norm.
    pub fn step(&mut self, step: usize, loss: f64, rate: f64, norm: f32) -> Result<()> {
        if self.recent.len() == LOG_EVERY {
            self.recent.remove(0);
        }
        self.recent.push(loss);
        if let Some(bar) = &self.bar {
            bar.set_position(step as u64);
            bar.set_message(format!("loss {:.4} rate {rate:.2e}", self.mean_loss()));
        }
        if step.is_multiple_of(LOG_EVERY) || step == self.total {
            let elapsed = self.start.elapsed();
            let per_step = elapsed.as_secs_f64() / (step - self.first) as f64;
            let left = Duration::from_secs((per_step * (self.total - step) as f64) as u64);
            let line = format!(
                "step {step}/{} loss {:.5} rate {rate:.3e} grad {norm:.3} {:.1} ms/step elapsed {}s left {}s",
                self.total,
                self.mean_loss(),
                per_step * 1e3,
                elapsed.as_secs(),
                left.as_secs()
            );
            writeln!(self.log, "{line}").context("cannot write the training log")?;
            if self.plain {
                eprintln!("{line}");
            }
        }
        Ok(())
    }

    /// Mean loss of the last `LOG_EVERY` steps.
    pub fn mean_loss(&self) -> f64 {
        self.recent.iter().sum::<f64>() / self.recent.len() as f64
    }

    /// The run is done.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
