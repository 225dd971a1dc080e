//! picodream on a board with an STM32F405: one image after the other, as text over the serial line.
//!
//! Adafruit's Feather STM32F405, Olimex' STM32-H405, the Netduino Plus 2 (which QEMU emulates), or your own. The line is USART1 on
//! PA9, 115,200 baud, 8N1. A model that was tuned for few steps draws in one of its own, any other in twenty of DDIM.
#![no_std]
#![no_main]

mod text;

use core::fmt::Write;
use core::panic::PanicInfo;

use cortex_m::peripheral::DWT;
use picodream::blob::Header;
use picodream::sampler::Consistency;
use picodream::spacing::Spacing;
use picodream::{Arena, BACKEND, Config, Model, Pipeline, Progress, Sampler, SetupError};
use stm32f4xx_hal::rcc;
use stm32f4xx_hal::serial::{Serial, Tx};
use stm32f4xx_hal::{pac, prelude::*};

const MODEL: Model = picodream::include_model!(env!("PICODREAM_MODEL_PATH"));
static ARENA: Arena<{ MODEL.arena_bytes() }> = Arena::new();

#[cortex_m_rt::entry]
fn main() -> ! {
    let (Some(mut core), Some(chip)) = (cortex_m::Peripherals::take(), pac::Peripherals::take()) else { stop() };
    core.DCB.enable_trace();
    core.DWT.enable_cycle_counter();
    let clock = rcc::Config::hsi();
    let clock = if cfg!(feature = "pll") { clock.sysclk(168.MHz()) } else { clock };
    let mut rcc = chip.RCC.freeze(clock);
    let pins = chip.GPIOA.split(&mut rcc);
    let line: Result<Tx<pac::USART1>, _> = Serial::tx(chip.USART1, pins.pa9, 115_200.bps(), &mut rcc);
    let (Ok(mut line), Ok(header)) = (line, MODEL.header()) else { stop() };

    let name = MODEL.text(&header, header.name);
    let (bytes, arena_bytes) = (header.total_bytes, MODEL.arena_bytes());
    // Nobody can be told when the line fails, here and below.
    let _ = writeln!(line, "picodream: {name}, blob {bytes} bytes, arena {arena_bytes} bytes, kernels {BACKEND}\r");
    let arena = ARENA.take();
    for seed in 0.. {
        if let Err(reason) = dream(&mut line, &header, arena, seed) {
            let _ = writeln!(line, "refused: {reason}\r");
            break;
        }
    }
    stop()
}

/// Draws the image of a seed by the sampler that the model was made for. Seeds count through the classes.
fn dream(line: &mut impl Write, header: &Header, arena: &mut [u8], seed: u64) -> Result<(), SetupError> {
    let classes = u64::from(header.num_classes);
    let class = (classes > 0).then(|| (seed % classes) as u16);
    if header.few_steps > 0 {
        let config = Config::with_spacing(seed, Consistency::default(), header.few_step());
        draw(line, arena, Config { steps: 1, class, ..config })
    } else {
        draw(line, arena, Config { class, ..Config::new(seed) })
    }
}

fn draw<S: Sampler, P: Spacing>(
    line: &mut impl Write,
    arena: &mut [u8],
    config: Config<S, P>,
) -> Result<(), SetupError> {
    let (seed, class) = (config.seed, config.class);
    let mut pipeline = Pipeline::new(&MODEL, arena, config)?;
    let before = DWT::cycle_count();
    while pipeline.step() == Progress::Running {}
    let cycles = DWT::cycle_count().wrapping_sub(before);
    let image = pipeline.image();
    let _ = text::write(line, &image);
    let _ = write!(line, "seed {seed}");
    if let Some(class) = class {
        let _ = write!(line, " class {class}");
    }
    // An emulated core has no cycle counter.
    if cycles > 0 {
        let _ = write!(line, " cycles {cycles}");
    }
    let _ = writeln!(line, " crc32 {:08x}\r", image.crc32());
    Ok(())
}

/// Nothing more to do.
fn stop() -> ! {
    loop {
        cortex_m::asm::wfi();
    }
}

/// What the runtime promises never to need once a pipeline is made.
#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    stop()
}
