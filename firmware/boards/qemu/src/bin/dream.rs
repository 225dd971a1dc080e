//! The firmware as a product has it: blob in flash, arena of exactly the model's size, both known when it is built.
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
    let outcome = picodream_app::run(&mut board, &MODEL, ARENA.take(), &request);
    board.exit(outcome)
}
