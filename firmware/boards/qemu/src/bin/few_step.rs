//! The firmware as a product has it around a model that was tuned to draw in few steps: its sampler alone.
#![no_std]
#![no_main]

use picodream::{Arena, Model};
use picodream_qemu::Qemu;

const MODEL: Model = picodream::include_model!(env!("PICODREAM_MODEL_PATH"));
static ARENA: Arena<{ MODEL.arena_bytes() }> = Arena::new();

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut board = Qemu::start();
    let request = board.request();
    let outcome = picodream_app::run_few_step(&mut board, &MODEL, ARENA.take(), &request);
    board.exit(outcome)
}
