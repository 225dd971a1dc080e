//! Host tools of picodream: train, quantise, export, inspect and check small diffusion models.
pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod data;
pub mod diff;
pub mod emulate;
pub mod eval;
pub mod export;
pub mod files;
pub mod float;
pub mod inspect;
pub mod picture;
pub mod recipe;
pub mod sampling;
#[cfg(feature = "train")]
pub mod train;
