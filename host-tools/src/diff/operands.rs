//! Float values in and out of the runtime's arena, and one int8 op alone between them.

use std::ops::Range;

use half::f16;
use picodream::UNet;
use picodream::blob::{DType, TensorRecord};

use crate::float::{Graph, TensorId};

/// A 16-byte aligned buffer: the aligned part of a longer one, whose heap memory never moves.
pub(crate) struct Arena {
    memory: Vec<u8>,
    range: Range<usize>,
}

impl Arena {
    pub(crate) fn new(bytes: usize) -> Self {
        let memory = vec![0; bytes + 15];
        let start = memory.as_ptr().align_offset(16).min(15);
        Self { memory, range: start..start + bytes }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.range.clone()]
    }
}

/// One int8 op at a time, reading the float network's tensors.
pub(super) struct LoneOp<'m, 'g> {
    unet: UNet<'m>,
    graph: &'g Graph,
    arena: Arena,
}

impl<'m, 'g> LoneOp<'m, 'g> {
    pub(super) fn new(unet: UNet<'m>, graph: &'g Graph) -> Self {
        let mut arena = Arena::new(unet.model().arena_bytes());
        unet.begin(arena.bytes());
        Self { unet, graph, arena }
    }

    /// What op `index` writes at a timestep for a row of the class table, given its inputs.
    pub(super) fn run<'v>(
        &mut self,
        index: usize,
        (timestep, class): (f32, u16),
        values: impl Fn(TensorId) -> &'v [f32],
    ) -> Vec<f32> {
        let Some(op) = self.unet.op(index as u16) else { return Vec::new() };
        // The graph's reads are in the order of the record's.
        for (id, record) in self.graph.ops[index].reads(self.graph.temb).into_iter().zip(op.reads()) {
            write_tensor(&self.unet.tensor(record), values(id), self.arena.bytes());
        }
        self.unet.run_op(index as u16, timestep, class, self.arena.bytes());
        read_tensor(&self.unet.tensor(op.common().out), self.arena.bytes())
    }
}

/// A tensor's elements as f32.
pub(super) fn read_tensor(tensor: &TensorRecord, arena: &[u8]) -> Vec<f32> {
    let bytes = &arena[tensor.elements().range()];
    match tensor.dtype {
        // Expanded weights are no operand.
        DType::I16 => Vec::new(),
        DType::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::I8 => {
            let scales =
                arena[tensor.scales_region().range()].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            bytes
                .iter()
                .zip(scales.collect::<Vec<_>>().into_iter().cycle())
                .map(|(&q, s)| f32::from(q.cast_signed()) * s)
                .collect()
        }
    }
}

/// The largest magnitude of each channel over 127.
fn channel_scales(values: &[f32], channels: usize) -> Vec<f32> {
    let mut largest = vec![0.0f32; channels];
    for pixel in values.chunks_exact(channels) {
        largest.iter_mut().zip(pixel).for_each(|(largest, x)| *largest = largest.max(x.abs()));
    }
    largest.into_iter().map(|largest| largest / 127.0).collect()
}

/// Writes values, and the statistics of the stored values, as `ops` leave them.
fn write_tensor(tensor: &TensorRecord, values: &[f32], arena: &mut [u8]) {
    let scales = channel_scales(values, tensor.channels.into());
    let bytes: Vec<u8> = match tensor.dtype {
        DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I16 => return,
        DType::I8 => {
            let inverse = |scale: f32| if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let round = |(v, s): (&f32, &f32)| (v * inverse(*s)).round() as i8 as u8;
            values.iter().zip(scales.iter().cycle()).map(round).collect()
        }
    };
    if tensor.dtype == DType::I8 {
        let bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        arena[tensor.scales_region().range()].copy_from_slice(&bytes);
    }
    arena[tensor.elements().range()].copy_from_slice(&bytes);
    if tensor.statistics {
        let mut sums = vec![0.0f32; 2 * usize::from(tensor.channels)];
        for (i, x) in read_tensor(tensor, arena).into_iter().enumerate() {
            let c = i % usize::from(tensor.channels);
            sums[2 * c] += x;
            sums[2 * c + 1] += x * x;
        }
        let bytes: Vec<u8> = sums.iter().flat_map(|s| s.to_le_bytes()).collect();
        arena[tensor.statistics_region().range()].copy_from_slice(&bytes);
    }
}
