//! Every damaged blob is refused with a reason, and what is accepted runs without a panic.

use picodream::blob::{
    Algorithm, AttentionOp, ConvOp, DType, HEADER_BYTES, Header, NONE, NarrowOp, Norm, OP_RECORD_BYTES, Op, OpCommon,
    PerCall, PredictionType, Region, TENSOR_RECORD_BYTES, TensorRecord, TextRef, TimeEmbedOp, VERSION, WeightFormat,
    place_sections, seal,
};
use picodream::rng::NoiseStream;
use picodream::sampler::Variance;
use picodream::{Config, Ddim, Ddpm, Model, ParseError, Pipeline, Progress, SetupError};

const T: u16 = 10;
const CLASSES: u16 = 2;
const TEXT: &[u8] = b"tiny";

/// The smallest network that has every kind of operator: 4×4 grey, 2 channels, two classes.
fn tiny_blob() -> Vec<u8> {
    blob_with(|_| ())
}

/// The same with other tensors: 0 is the sample, 4 the output, 5 the guidance buffer.
fn blob_with(change: impl Fn(&mut [TensorRecord])) -> Vec<u8> {
    let shape = |height, width, channels, dtype, statistics| TensorRecord {
        height,
        width,
        channels,
        dtype,
        statistics,
        offset: 0,
    };
    let image = shape(4, 4, 1, DType::F32, false);
    let mut tensors = [
        image,
        shape(1, 1, 4, DType::F32, false),
        shape(4, 4, 2, DType::F16, true),
        shape(4, 4, 4, DType::F16, false),
        image,
        image,
        shape(4, 4, 2, DType::I8, true),
    ];
    change(&mut tensors);
    let mut arena = 0;
    for tensor in &mut tensors {
        tensor.offset = arena;
        arena += tensor.region().bytes;
    }
    let norm = Norm { groups: 1, eps: 1e-5 };
    let name = TextRef { offset: 0, bytes: 4 };
    let common = |out| OpCommon { name, out, ..OpCommon::default() };
    let conv = |src_a, out| ConvOp {
        common: common(out),
        src_a,
        src_b: None,
        residual: None,
        time: None,
        kernel: 3,
        stride: 1,
        upsample: false,
        norm: None,
        silu: false,
        algorithm: Algorithm::Direct,
        weights: WeightFormat::Int8,
        expanded: None,
        per_call: None,
        qmax: 127,
        inv_scale_a: 30.0,
        inv_scale_b: 0.0,
    };
    let mut ops = [
        Op::TimeEmbed(TimeEmbedOp { common: common(1), freq_dim: 4 }),
        Op::Conv(ConvOp { time: Some(1), ..conv(0, 2) }),
        Op::Conv(ConvOp { kernel: 1, norm: Some(norm), weights: WeightFormat::Int4, ..conv(2, 3) }),
        Op::Attention(AttentionOp {
            common: common(2),
            src: 2,
            kv: 3,
            norm,
            heads: 2,
            qmax: 127,
            inv_scale_in: 40.0,
            inv_scale_proj: 40.0,
        }),
        Op::Narrow(NarrowOp { common: common(6), src: 2 }),
        Op::Conv(ConvOp {
            src_b: Some(6),
            inv_scale_b: 20.0,
            norm: Some(norm),
            silu: true,
            algorithm: Algorithm::Winograd,
            per_call: Some(PerCall { row_pairs: 2, out_pairs: 1 }),
            ..conv(2, 4)
        }),
    ];
    let (mut data_bytes, mut scratch_bytes) = (0, 0);
    for op in &mut ops {
        let (data, scratch) = match op {
            Op::TimeEmbed(op) => (op.data_layout(4, CLASSES.into()).bytes, op.scratch_layout(4).bytes),
            Op::Conv(op) => {
                let channels = |index: u16| tensors[usize::from(index)].channels;
                let (cin, cout) = (channels(op.src_a) + op.src_b.map_or(0, channels), channels(op.common.out));
                let time = if op.time.is_some() { 4 } else { 0 };
                let data = op.data_layout(cin.into(), cout.into(), time).bytes;
                (
                    data,
                    op.scratch_layout(cin.into(), cout.into(), 4, tensors[usize::from(op.common.out)].statistics).bytes,
                )
            }
            Op::Attention(op) => (op.data_layout(2).bytes, op.scratch_layout(2, 16, true).bytes),
            Op::Narrow(_) => (0, 0),
        };
        let common = op.common_mut();
        common.data = Region { offset: data_bytes, bytes: data };
        common.scratch = Region { offset: arena, bytes: scratch };
        data_bytes += data;
        scratch_bytes = scratch_bytes.max(scratch);
    }
    let (sections, total) = place_sections([
        TEXT.len() as u32,
        u32::from(T) * 4,
        (tensors.len() * TENSOR_RECORD_BYTES) as u32,
        (ops.len() * OP_RECORD_BYTES) as u32,
        data_bytes,
    ])
    .unwrap();
    let mut blob = vec![0; total as usize];
    let header = Header {
        total_bytes: total,
        crc32: 0,
        arena_bytes: arena + scratch_bytes,
        width: 4,
        height: 4,
        channels: 1,
        prediction_type: PredictionType::VPrediction,
        num_classes: CLASSES,
        num_train_timesteps: T,
        sample: 0,
        model_output: 4,
        guidance: 5,
        tensor_count: tensors.len() as u16,
        op_count: ops.len() as u16,
        pixel_scale: 100.0,
        pixel_offset: 128.0,
        name,
        licence: name,
        data_licence: name,
        class_names: name,
        few_steps: 4,
        few_step_sigma: 2.5,
        sections,
    };
    header.write(&mut blob);
    blob[sections[0].range()].copy_from_slice(TEXT);
    for (t, slot) in blob[sections[1].range()].chunks_exact_mut(4).enumerate() {
        slot.copy_from_slice(&(1.0 - (t as f32 + 1.0) / f32::from(T + 1)).to_le_bytes());
    }
    for (tensor, slot) in tensors.iter().zip(blob[sections[2].range()].chunks_exact_mut(TENSOR_RECORD_BYTES)) {
        tensor.write(slot);
    }
    for (op, slot) in ops.iter().zip(blob[sections[3].range()].chunks_exact_mut(OP_RECORD_BYTES)) {
        op.write(slot);
    }
    // Every constant is some small float; as int8 weights the same bytes are arbitrary.
    let mut noise = NoiseStream::new(5, 0);
    for slot in blob[sections[4].range()].chunks_exact_mut(4) {
        slot.copy_from_slice(&(0.001 * noise.next_gaussian()).to_le_bytes());
    }
    seal(&mut blob);
    blob
}

