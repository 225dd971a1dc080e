//! What every picodream firmware does: draw the images of a request inside the arena, measure, report.
//!
//! The report goes two ways: as `defmt` lines for people, and as [`Record`]s for the computer at the other end.
#![no_std]

mod bench;
mod integer;
mod text;

use core::fmt::Display;

pub use bench::bench;

use picodream::sampler::{AnySampler, Consistency};
use picodream::spacing::{AnySpacing, Spacing, Trailing};
use picodream::{BACKEND, Config, Ddim, Ddpm, Image, Model, Pipeline, Progress, SetupError, UNet};
use picodream_wire::{Record, Request, Sampler};
use text::Text;

/// What the app asks of a board.
pub trait Board {
    /// A counter that never runs backwards; reading it is cheap.
    fn ticks(&mut self) -> u64;
    /// Instructions that so many ticks of the counter take.
    fn instructions(&self, ticks: u64) -> u64;
    /// Runs a loop whose length is known from its code, and returns that length in instructions.
    fn known_loop(&mut self) -> u64;
    /// Most bytes of stack that were ever in use since reset.
    fn stack_peak_bytes(&mut self) -> u32;
    /// Sends a record to the computer.
    fn send(&mut self, record: &Record);
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every image was drawn and sent.
    Done,
    /// Nothing more was drawn; the reason has been sent.
    Refused,
}

/// Draws the images of `request` with `model` inside `arena`, by DDIM or DDPM.
pub fn run(board: &mut impl Board, model: &Model, arena: &mut [u8], request: &Request) -> Outcome {
    let drawn = match request.sampler {
        Sampler::Ddim(eta) => draw(board, model, arena, request, (Ddim { eta }, Trailing)),
        Sampler::Ddpm => draw(board, model, arena, request, (Ddpm::default(), Trailing)),
        _ => return refuse(board, &"this firmware carries the samplers ddim and ddpm only"),
    };
    outcome(board, drawn)
}

/// The same for a model that was tuned to draw in few steps, by consistency steps over its own levels.
pub fn run_few_step(board: &mut impl Board, model: &Model, arena: &mut [u8], request: &Request) -> Outcome {
    if request.sampler != Sampler::FewStep {
        return refuse(board, &"this firmware carries the consistency sampler only");
    }
    let drawn = draw_few_step(board, model, arena, request);
    outcome(board, drawn)
}

/// The same by any sampler over any levels, which takes the code of all of them.
pub fn run_any(board: &mut impl Board, model: &Model, arena: &mut [u8], request: &Request) -> Outcome {
    let drawn = match request.sampler {
        Sampler::FewStep => draw_few_step(board, model, arena, request),
        Sampler::Listed { sampler, spacing } => {
            let known = (AnySampler::ALL.get(usize::from(sampler)), AnySpacing::ALL.get(usize::from(spacing)));
            let (Some((_, sampler)), Some((_, spacing))) = known else {
                return refuse(board, &"the request names a sampler or levels that this firmware does not know");
            };
            let spacing = match (spacing, model.header()) {
                (AnySpacing::FewStep(_), Ok(header)) => AnySpacing::FewStep(header.few_step()),
                _ => *spacing,
            };
            draw(board, model, arena, request, (*sampler, spacing))
        }
        _ => return run(board, model, arena, request),
    };
    outcome(board, drawn)
}

fn outcome(board: &mut impl Board, drawn: Result<(), SetupError>) -> Outcome {
    match drawn {
        Ok(()) => Outcome::Done,
        Err(error) => refuse(board, &error),
    }
}

/// Says that the request cannot be served, and why.
pub fn refuse(board: &mut impl Board, reason: &dyn Display) -> Outcome {
    let text = Text::of(reason);
    defmt::error!("refused: {=str}", text.as_str());
    board.send(&Record::Refused(text.as_str()));
    Outcome::Refused
}

fn draw_few_step(board: &mut impl Board, model: &Model, arena: &mut [u8], request: &Request) -> Result<(), SetupError> {
    let levels = model.header().map_err(SetupError::Blob)?.few_step();
    draw(board, model, arena, request, (Consistency::default(), levels))
}

