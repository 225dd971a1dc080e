//! picodream: diffusion models on microcontrollers. `no_std`, no heap, one weight blob, one fixed buffer.
//!
//! ```ignore
//! const MODEL: Model = picodream::include_model!("faces-16.pdm");          // a broken blob fails the build
//! static ARENA: Arena<{ MODEL.arena_bytes() }> = Arena::new();             // exact, no guessing
//!
//! let mut dream = Pipeline::new(&MODEL, ARENA.take(), Config::new(seed))?; // everything that can fail fails here
//! while dream.step() == Progress::Running { /* draw a preview, feed the watchdog */ }
//! let image = dream.image();                                               // Gray8, RGB888, RGB565, ImageDrawable
//! ```
//!
//! The way of the data, in reading order: [`blob`] (parse once, then trust) → [`arena`] → `ops` over `kernels` (integer
//! convolutions, float epilogues) → [`unet`] (the operator list) → [`sampler`] over a [`schedule`] with noise from [`rng`]
//! → [`pipeline`] → [`image`]. The same blob, seed and sampler give the same bytes on every machine: [`math`] and
//! `docs/numerics.md` say why.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod arena;
pub mod blob;
mod checksum;
mod decimal;
pub mod edit;
pub mod f16;
pub mod image;
pub mod kernels;
pub mod math;
mod ops;
pub mod pipeline;
mod prediction;
pub mod quant;
pub mod rng;
pub mod sampler;
pub mod schedule;
pub mod spacing;
mod tensor;
pub mod unet;
pub mod walk;

pub use arena::Arena;
pub use blob::{Model, ParseError, PredictionType};
pub use image::Image;
pub use kernels::BACKEND;
pub use pipeline::{Config, Pipeline, Progress, SetupError};
pub use sampler::{Consistency, Ddim, Ddpm, Sampler};
pub use spacing::Spacing;
pub use unet::UNet;
