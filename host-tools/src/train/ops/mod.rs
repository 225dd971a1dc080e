//! The network's operators as candle `CustomOp`s on the CPU: f32, NHWC, contiguous; forward and backward in safe SIMD.
//!
//! candle keeps the graph and walks it backwards; the arithmetic is here, because candle's own convolution is several
//! times slower and its nearest upsampling has a wrong gradient. Every gradient is held to finite differences in `tests`.

pub mod attention;
pub mod clock;
pub mod conv;
pub mod kernel;
pub mod norm;
pub mod rows;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor, bail};

/// The floats of an operand of a custom op; an error when it is not contiguous f32.
pub(crate) fn floats<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("{op} needs contiguous operands, got strides {:?}", layout.stride()),
    }
}

/// Calls `f` with the floats of every tensor, made contiguous where they are not.
pub(crate) fn with_floats<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> R) -> Result<R> {
    let tensors = tensors.into_iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("the trainer runs on the CPU") };
        *slice = floats("backward", storage, layout)?;
    }
    Ok(f(slices))
}

/// A CPU tensor that owns `data`.
pub(crate) fn tensor(data: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu)
}
