//! The network: runs the operator list of a validated blob inside the arena, one operator at a time.

use crate::blob::{Expansion, Header, Model, Op, ParseError, Region, TensorRecord, Transform};
use crate::kernels;
use crate::ops::{self, Context};
use crate::tensor::{f32s, f32s_mut};

/// A blob that has passed the whole validation: nothing below can fail.
#[derive(Clone, Copy, Debug)]
pub struct UNet<'m> {
    model: Model<'m>,
    header: Header,
}

impl<'m> UNet<'m> {
    /// Validates the blob.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn new(model: &Model<'m>) -> Result<Self, ParseError> {
        Ok(Self { model: *model, header: model.validate()? })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The blob.
    #[must_use]
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// Number of operators of one network call.
    #[must_use]
    pub fn op_count(&self) -> u16 {
        self.header.op_count
    }

    /// x_t, f32 \[height\]\[width\]\[channels\].
    #[must_use]
    pub fn sample<'a>(&self, arena: &'a [u8]) -> &'a [f32] {
        f32s(arena.get(self.tensor(self.header.sample).elements().range()).unwrap_or(&[]))
    }

    /// x_t, to be written before the first operator.
    #[must_use]
    pub fn sample_mut<'a>(&self, arena: &'a mut [u8]) -> &'a mut [f32] {
        f32s_mut(arena.get_mut(self.tensor(self.header.sample).elements().range()).unwrap_or(&mut []))
    }

    /// The network's output, valid after the last operator: f32 \[height\]\[width\], the prediction of every channel and, where
    /// the network gives them, as many variances behind it.
    #[must_use]
    pub fn model_output<'a>(&self, arena: &'a [u8]) -> &'a [f32] {
        f32s(arena.get(self.tensor(self.header.model_output).elements().range()).unwrap_or(&[]))
    }

    /// Arena bytes of (x_t, output, guidance buffer); the last is empty for an unconditional model.
    pub(crate) fn endpoints(&self) -> [Region; 3] {
        let elements = |index: u16| {
            if index == crate::blob::NONE { Region::default() } else { self.tensor(index).elements() }
        };
        [elements(self.header.sample), elements(self.header.model_output), elements(self.header.guidance)]
    }

    /// Arena bytes of the elements of tensor `index`; valid from the operator that wrote it until its place is reused.
    #[must_use]
    pub fn tensor_region(&self, index: u16) -> Region {
        self.tensor(index).elements()
    }

    /// The record of tensor `index` (an empty one when there is no such tensor).
    #[must_use]
    #[inline(never)]
    pub fn tensor(&self, index: u16) -> TensorRecord {
        let record =
            if index < self.header.tensor_count { self.model.read_tensor(&self.header, index).ok() } else { None };
        record.unwrap_or(TensorRecord {
            height: 0,
            width: 0,
            channels: 0,
            dtype: crate::blob::DType::F32,
            statistics: false,
            offset: 0,
        })
    }

    /// Operator `index`; `None` past the last.
    #[must_use]
    #[inline(never)]
    pub fn op(&self, index: u16) -> Option<Op> {
        if index < self.header.op_count { self.model.read_op(&self.header, index).ok() } else { None }
    }

    /// Runs operator `index` at a (possibly fractional) `timestep` for a row of the class table (`num_classes`: the null
    /// class). `arena` is at least [`Model::arena_bytes`] long and 16-byte aligned. Does nothing past the last operator.
    pub fn run_op(&self, index: u16, timestep: f32, class: u16, arena: &mut [u8]) {
        let context =
            Context { model: self.model, header: &self.header, timestep, class: class.min(self.header.num_classes) };
        match self.op(index) {
            None => {}
            Some(Op::TimeEmbed(op)) => ops::time_embed(context, &op, self.tensor(op.common.out).elements(), arena),
            Some(Op::Conv(op)) => {
                let operands = ops::Operands {
                    a: self.tensor(op.src_a),
                    b: op.src_b.map(|b| self.tensor(b)),
                    residual: op.residual.map(|residual| self.tensor(residual)),
                    time: op.time.map(|time| self.tensor(time)),
                    out: self.tensor(op.common.out),
                    expanded: op.expanded.map(|expanded| self.tensor(expanded)),
                };
                ops::conv(context, &op, operands, arena);
            }
            Some(Op::Narrow(op)) => ops::narrow([self.tensor(op.src), self.tensor(op.common.out)], arena),
            Some(Op::Attention(op)) => {
                let operands = [self.tensor(op.src), self.tensor(op.kv), self.tensor(op.common.out)];
                ops::attention(context, &op, operands, arena);
            }
        }
    }

    /// Expands the weights that the plan keeps in the arena; to be called before the first operator of an image. `arena` as in
    /// [`UNet::run_op`].
    pub fn begin(&self, arena: &mut [u8]) {
        for op in self.model.ops(&self.header) {
            let Op::Conv(op) = op else { continue };
            let Some(expanded) = op.expanded else { continue };
            let Some(out) = arena.get_mut(self.tensor(expanded).elements().range()) else { continue };
            let channels = |index: u16| u32::from(self.tensor(index).channels);
            let (cin, cout) = (channels(op.src_a) + op.src_b.map_or(0, channels), channels(op.common.out));
            let direct = self.model.array(&self.header, &op.common, op.data_layout(cin, cout, 0).weight);
            let (in_pairs, out_pairs) = (cin.div_ceil(2) as usize, cout.div_ceil(2) as usize);
            kernels::expand(&Expansion { transform: Transform::Winograd, in_pairs, out_pairs }, direct, out);
        }
    }

    /// One network call: every operator in order, after [`UNet::begin`].
    pub fn forward(&self, timestep: f32, class: u16, arena: &mut [u8]) {
        for index in 0..self.op_count() {
            self.run_op(index, timestep, class, arena);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, vec, vec::Vec};

    use super::*;
    use crate::blob::{OP_RECORD_BYTES, SectionKind, seal};

    /// Bits of the output of one call.
    fn output(blob: &[u8], timestep: f32) -> Vec<u32> {
        let model = Model::parse(blob).unwrap();
        let unet = UNet::new(&model).unwrap();
        let mut words = vec![0u128; model.arena_bytes().div_ceil(16)];
        let arena = bytemuck::cast_slice_mut(&mut words);
        let mut noise = crate::rng::NoiseStream::new(9, 0);
        unet.sample_mut(arena).iter_mut().for_each(|x| *x = noise.next_gaussian());
        unet.begin(arena);
        unet.forward(timestep, 3, arena);
        unet.model_output(arena).iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn weights_transformed_at_every_call_give_the_bits_of_direct_ones() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        for name in ["fashion-16.pdm", "faces-16.pdm"] {
            let mut blob = std::fs::read(folder.join(name)).unwrap();
            let (model, header) = (Model::parse(&blob).unwrap(), Header::read(&blob).unwrap());
            let ops: Vec<Op> = model.ops(&header).collect();
            let tensors: Vec<TensorRecord> = model.tensors(&header).collect();
            let whole = output(&blob, 400.5);
            let records = header.sections[SectionKind::Ops as usize].range();
            let mut changed = [0; 3];
            for (op, record) in ops.iter().zip(blob[records].chunks_exact_mut(OP_RECORD_BYTES)) {
                let Op::Conv(op) = op else { continue };
                if op.per_call.is_none() {
                    continue;
                }
                changed[op.algorithm as usize] += 1;
                let channels = |index: u16| u32::from(tensors[usize::from(index)].channels);
                let (cin, out) =
                    (channels(op.src_a) + op.src_b.map_or(0, channels), tensors[usize::from(op.common.out)]);
                let width = tensors[usize::from(op.src_a)].width.into();
                let mut direct = op.directly();
                direct.common.scratch.bytes =
                    direct.scratch_layout(cin, out.channels.into(), width, out.statistics).bytes;
                Op::Conv(direct).write(record);
            }
            assert!(changed[1] > 2 && changed[2] == 1, "{changed:?}");
            seal(&mut blob);
            assert!(output(&blob, 400.5) == whole, "{name}");
        }
    }
}
