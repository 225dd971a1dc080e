//! The one validation pass: after it every index, range, shape, scale and plan of the blob has been proven.
//!
//! Sizes are computed in u32/u64 with checks, never in `usize`; counts are capped; the constants of the operators tile the
//! data section exactly; no two tensors that are alive together share a byte of the arena.

use super::header::{self, Region};
use super::ops::{Algorithm, AttentionOp, ConvOp, NarrowOp, Norm, Op, TimeEmbedOp, WeightFormat};
use super::tensors::{DType, TensorRecord};
use super::{Header, Model, ParseError};
use crate::kernels::STRIDED;

/// Widest f32 scale accepted, and the inverse of the narrowest.
const SCALE_LIMIT: f32 = 1e12;

/// Checks everything that the header check left open.
pub(super) fn verify(model: &Model<'_>) -> Result<Header, ParseError> {
    let blob = model.bytes();
    let computed = header::checksum(blob);
    let header = Header::read(blob)?;
    if header.crc32 != computed {
        return Err(ParseError::Checksum { stored: header.crc32, computed });
    }
    check_texts(model, &header)?;
    check_schedule(model, &header)?;
    check_tensors(model, &header)?;
    let mut data_end = 0;
    for index in 0..header.op_count {
        let op = model.read_op(&header, index)?;
        let checker = OpChecker { model, header: &header, index };
        checker.check(&op, &mut data_end)?;
    }
    let data = header.sections[header::SectionKind::Data as usize];
    if data_end != data.bytes {
        return Err(ParseError::Section { index: header::SectionKind::Data as u8 });
    }
    check_plan(model, &header)?;
    Ok(header)
}

fn check_texts(model: &Model<'_>, header: &Header) -> Result<(), ParseError> {
    for (field, text) in [
        ("name", header.name),
        ("licence", header.licence),
        ("data_licence", header.data_licence),
        ("class_names", header.class_names),
    ] {
        if model.text_of(header, text).is_none() {
            return Err(ParseError::Header { field, value: text.offset.into() });
        }
    }
    Ok(())
}

/// ᾱ lies in 0..=1, never rises, and the first one is above zero; what stands behind it is [`OpChecker::time_embed`]'s.
fn check_schedule(model: &Model<'_>, header: &Header) -> Result<(), ParseError> {
    let section = header.sections[header::SectionKind::Schedule as usize];
    // Behind the table may stand baked timesteps.
    if section.bytes < u32::from(header.num_train_timesteps) * 4 || !section.bytes.is_multiple_of(4) {
        return Err(ParseError::Section { index: header::SectionKind::Schedule as u8 });
    }
    let mut before = 1.0;
    for timestep in 0..header.num_train_timesteps {
        let value = model.f32_of(section, timestep.into());
        if !(value >= 0.0 && value <= before) || (timestep == 0 && value == 0.0) {
            return Err(ParseError::Schedule { timestep });
        }
        before = value;
    }
    Ok(())
}

fn check_tensors(model: &Model<'_>, header: &Header) -> Result<(), ParseError> {
    let section = header.sections[header::SectionKind::Tensors as usize];
    if section.bytes != u32::from(header.tensor_count) * super::TENSOR_RECORD_BYTES as u32 {
        return Err(ParseError::Section { index: header::SectionKind::Tensors as u8 });
    }
    for index in 0..header.tensor_count {
        let tensor = model.read_tensor(header, index)?;
        let refuse = |rule| Err(ParseError::Tensor { index, rule });
        // Dimensions are capped, so these sizes fit u32.
        if tensor.region().end().is_none_or(|end| end > header.arena_bytes) {
            return refuse("it does not lie inside the arena");
        }
        let is_output = index == header.model_output;
        let endpoint = is_output || index == header.sample || index == header.guidance;
        let channels = u16::from(header.channels);
        let image = (header.height, header.width, DType::F32, false);
        // Variances stand behind the prediction, pixel by pixel.
        let fits = tensor.channels == channels || (is_output && tensor.channels == 2 * channels);
        if endpoint && (!fits || (tensor.height, tensor.width, tensor.dtype, tensor.statistics) != image) {
            return refuse(
                "sample, output and guidance must be f32 of the image's shape (output: or twice its channels), no statistics",
            );
        }
    }
    if header.sample == header.model_output
        || header.sample == header.guidance
        || header.model_output == header.guidance
    {
        return Err(ParseError::Header { field: "model_output", value: header.model_output.into() });
    }
    let section = header.sections[header::SectionKind::Ops as usize];
    if section.bytes != u32::from(header.op_count) * super::OP_RECORD_BYTES as u32 {
        return Err(ParseError::Section { index: header::SectionKind::Ops as u8 });
    }
    Ok(())
}

