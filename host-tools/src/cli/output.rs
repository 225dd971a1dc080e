//! What goes where: results to standard output (text, or one JSON object), pictures to the terminal, progress to standard error.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::picture::{Picture, TerminalColour, terminal_colour, terminal_preview};

/// Where a verb writes.
#[derive(Debug)]
pub struct Output {
    json: bool,
    colour: Option<TerminalColour>,
}

impl Output {
    /// `json`: one object and nothing else. `preview`: pictures as text even when standard output is not a terminal.
    pub fn new(json: bool, preview: bool) -> Self {
        let colour = match (json, preview) {
            (true, _) => None,
            (false, true) => Some(terminal_colour().unwrap_or(TerminalColour::True)),
            (false, false) => terminal_colour(),
        };
        Self { json, colour }
    }

    /// A line for people; nothing with `--json`.
    pub fn line(&self, text: impl Display) -> Result<()> {
        if !self.json {
            writeln!(io::stdout(), "{text}")?;
        }
        Ok(())
    }

    /// The result as one JSON object; nothing without `--json`.
    pub fn object(&self, value: &impl Serialize) -> Result<()> {
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string_pretty(value)?)?;
        }
        Ok(())
    }

    /// Shows pictures when standard output is a terminal, or when asked to.
    pub fn pictures(&self, pictures: &[Picture]) -> Result<()> {
        if let Some(colour) = self.colour {
            let columns = console::Term::stdout().size_checked().map_or(100, |(_, columns)| usize::from(columns));
            write!(io::stdout(), "{}", terminal_preview(pictures, columns, colour))?;
        }
        Ok(())
    }

    /// A progress bar on standard error with rate and time to go; invisible where that is not a terminal.
    pub fn progress(&self, total: usize, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg} [{bar:32}] {pos}/{len} · {per_sec} · {elapsed} · {eta} to go");
        let bar = ProgressBar::new(total as u64).with_message(what.to_owned());
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// A spinner on standard error for work of unknown length.
    pub fn spinner(&self, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{spinner} {msg} · {elapsed}");
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// How to call this program again: through cargo when cargo started it.
pub fn command_name() -> &'static str {
    if std::env::var_os("CARGO").is_some() { "cargo run --release --" } else { "picodream" }
}
