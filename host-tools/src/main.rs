//! The `picodream` command: a thin shell over the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    picodream_tools::cli::run()
}