struct OpChecker<'m> {
    model: &'m Model<'m>,
    header: &'m Header,
    index: u16,
}

impl OpChecker<'_> {
    fn refuse<T>(&self, rule: &'static str) -> Result<T, ParseError> {
        Err(ParseError::Op { index: self.index, rule })
    }

    fn require(&self, condition: bool, rule: &'static str) -> Result<(), ParseError> {
        if condition { Ok(()) } else { self.refuse(rule) }
    }

    fn tensor(&self, index: u16) -> Result<TensorRecord, ParseError> {
        self.require(index < self.header.tensor_count, "it names a tensor that does not exist")?;
        self.model.read_tensor(self.header, index)
    }

    /// All constants read as f32 must be finite and of a size that arithmetic survives.
    fn finite(&self, piece: Region, array: Region) -> Result<(), ParseError> {
        let region = self.model.data_region(self.header, piece, array);
        for i in 0..array.bytes / 4 {
            let value = self.model.f32_of(region, i);
            self.require((-SCALE_LIMIT..=SCALE_LIMIT).contains(&value), "a constant is not finite")?;
        }
        Ok(())
    }

    fn positive_scale(&self, value: f32) -> Result<(), ParseError> {
        self.require(value > 1.0 / SCALE_LIMIT && value < SCALE_LIMIT, "an activation scale is not positive and finite")
    }

    fn norm(&self, norm: Norm, channels: u32) -> Result<(), ParseError> {
        self.require(
            norm.groups > 0 && channels.is_multiple_of(u32::from(norm.groups)),
            "the norm's groups do not divide the channels",
        )?;
        self.require(norm.eps > 0.0 && norm.eps < 1.0, "the norm's epsilon is not in 0..1")
    }

    /// |Σ| ≤ taps · 128 · (qmax + 1) must stay far below 2³¹: then every order of summing gives the same i32.
    fn sum_fits(&self, taps: u32, qmax: u16) -> Result<(), ParseError> {
        let levels = u32::from(qmax) + 1;
        self.require(
            levels.is_power_of_two() && (2..=4096).contains(&levels),
            "qmax + 1 is no power of two in 2..=4096",
        )?;
        // Winograd's sums are four times the convolution's.
        let bound = 4 * u64::from(taps) * 128 * u64::from(levels);
        self.require(bound < 1 << 31, "the integer sum could pass 32 bits")
    }

    /// Scales behind a SiLU are small multiples of 1/16, so that the kernels may multiply integers.
    fn silu_scale(&self, op: &ConvOp, scale: f32) -> Result<(), ParseError> {
        let multiplier = scale * 16.0;
        let whole = multiplier == (multiplier as i32) as f32;
        let fits = !op.silu || (whole && (1.0..8192.0).contains(&multiplier));
        self.require(fits, "an activation scale behind a SiLU is no multiple of 1/16 below 512")
    }

    fn source(&self, tensor: &TensorRecord, normed: bool) -> Result<(), ParseError> {
        self.require(!normed || tensor.statistics, "a normed source carries no statistics")
    }

    fn check(&self, op: &Op, data_end: &mut u32) -> Result<(), ParseError> {
        let common = op.common();
        self.require(self.model.text_of(self.header, common.name).is_some(), "its name is not in the text section")?;
        self.require(common.data.offset == *data_end, "its constants do not follow those of the operator before")?;
        let section = self.header.sections[header::SectionKind::Data as usize];
        let end = common.data.end().filter(|&end| end <= section.bytes);
        let Some(end) = end else { return self.refuse("its constants do not lie inside the data section") };
        *data_end = end;
        let scratch_end = common.scratch.end().filter(|&end| end <= self.header.arena_bytes);
        self.require(scratch_end.is_some(), "its scratch does not lie inside the arena")?;
        self.require(common.scratch.offset.is_multiple_of(16), "its scratch is not at a multiple of 16")?;
        match op {
            Op::TimeEmbed(op) => self.time_embed(op),
            Op::Conv(op) => self.conv(op),
            Op::Attention(op) => self.attention(op),
            Op::Narrow(op) => self.narrow(op),
        }
    }

    fn sizes(&self, op: &super::OpCommon, data_bytes: u32, scratch_bytes: u32) -> Result<(), ParseError> {
        self.require(op.data.bytes == data_bytes, "the length of its constants does not follow from the shapes")?;
        self.require(op.scratch.bytes == scratch_bytes, "the length of its scratch does not follow from the shapes")
    }

    fn time_embed(&self, op: &TimeEmbedOp) -> Result<(), ParseError> {
        let out = self.tensor(op.common.out)?;
        self.require(
            (out.height, out.width, out.dtype, out.statistics) == (1, 1, DType::F32, false),
            "the time embedding must be 1×1×E f32 without statistics",
        )?;
        self.require(
            op.freq_dim.is_multiple_of(2) && op.freq_dim <= 1024,
            "the sinusoidal embedding's length is not even and 0..=1024",
        )?;
        let channels = u32::from(out.channels);
        let baked = self.model.baked_timesteps(self.header).len() as u32 / 4;
        let rows = baked * (u32::from(self.header.num_classes) + 1);
        self.require(
            if op.freq_dim == 0 { rows > 0 && channels == 2 * rows } else { rows == 0 },
            "it does not fit the baked timesteps",
        )?;
        let data = op.data_layout(channels, self.header.num_classes.into());
        self.sizes(&op.common, data.bytes, op.scratch_layout(channels).bytes)?;
        for array in [data.freqs, data.scale_1, data.bias_1, data.scale_2, data.bias_2] {
            self.finite(op.common.data, array)?;
        }
        Ok(())
    }

    fn conv(&self, op: &ConvOp) -> Result<(), ParseError> {
        let (a, out) = (self.tensor(op.src_a)?, self.tensor(op.common.out)?);
        self.require(out.dtype != DType::I8, "only a narrowing writes 8 bits")?;
        let weights = |tensor: &TensorRecord| tensor.dtype == DType::I16;
        self.require(!weights(&a) && !weights(&out), "it reads or writes expanded weights as an image")?;
        let b = op.src_b.map(|b| self.tensor(b)).transpose()?;
        self.require(matches!(op.kernel, 1 | 3), "the kernel is neither 1 nor 3")?;
        self.require(matches!(op.stride, 1 | 2), "the stride is neither 1 nor 2")?;
        self.require((op.kernel, op.stride) != (1, 2), "a 1×1 kernel has stride 1")?;
        self.require(!op.upsample || (op.stride, op.kernel) == (1, 3), "upsampling needs a 3×3 kernel of stride 1")?;
        self.require(
            match op.algorithm {
                Algorithm::Direct => true,
                Algorithm::Winograd => (op.kernel, op.stride, op.upsample) == (3, 1, false),
                Algorithm::Phases => op.upsample,
                Algorithm::Strided => STRIDED && (op.kernel, op.stride) == (3, 2),
            },
            "the algorithm does not suit the kernel",
        )?;
        let packed_for_it = op.weights == WeightFormat::Int8 || op.algorithm == Algorithm::Direct;
        self.require(packed_for_it, "weights of 4 bits go with the direct algorithm only")?;
        self.require(op.src_b != Some(op.src_a), "both sources are one tensor")?;
        let cin = u32::from(a.channels) + b.map_or(0, |b| u32::from(b.channels));
        let cout = u32::from(out.channels);
        if let Some(b) = b {
            self.require(!weights(&b), "it reads or writes expanded weights as an image")?;
            self.require((a.height, a.width) == (b.height, b.width), "the two sources differ in height or width")?;
            self.source(&b, op.norm.is_some())?;
            self.positive_scale(op.inv_scale_b)?;
            self.silu_scale(op, op.inv_scale_b)?;
        }
        self.require(b.is_some() || op.inv_scale_b == 0.0, "there is a scale without a second source")?;
        self.source(&a, op.norm.is_some())?;
        self.positive_scale(op.inv_scale_a)?;
        self.silu_scale(op, op.inv_scale_a)?;
        self.require(!op.silu || op.norm.is_some(), "there is a SiLU without a norm")?;
        if let Some(norm) = op.norm {
            self.norm(norm, cin)?;
        }
        let scaled = |n: u16| (u32::from(n) << u32::from(op.upsample)).div_ceil(u32::from(op.stride));
        self.require(
            (scaled(a.height), scaled(a.width)) == (out.height.into(), out.width.into()),
            "the output's height or width does not follow from the source",
        )?;
        self.sum_fits(u32::from(op.kernel).pow(2) * cin, op.qmax)?;
        self.conv_places(op, &out)?;
        if let Some(expanded) = op.expanded {
            let expanded = self.tensor(expanded)?;
            let wanted = TensorRecord { offset: expanded.offset, ..ConvOp::expanded_record(cin, cout) };
            let fits = op.algorithm == Algorithm::Winograd && expanded == wanted;
            self.require(fits, "the shape of its expanded weights does not follow from the channels")?;
        }
        if let Some(parts) = op.per_call {
            let transformed = op.algorithm != Algorithm::Direct && !(STRIDED && op.algorithm == Algorithm::Strided);
            let suits = transformed && op.weights == WeightFormat::Int8 && op.expanded.is_none();
            self.require(suits, "its weights cannot be transformed at every call")?;
            // The ring has four rows, two of which the rows of phases share.
            let row_limit = if op.algorithm == Algorithm::Phases { 2 } else { u32::from(out.height).div_ceil(2) };
            let fits = (1..=row_limit).contains(&parts.row_pairs.into())
                && (1..=cout.div_ceil(2)).contains(&parts.out_pairs.into());
            self.require(fits, "the parts of its weights do not suit the output")?;
        }
        let time_dim = op.time.map(|time| self.time_source(time)).transpose()?.unwrap_or(0);
        let data = op.data_layout(cin, cout, time_dim);
        self.sizes(&op.common, data.bytes, op.scratch_layout(cin, cout, a.width.into(), out.statistics).bytes)?;
        for array in [data.scale, data.bias, data.gamma, data.beta, data.time_scale] {
            self.finite(op.common.data, array)?;
        }
        if op.per_call.is_some() {
            self.sums_fit_24_bits(op, data.weight, cout)?;
        }
        Ok(())
    }

    /// Σ|weight| · (qmax + 1) of every output channel stays below 2²³, where direct sums wrap and others do not: then cores may
    /// differ in how they compute.
    fn sums_fit_24_bits(&self, op: &ConvOp, weight: Region, cout: u32) -> Result<(), ParseError> {
        let limit = (1 << 23) / (u32::from(op.qmax) + 1);
        let pair_bytes = (weight.bytes / cout.div_ceil(2)).max(1) as usize;
        for pair in self.model.array(self.header, &op.common, weight).chunks_exact(pair_bytes) {
            let (mut even_sum, mut odd_sum) = (0, 0);
            for half in pair.as_chunks::<2>().0 {
                let both = i32::from(i16::from_le_bytes(*half));
                let even = i32::from(both as i8);
                let odd = (both - even) >> 8;
                self.require(odd < 128, "a weight is beyond 127")?;
                even_sum += even.unsigned_abs();
                odd_sum += odd.unsigned_abs();
            }
            self.require(even_sum.max(odd_sum) < limit, "a sum of weights at every call could pass 24 bits")?;
        }
        Ok(())
    }

    /// Which operands may be one tensor: the output may replace the residual (read pixel by pixel before it is written), or
    /// a source of a 1×1 convolution of stride 1 (a whole row is read before it is written). Nothing else may coincide.
    fn conv_places(&self, op: &ConvOp, out: &TensorRecord) -> Result<(), ParseError> {
        let replaces_source = op.common.out == op.src_a || Some(op.common.out) == op.src_b;
        self.require(
            !replaces_source || (op.kernel, op.stride) == (1, 1),
            "the output replaces a source that is still read",
        )?;
        let is_source = |tensor: u16| tensor == op.src_a || Some(tensor) == op.src_b;
        if let Some(time) = op.time {
            let elsewhere = is_source(time) || time == op.common.out || Some(time) == op.residual;
            self.require(!elsewhere, "the time embedding is another operand too")?;
        }
        if let Some(residual) = op.residual {
            self.require(self.tensor(residual)?.same_shape(out), "the residual has another shape than the output")?;
            self.require(!is_source(residual), "the residual is also a source")?;
        }
        Ok(())
    }

    /// 8-bit tensors are written by a narrowing only, and read by convolutions only.
    fn narrow(&self, op: &NarrowOp) -> Result<(), ParseError> {
        let (src, out) = (self.tensor(op.src)?, self.tensor(op.common.out)?);
        let wanted = TensorRecord { dtype: DType::I8, offset: out.offset, ..src };
        self.require(
            src.dtype == DType::F16 && out == wanted,
            "it does not turn an f16 tensor into 8 bits of the same shape",
        )?;
        self.sizes(&op.common, 0, 0)
    }

    fn time_source(&self, time: u16) -> Result<u32, ParseError> {
        let time = self.tensor(time)?;
        let vector = (time.height, time.width, time.dtype) == (1, 1, DType::F32);
        self.require(vector, "the time embedding is not 1×1×E f32")?;
        Ok(time.channels.into())
    }

    fn attention(&self, op: &AttentionOp) -> Result<(), ParseError> {
        let (src, kv, out) = (self.tensor(op.src)?, self.tensor(op.kv)?, self.tensor(op.common.out)?);
        self.require(src.same_shape(&out), "the output has another shape than the source")?;
        self.require(op.kv != op.src && op.kv != op.common.out, "keys and values are the source or the output")?;
        self.require(
            (kv.height, kv.width, kv.channels) == (src.height, src.width, src.channels.saturating_mul(2)),
            "keys and values lack the source's pixels or twice its channels",
        )?;
        self.require(src.dtype == DType::F16 && kv.dtype == DType::F16, "source, keys and values must be f16")?;
        self.source(&src, true)?;
        let channels = u32::from(src.channels);
        self.norm(op.norm, channels)?;
        self.require(op.heads > 0 && channels.is_multiple_of(op.heads.into()), "the heads do not divide the channels")?;
        self.positive_scale(op.inv_scale_in)?;
        self.positive_scale(op.inv_scale_proj)?;
        self.sum_fits(channels, op.qmax)?;
        let data = op.data_layout(channels);
        let pixels = u32::from(src.height) * u32::from(src.width);
        self.sizes(&op.common, data.bytes, op.scratch_layout(channels, pixels, out.statistics).bytes)?;
        for array in [data.q_scale, data.q_bias, data.gamma, data.beta, data.proj_scale, data.proj_bias] {
            self.finite(op.common.data, array)?;
        }
        Ok(())
    }
}

