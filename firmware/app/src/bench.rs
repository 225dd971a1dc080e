//! What a network call costs: the instructions of every operator, of a whole denoising step, and the stack.

use picodream::{Config, Model, Pipeline, SetupError, UNet};
use picodream_wire::Record;

use crate::{Board, Outcome, announce, counted, integer, refuse};

/// Measures one denoising step of `model` inside `arena`: as a whole, then operator by operator on the same input (x_T of
/// seed 1 at the last timestep, in the null class), and of convolutions without a norm the integer part alone.
pub fn bench(board: &mut impl Board, model: &Model, arena: &mut [u8]) -> Outcome {
    match measure(board, model, arena) {
        Ok(()) => Outcome::Done,
        Err(error) => refuse(board, &error),
    }
}

fn measure(board: &mut impl Board, model: &Model, arena: &mut [u8]) -> Result<(), SetupError> {
    let (counted_instructions, known) = counted(board, Board::known_loop);
    let len = model.arena_bytes().min(arena.len());
    let arena = &mut arena[..len];
    let mut pipeline = Pipeline::new(model, arena, Config { steps: 1, ..Config::new(1) })?;
    announce(board, pipeline.unet(), pipeline.arena().len());
    board.send(&Record::Yardstick { known, counted: counted_instructions });

    let timestep = pipeline.timestep();
    let (instructions, _) = counted(board, |_| pipeline.step());
    board.send(&Record::Step { instructions });
    pipeline.restart(1);

    let unet = UNet::new(model).map_err(SetupError::Blob)?;
    for index in 0..unet.op_count() {
        let null_class = unet.header().num_classes;
        integer::measure(board, &unet, index, arena);
        let (instructions, ()) = counted(board, |_| unet.run_op(index, timestep, null_class, arena));
        board.send(&Record::Op { index: index.into(), instructions });
    }
    let stack_peak_bytes = board.stack_peak_bytes();
    board.send(&Record::Finished { stack_peak_bytes });
    Ok(())
}