fn aligned(bytes: usize) -> Vec<u128> {
    vec![0; bytes.div_ceil(16)]
}

fn bytes_of(words: &mut [u128]) -> &mut [u8] {
    bytemuck::cast_slice_mut(words)
}

/// Draws two guided steps of a blob that was accepted.
fn draw(blob: &[u8], seed: u64) -> Result<u32, SetupError> {
    let model = Model::parse(blob).map_err(SetupError::Blob)?;
    let mut arena = aligned(model.arena_bytes());
    let config = Config { steps: 2, class: Some(0), guidance: 2.0, ..Config::new(seed) };
    let mut dream = Pipeline::new(&model, bytes_of(&mut arena), config)?;
    while dream.step() == Progress::Running {}
    Ok(dream.image().crc32())
}

#[test]
fn the_tiny_blob_is_accepted_and_draws() {
    let blob = tiny_blob();
    assert_eq!(draw(&blob, 1), draw(&blob, 1));
    assert_ne!(draw(&blob, 1).unwrap(), draw(&blob, 2).unwrap());
}

/// An output of twice the image's channels gives variances too; nothing else may have another shape than the image.
#[test]
fn variances_stand_behind_the_prediction_and_nowhere_else() {
    let with = |tensor: usize, channels: u16| blob_with(move |tensors| tensors[tensor].channels = channels);
    let blob = with(4, 2);
    assert_ne!(draw(&blob, 1).unwrap(), draw(&blob, 2).unwrap());
    for (tensor, channels) in [(4, 3), (4, 4), (0, 2), (5, 2)] {
        let error = Model::parse(&with(tensor, channels)).unwrap_err();
        let rule = if let ParseError::Tensor { index, rule } = error { (index, rule) } else { (u16::MAX, "") };
        assert!(
            usize::from(rule.0) == tensor && rule.1.contains("twice its channels"),
            "{tensor}, {channels}: {error}"
        );
    }
    let ddpm = |variance| Config { steps: 3, ..Config::with_sampler(7, Ddpm { variance }) };
    let image = |blob: &[u8], variance| {
        let model = Model::parse(blob).unwrap();
        let mut arena = aligned(model.arena_bytes());
        let mut dream = Pipeline::new(&model, bytes_of(&mut arena), ddpm(variance))?;
        while dream.step() == Progress::Running {}
        Ok::<_, SetupError>(dream.sample().to_vec())
    };
    // What the network says decides the noise: somewhere between the two fixed variances, elsewhere in every pixel.
    let [learned, small, large] =
        [Variance::LearnedRange, Variance::FixedSmall, Variance::FixedLarge].map(|v| image(&blob, v).unwrap());
    assert!(learned != small && learned != large);
    // A model without them is refused where they are asked for.
    let error = image(&tiny_blob(), Variance::LearnedRange).unwrap_err().to_string();
    assert_eq!(
        error,
        "output channels is 1, but must be twice the image's for the learned-range variance, which this model does not give"
    );
}

