//! `picodream-log ELF < FRAMES`: prints the defmt lines that a firmware wrote, as they come.

use std::io::{self, ErrorKind, Read, Write};

use anyhow::{Context, Result, bail};
use defmt_decoder::{DecodeError, Table};

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: picodream-log ELF < FRAMES")?;
    let shown = path.to_string_lossy().into_owned();
    let elf = std::fs::read(path).with_context(|| format!("cannot read the firmware {shown}"))?;
    let table = Table::parse(&elf)
        .with_context(|| format!("{shown} is no firmware"))?
        .with_context(|| format!("{shown} has no defmt lines"))?;
    match print(&table, &mut io::stdin().lock(), &mut io::stdout().lock()) {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => Ok(()),
        outcome => outcome,
    }
}

fn print(table: &Table, frames: &mut impl Read, lines: &mut impl Write) -> Result<()> {
    let mut decoder = table.new_stream_decoder();
    let mut piece = [0; 4096];
    loop {
        let got = frames.read(&mut piece)?;
        decoder.received(&piece[..got]);
        loop {
            match decoder.decode() {
                Ok(frame) => match frame.level() {
                    Some(level) => writeln!(lines, "{}: {}", level.as_str(), frame.display_message())?,
                    None => writeln!(lines, "{}", frame.display_message())?,
                },
                Err(DecodeError::UnexpectedEof) => break,
                Err(DecodeError::Malformed) => bail!("the frames are not this firmware's"),
            }
        }
        if got == 0 {
            return Ok(());
        }
    }
}