fn draw<S: picodream::Sampler + Copy, P: Spacing + Copy>(
    board: &mut impl Board,
    model: &Model,
    arena: &mut [u8],
    request: &Request,
    (sampler, spacing): (S, P),
) -> Result<(), SetupError> {
    let offered =
        Config::<S, P>::arena_bytes(model).min(arena.len()).saturating_sub(request.arena_short_bytes as usize);
    let arena = &mut arena[..offered];
    let num_classes = model.header().map_err(SetupError::Blob)?.num_classes;
    for index in 0..u64::from(request.count) {
        let seed = request.seed.wrapping_add(index);
        let class = request.class.of_seed(seed, num_classes);
        let config = Config {
            // What does not fit is refused like any other number of steps that is too large.
            steps: u16::try_from(request.steps).unwrap_or(u16::MAX),
            class,
            guidance: request.guidance,
            clip_sample: request.clip_sample,
            ..Config::with_spacing(seed, sampler, spacing)
        };
        let mut pipeline = Pipeline::new(model, arena, config)?;
        if index == 0 {
            announce(board, pipeline.unet(), pipeline.arena().len());
        }
        draw_one(board, &mut pipeline, seed, class);
    }
    let stack_peak_bytes = board.stack_peak_bytes();
    defmt::println!("stack peak {=u32} bytes", stack_peak_bytes);
    board.send(&Record::Finished { stack_peak_bytes });
    Ok(())
}

/// Not generic over the sampler, like [`send_image`]: once in a firmware.
fn announce(board: &mut impl Board, unet: &UNet, arena_bytes: usize) {
    let (model, header) = (unet.model(), unet.header());
    let name = model.text(header, header.name);
    defmt::println!("model {=str} crc32 {=u32:08x}, {=u32} bytes", name, header.crc32, header.total_bytes);
    let arena_bytes = arena_bytes as u32;
    defmt::println!("arena {=u32} bytes, backend {=str}", arena_bytes, BACKEND);
    board.send(&Record::Started {
        blob_crc32: header.crc32,
        arena_bytes,
        width: header.width.into(),
        height: header.height.into(),
        channels: header.channels.into(),
        backend: BACKEND,
        name,
    });
}

fn draw_one<S: picodream::Sampler, P: Spacing>(
    board: &mut impl Board,
    pipeline: &mut Pipeline<S, P>,
    seed: u64,
    class: Option<u16>,
) {
    let mut total = 0;
    loop {
        let (instructions, progress) = counted(board, |_| pipeline.step());
        total += instructions;
        board.send(&Record::Step { instructions });
        if progress == Progress::Done {
            break;
        }
    }
    let per_step = total / u64::from(pipeline.steps_done());
    send_image(board, &pipeline.image(), seed, class, per_step);
}

fn send_image(board: &mut impl Board, image: &Image, seed: u64, class: Option<u16>, per_step: u64) {
    send_pixels(board, image);
    let crc32 = image.crc32();
    defmt::println!("seed {=u64} crc32 {=u32:08x}, {=u64} instructions a step", seed, crc32, per_step);
    board.send(&Record::Image { seed, class, crc32 });
}

/// Instructions that `work` takes, to a tick, and what it returns.
fn counted<B: Board, T>(board: &mut B, work: impl FnOnce(&mut B) -> T) -> (u64, T) {
    let before = board.ticks();
    let result = work(board);
    let ticks = board.ticks() - before;
    (board.instructions(ticks), result)
}

/// Pixels per record: few enough for the stack.
const PIECE: usize = 64;

fn send_pixels(board: &mut impl Board, image: &Image) {
    let mut piece = [0; PIECE];
    let mut len = 0;
    for byte in image.bytes() {
        piece[len] = byte;
        len += 1;
        if len == PIECE {
            board.send(&Record::Pixels(&piece));
            len = 0;
        }
    }
    board.send(&Record::Pixels(&piece[..len]));
}