/// The last operator, whose weights are transformed at every call, otherwise: what the loader says to it.
fn refused(change: impl Fn(&mut ConvOp)) -> String {
    let mut blob = tiny_blob();
    let header = Header::read(&blob).unwrap();
    let ops = header.sections[3].range();
    let Some(Op::Conv(mut op)) = Model::parse(&blob).unwrap().ops(&header).last() else { panic!("a convolution") };
    change(&mut op);
    Op::Conv(op).write(&mut blob[ops.end - OP_RECORD_BYTES..]);
    seal(&mut blob);
    Model::parse(&blob).unwrap_err().to_string()
}

#[test]
fn parts_of_weights_suit_their_operator() {
    let parts = |row_pairs, out_pairs| refused(|op| op.per_call = Some(PerCall { row_pairs, out_pairs }));
    for (row_pairs, out_pairs) in [(3, 1), (0, 1), (2, 0), (2, 2), (255, 255)] {
        assert!(parts(row_pairs, out_pairs).contains("do not suit the output"), "{row_pairs} {out_pairs}");
    }
    assert!(parts(1, 1).contains("scratch does not follow"), "tiles of one pair of rows take less");
    let other = |change: fn(&mut ConvOp)| refused(change);
    assert!(other(|op| op.algorithm = Algorithm::Direct).contains("cannot be transformed"));
    assert!(other(|op| op.algorithm = Algorithm::Phases).contains("does not suit the kernel"));
    assert!(other(|op| op.algorithm = Algorithm::Strided).contains("does not suit the kernel"));
    assert!(other(|op| op.expanded = Some(3)).contains("does not follow from the channels"));
    assert!(other(|op| op.per_call = None).contains("length of its constants"), "Winograd weights take more");
    // 36 weights of at most 128 times 4096 pass 2²³.
    assert!(other(|op| op.qmax = 4095).contains("could pass 24 bits"));
}

#[test]
fn a_weight_beyond_127_is_refused_where_cores_may_compute_in_two_ways() {
    let mut blob = tiny_blob();
    let header = Header::read(&blob).unwrap();
    let op = Model::parse(&blob).unwrap().ops(&header).last().unwrap();
    let at = header.sections[4].range().start + op.common().data.offset as usize;
    blob[at..at + 2].copy_from_slice(&0x7fff_i16.to_le_bytes());
    seal(&mut blob);
    let error = Model::parse(&blob).unwrap_err().to_string();
    assert!(error.contains("a weight is beyond 127"), "{error}");
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let blob = tiny_blob();
    for len in 0..blob.len() {
        let error = Model::parse(&blob[..len]).unwrap_err();
        assert!(matches!(error, ParseError::Truncated { .. }), "{len}: {error}");
    }
    let longer = [&blob[..], &[0]].concat();
    assert!(matches!(Model::parse(&longer), Err(ParseError::TrailingBytes { .. })));
}

