//! picodream: diffusion models on microcontrollers. `no_std`, no heap, one weight blob, one fixed buffer.
#![no_std]
#![cfg_attr(test, allow(missing_docs))]

#[cfg(test)]
extern crate std;

pub mod math;
pub mod rng;
