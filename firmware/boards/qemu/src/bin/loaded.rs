//! The firmware for a blob that arrives at run time: read from the file `model.pdm`, into RAM, checked by the board.
#![no_std]
#![no_main]

use picodream::{Arena, Model};
use picodream_qemu::Qemu;

static BLOB: Arena<{ 1 << 20 }> = Arena::new();
static ARENA: Arena<{ 1 << 20 }> = Arena::new();

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut board = Qemu::start();
    let request = board.request();
    let blob = board.read_blob(BLOB.take());
    let outcome = match Model::parse(blob) {
        Ok(model) => picodream_app::run_any(&mut board, &model, ARENA.take(), &request),
        Err(error) => picodream_app::refuse(&mut board, &error),
    };
    board.exit(outcome)
}