#[test]
fn every_flipped_bit_is_refused() {
    let blob = tiny_blob();
    for at in 0..blob.len() {
        for bit in 0..8 {
            let mut damaged = blob.clone();
            damaged[at] ^= 1 << bit;
            assert!(Model::parse(&damaged).is_err(), "byte {at} bit {bit}");
        }
    }
}

/// Behind a right checksum any bytes may stand: parsing gives a reason or a blob that runs.
#[test]
fn forged_blobs_never_panic() {
    let blob = tiny_blob();
    let mut noise = NoiseStream::new(9, 0);
    let mut accepted = 0;
    let values = [0u8, 1, 2, 3, 4, 5, 127, 128, 254, 255];
    for at in 0..blob.len() {
        for &value in &values {
            let mut forged = blob.clone();
            forged[at] = value;
            // Sometimes a second byte nearby, so that two fields disagree or agree on nonsense.
            if noise.below(2) == 0 {
                let near = (at + noise.below(16) as usize).min(blob.len() - 1);
                forged[near] = values[noise.below(values.len() as u32) as usize];
            }
            seal(&mut forged);
            accepted += u32::from(draw(&forged, 3).is_ok());
        }
    }
    // Changed weights must still be accepted, or the test has tested nothing behind the parser.
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn forged_headers_name_the_rule() {
    let blob = tiny_blob();
    let forge = |at: usize, bytes: &[u8]| {
        let mut forged = blob.clone();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut forged);
        Model::parse(&forged).unwrap_err()
    };
    assert_eq!(forge(0, b"GGUF"), ParseError::NotABlob);
    assert_eq!(Model::parse(b"hello").unwrap_err(), ParseError::NotABlob);
    assert_eq!(forge(4, &9u16.to_le_bytes()), ParseError::Version { found: 9, supported: VERSION });
    assert!(matches!(forge(16, &0u32.to_le_bytes()), ParseError::Header { field: "arena_bytes", .. }));
    assert!(matches!(forge(24, &[2]), ParseError::Header { field: "channels", .. }));
    assert!(matches!(forge(64, &[17]), ParseError::Header { field: "few_steps", value: 17 }));
    for bad in [0.0f32, -1.0, f32::NAN, f32::INFINITY, 1e4] {
        assert!(matches!(forge(68, &bad.to_le_bytes()), ParseError::Header { field: "few_step_sigma (bits)", .. }));
    }
    assert!(matches!(forge(64, &[0]), ParseError::Header { field: "few_step_sigma (bits)", .. }), "a level of no step");
    assert!(matches!(forge(40, &f32::NAN.to_le_bytes()), ParseError::Header { field: "pixel_scale (bits)", .. }));
    assert!(matches!(forge(34, &NONE.to_le_bytes()), ParseError::Header { field: "guidance", .. }));
    // Half the arena: some tensor no longer fits.
    let model = Model::parse(&blob).unwrap();
    let half = (model.arena_bytes() as u32 / 2) & !15;
    assert!(matches!(forge(16, &half.to_le_bytes()), ParseError::Tensor { .. } | ParseError::Op { .. }));
    // The second tensor moved onto the first: both live.
    let header = model.header().unwrap();
    let second = header.sections[2].offset as usize + TENSOR_RECORD_BYTES + 8;
    assert!(matches!(forge(second, &0u32.to_le_bytes()), ParseError::Overlap { first: 0, second: 1, .. }));
    let alphas = header.sections[1].offset as usize;
    assert_eq!(forge(alphas + 8, &2f32.to_le_bytes()), ParseError::Schedule { timestep: 2 });
    assert_eq!(forge(alphas + 8, &f32::NAN.to_le_bytes()), ParseError::Schedule { timestep: 2 });
    // Eight bits where a convolution writes, and no eight bits where a narrowing does.
    let (tensors, ops) = (header.sections[2].offset as usize, header.sections[3].offset as usize);
    let op_rule = |error| if let ParseError::Op { rule, .. } = error { rule } else { "" };
    let dtype = |tensor: usize| tensors + tensor * TENSOR_RECORD_BYTES + 6;
    assert_eq!(op_rule(forge(dtype(3), &[2])), "only a narrowing writes 8 bits");
    assert!(op_rule(forge(dtype(6), &[0])).contains("8 bits of the same shape"));
    // Scales that the integer kernels cannot multiply by, levels that they cannot clamp to, an algorithm for another kernel.
    let last = ops + 5 * OP_RECORD_BYTES;
    assert!(op_rule(forge(last + 28, &30.03f32.to_le_bytes())).contains("multiple of 1/16"));
    assert!(op_rule(forge(last + 28, &512f32.to_le_bytes())).contains("below 512"));
    assert!(op_rule(forge(last + 20, &128u16.to_le_bytes())).contains("power of two"));
    assert!(op_rule(forge(last + 7, &[2])).contains("does not suit"));
    assert!(op_rule(forge(last + 7, &[4])).contains("the algorithm is unknown"));
    // Weights of 4 bits in a convolution that is not direct, and where the data is of 8.
    let flags = blob[last + 1] | 8;
    let mut winograd = blob[last + 1..last + 8].to_vec();
    (winograd[0], winograd[6]) = (flags, 1);
    assert!(op_rule(forge(last + 1, &winograd)).contains("direct algorithm only"));
    assert_ne!(op_rule(forge(last + 1, &[flags])), "");
    assert!(op_rule(forge(last + 1, &[16])).contains("reserved"));
    assert!(HEADER_BYTES == header.sections[0].offset as usize);
}

