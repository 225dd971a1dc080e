//! The command line: one file per verb, each a few lines over the library; this file parses and reports.
//!
//! Without a verb the shipped models draw a sheet. With `--json` standard output carries exactly one JSON object; progress
//! and remarks go to standard error. An error is one sentence on standard error: exit code 1, or 2 for wrong usage.

mod bench;
mod bench_train;
mod compare;
mod curve;
mod data;
mod demo;
mod diff;
mod emulate;
mod eval;
mod export;
mod inspect;
mod invert;
mod output;
mod rule;
mod sample;
mod sampling_args;
pub mod shipped;
mod train;
#[cfg(not(feature = "train"))]
mod trainer_build;
mod tune;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use output::Output;

/// Draw images with small quantised diffusion models, and make such models: train, export, inspect, measure, emulate.
///
/// Without a verb the shipped models draw a sheet of images through the same int8 code that runs on a microcontroller,
/// show it in the terminal and save it as picodream.png.
#[derive(Debug, Parser)]
#[command(
    name = "picodream",
    version,
    after_long_help = "\
Examples:
  picodream                                     draw a sheet with the shipped models
  picodream sample faces-16 --count 16 --out faces.png
  picodream inspect fashion-16 --svg memory.svg
  picodream emulate fashion-16 --machine mps2-an386 --count 2 --out emulated
  picodream bench --core m4 --layers            count instructions

A MODEL is the path of a blob (.pdm) or the name of a shipped model: fashion-16, fashion-16-fast,
fashion-16-nano, fashion-16-nano-fast, faces-16, faces-16-fast, fashion-28, emoji-32, fashion-16-eps.
With --json standard output carries exactly one JSON object; CRCs in it are strings of 8 hexadecimal digits.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    global: Global,
}

/// Options of every verb.
#[derive(Args, Clone, Copy, Debug)]
struct Global {
    /// Print one JSON object on standard output and nothing else.
    #[arg(long, global = true)]
    json: bool,
    /// Show images as text even when standard output is not a terminal.
    #[arg(long, global = true, conflicts_with = "json")]
    preview: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Data(data::DataArgs),
    Train(train::TrainArgs),
    Tune(tune::TuneArgs),
    Export(export::ExportArgs),
    Inspect(inspect::InspectArgs),
    Sample(Box<sample::SampleArgs>),
    Eval(eval::EvalArgs),
    Curve(curve::CurveArgs),
    Diff(diff::DiffArgs),
    Emulate(emulate::EmulateArgs),
    Bench(bench::BenchArgs),
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS, // The reader has seen enough.
        Err(error) => {
            report(&one_sentence(&error));
            ExitCode::from(1)
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let output = Output::new(cli.global.json, cli.global.preview);
    match cli.verb {
        None => demo::run(&output)?,
        Some(Verb::Data(args)) => data::run(&args, &output)?,
        Some(Verb::Train(args)) => return train::run(&args, &output),
        Some(Verb::Tune(args)) => return tune::run(&args, &output),
        Some(Verb::Export(args)) => export::run(&args, &output)?,
        Some(Verb::Inspect(args)) => inspect::run(&args, &output)?,
        Some(Verb::Sample(args)) => sample::run(&args, &output)?,
        Some(Verb::Eval(args)) => eval::run(&args, &output)?,
        Some(Verb::Curve(args)) => curve::run(&args, &output)?,
        Some(Verb::Diff(args)) => diff::run(&args, &output)?,
        Some(Verb::Emulate(args)) => emulate::run(&args, &output)?,
        Some(Verb::Bench(args)) => return bench::run(&args, &output),
    }
    Ok(ExitCode::SUCCESS)
}

/// Help and version as clap prints them; a mistake as one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe is no mistake of ours.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let told = paragraphs.next().unwrap_or_default();
    let tip = paragraphs.next().and_then(|p| Some(format!("; {}", p.strip_prefix("tip: ")?))).unwrap_or_default();
    report(&format!("{}{tip} (see --help)", told.trim_start_matches("error: ")));
    ExitCode::from(2)
}

fn is_broken_pipe(error: &Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes on one line.
fn one_sentence(error: &Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn report(sentence: &str) {
    // Nowhere is left to complain when standard error is closed.
    let _ = writeln!(io::stderr(), "error: {sentence}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn errors_become_one_line() {
        let error = anyhow::anyhow!("first\n  second").context("outer");
        assert_eq!(one_sentence(&error), "outer: first second");
    }
}
