//! The firmware that measures: one network call of the blob in the file `model.pdm`, counted operator by operator.
#![no_std]
#![no_main]

use picodream::{Arena, Model};
use picodream_qemu::Qemu;

static BLOB: Arena<{ 1 << 20 }> = Arena::new();
static ARENA: Arena<{ 1 << 20 }> = Arena::new();

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut board = Qemu::start();
    let blob = board.read_blob(BLOB.take());
    let outcome = match Model::parse(blob) {
        Ok(model) => picodream_app::bench(&mut board, &model, ARENA.take()),
        Err(error) => picodream_app::refuse(&mut board, &error),
    };
    board.exit(outcome)
}