/// First and last operator at which a tensor's bytes matter; `None` when it is never used.
fn live_range(model: &Model<'_>, header: &Header, tensor: u16) -> Result<Option<(u16, u16)>, ParseError> {
    let last = header.op_count - 1;
    if tensor == header.sample || tensor == header.guidance {
        return Ok(Some((0, last)));
    }
    let mut range = None;
    for index in 0..header.op_count {
        let op = model.read_op(header, index)?;
        if matches!(op, Op::Conv(op) if op.expanded == Some(tensor)) {
            return Ok(Some((0, last)));
        }
        let written = op.common().out == tensor;
        if op.reads().any(|read| read == tensor) && range.is_none() {
            return Err(ParseError::Op { index, rule: "it reads a tensor before anything wrote it" });
        }
        if written || op.reads().any(|read| read == tensor) {
            range = Some((range.map_or(index, |(first, _)| first), index));
        }
    }
    if tensor == header.model_output {
        let Some((first, _)) = range else {
            return Err(ParseError::Header { field: "model_output", value: tensor.into() });
        };
        range = Some((first, last));
    }
    Ok(range)
}

/// Every tensor is written before it is read, the sample never, and live tensors and scratch do not overlap.
fn check_plan(model: &Model<'_>, header: &Header) -> Result<(), ParseError> {
    for index in 0..header.op_count {
        let out = model.read_op(header, index)?.common().out;
        if out == header.sample || out == header.guidance {
            return Err(ParseError::Op { index, rule: "it writes the sample or the guidance buffer" });
        }
    }
    for first in 0..header.tensor_count {
        let Some(live) = live_range(model, header, first)? else { continue };
        let region = model.read_tensor(header, first)?.region();
        for op in live.0..=live.1 {
            let scratch = model.read_op(header, op)?.common().scratch;
            if region.overlaps(scratch) {
                return Err(ParseError::Overlap { op, first, second: u16::MAX });
            }
        }
        for second in first + 1..header.tensor_count {
            let Some(other) = live_range(model, header, second)? else { continue };
            let meet = live.0.max(other.0);
            let together = meet <= live.1.min(other.1);
            if together && region.overlaps(model.read_tensor(header, second)?.region()) {
                return Err(ParseError::Overlap { op: meet, first, second });
            }
        }
    }
    Ok(())
}