#[test]
fn setup_refuses_with_the_numbers() {
    let blob = tiny_blob();
    let model = Model::parse(&blob).unwrap();
    let needed = model.arena_bytes();
    let mut arena = aligned(needed + 16);
    let arena = bytes_of(&mut arena);
    let base = Config::new(1);
    let base = Config { steps: 4, ..base };
    let mut refuse =
        |range: std::ops::Range<usize>, config: Config| Pipeline::new(&model, &mut arena[range], config).unwrap_err();
    assert_eq!(refuse(0..needed - 1, base), SetupError::ArenaTooSmall { needed, got: needed - 1 });
    assert_eq!(refuse(0..0, base), SetupError::ArenaTooSmall { needed, got: 0 });
    assert_eq!(refuse(4..needed + 4, base), SetupError::ArenaMisaligned { remainder: 4 });
    assert_eq!(refuse(0..needed, Config { steps: 0, ..base }), SetupError::Steps { got: 0, max: T });
    assert_eq!(refuse(0..needed, Config { steps: 11, ..base }), SetupError::Steps { got: 11, max: T });
    let class = SetupError::Class { got: 2, num_classes: CLASSES };
    assert_eq!(refuse(0..needed, Config { class: Some(2), ..base }), class);
    assert_eq!(refuse(0..needed, Config { guidance: 3.0, ..base }), SetupError::Guidance { got: 3.0 });
    let nan = Config { class: Some(1), guidance: f32::NAN, ..base };
    assert!(matches!(refuse(0..needed, nan), SetupError::Guidance { .. }));
    for eta in [-0.1, 1.1, f32::NAN] {
        assert!(matches!(refuse(0..needed, Config { sampler: Ddim { eta }, ..base }), SetupError::Sampler(_)));
    }
    assert!(Pipeline::new(&model, &mut arena[..needed], base).is_ok());
}

/// Step by step, operator by operator, after a restart, in a dirty arena: one image.
#[test]
fn the_image_depends_on_the_seed_alone() {
    let blob = tiny_blob();
    let model = Model::parse(&blob).unwrap();
    let config = Config { steps: 5, class: Some(1), guidance: 1.5, sampler: Ddim { eta: 0.7 }, ..Config::new(42) };
    let mut clean = aligned(model.arena_bytes());
    let mut dream = Pipeline::new(&model, bytes_of(&mut clean), config).unwrap();
    while dream.step() == Progress::Running {}
    let want = dream.image().crc32();
    dream.restart(43);
    while dream.step() == Progress::Running {}
    assert_ne!(dream.image().crc32(), want);
    dream.restart(42);
    while dream.step_op() == Progress::Running {}
    assert_eq!(dream.image().crc32(), want);
    let mut dirty = vec![u128::MAX; model.arena_bytes().div_ceil(16)];
    let mut dream = Pipeline::new(&model, bytes_of(&mut dirty), config).unwrap();
    while dream.step() == Progress::Running {}
    assert_eq!(dream.image().crc32(), want);
    assert_eq!(dream.step(), Progress::Done);
}
