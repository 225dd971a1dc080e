//! Graph and calibration to operator records and constants: everything of a blob but its place in the file.

use anyhow::{Result, ensure};
use half::f16;
use picodream::blob::{
    self, Algorithm, AttentionOp, ConvOp, NarrowOp, OpCommon, PlainWeights, Region, TensorRecord, TimeEmbedOp,
    WeightFormat, pack_nibbles,
};

use super::calibrate::{Calibration, OpStats};
use super::order::{self, Order};
use super::places::Places;
use super::plan::{Buffer, Plan, plan};
use super::quantise::{Precision, QuantProduct, Rules, SUM_LIMIT, quantise_linear, quantise_product};
use super::target::{self, Budget, Choice, Chooser, Core};
use crate::float::{Attention, Conv, Graph, Linear, Norm, Op, TimeEmbed};

/// A network ready to be packed.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Tensor table.
    pub tensors: Vec<TensorRecord>,
    /// Record of x_t.
    pub sample: u16,
    /// Record of the output.
    pub model_output: u16,
    /// Record of the unconditional output.
    pub guidance: Option<u16>,
    /// Names, in the order of `ops`.
    pub names: Vec<String>,
    /// Operator records; their names are not set yet.
    pub ops: Vec<blob::Op>,
    /// The data section.
    pub data: Vec<u8>,
    /// The timesteps whose biases are baked, noisiest first.
    pub timesteps: Vec<f32>,
    /// The arena.
    pub plan: Plan,
}

/// Which algorithms the convolutions get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernels {
    /// The smallest blob and arena; weights are transformed at every call where the RAM is free.
    #[default]
    Small,
    /// Direct everywhere.
    Direct,
    /// Winograd and phases wherever they suit: the fewest instructions.
    Fast,
    /// The fewest products, for cores that have strided convolutions as well.
    #[value(skip)]
    Fewest,
    /// The fewest instructions that a board has room for.
    #[value(skip)]
    Within(Budget),
}

/// Quantises, lowers and plans a graph.
pub fn lower(graph: &Graph, calibration: &Calibration, rules: &Rules, kernels: Kernels) -> Result<Lowered> {
    lower_with_progress(graph, calibration, rules, kernels, &mut || {})
}

/// Like [`lower`]; `op_done` is called after each op.
pub fn lower_with_progress(
    graph: &Graph,
    calibration: &Calibration,
    rules: &Rules,
    kernels: Kernels,
    op_done: &mut impl FnMut(),
) -> Result<Lowered> {
    ensure!(
        graph.ops.len() <= 256 && graph.tensors.len() < 256,
        "the network has {} operators and {} tensors; a blob holds at most 256 and 255",
        graph.ops.len(),
        graph.tensors.len()
    );
    let places = Places::new(graph);
    let formats: Vec<_> = graph.ops.iter().map(|op| format_of(graph, op, rules)).collect();
    let choices = choices(graph, &places, kernels, &formats);
    let mut places = places;
    let expanded = places.push_expanded(graph, &choices);
    let mut lowerer = Lowerer { graph, places: &places, rules, data: Vec::new() };
    let mut ops = Vec::with_capacity(graph.ops.len());
    for (index, (op, stats)) in graph.ops.iter().zip(&calibration.ops).enumerate() {
        let way = Way { choice: choices[index], weights: formats[index], expanded: expanded[index] };
        ops.push(match op {
            Op::TimeEmbed(op) => blob::Op::TimeEmbed(lowerer.time_embed(op)),
            Op::Conv(op) => blob::Op::Conv(lowerer.conv(op, stats, way)),
            Op::Attention(op) => blob::Op::Attention(lowerer.attention(op, stats)),
            Op::Narrow(op) => {
                blob::Op::Narrow(NarrowOp { common: lowerer.common(op.out, 0, Piece::new(0)), src: places.of[op.src] })
            }
        });
        op_done();
    }
    let data = lowerer.data;
    let mut tensors = places.records.clone();
    let plan = place(&places, &mut tensors, &mut ops);
    Ok(Lowered {
        tensors,
        sample: places.of[graph.sample],
        model_output: places.of[graph.output],
        guidance: places.guidance,
        names: graph.ops.iter().map(|op| op.name().to_owned()).collect(),
        ops,
        data,
        timesteps: graph.timesteps().to_vec(),
        plan,
    })
}

/// The order of the ops that needs the smallest arena, with kernels as small as `kernels` lets them be.
#[must_use]
pub fn best_order(graph: &Graph, rules: &Rules, kernels: Kernels) -> Order {
    order::best_order(graph, |graph, places, index| {
        let weights = format_of(graph, &graph.ops[index], rules);
        let choice = match kernels {
            Kernels::Fast => Choice::from(fastest_of(&graph.ops[index], weights)),
            Kernels::Fewest => Choice::from(fewest_products_of(&graph.ops[index], weights)),
            _ => Choice::default(),
        };
        shape_of(graph, places, index, Way { choice, weights, expanded: None }).1
    })
}

/// How the blob keeps the weights of an op.
fn format_of(graph: &Graph, op: &Op, rules: &Rules) -> WeightFormat {
    match op {
        Op::Conv(op) if op.src_a != graph.sample && op.out != graph.output => rules.weights,
        _ => WeightFormat::Int8,
    }
}

/// How a convolution's sums are computed, and from what.
#[derive(Clone, Copy)]
struct Way {
    choice: Choice,
    weights: WeightFormat,
    /// The tensor that its weights are expanded to.
    expanded: Option<u16>,
}

/// The algorithm of fewest products of an op whose weights are kept so.
fn fewest_products_of(op: &Op, weights: WeightFormat) -> Algorithm {
    match op {
        Op::Conv(op) if weights == WeightFormat::Int8 => target::fewest_products(op),
        _ => Algorithm::Direct,
    }
}

/// The same among those that every core has.
fn fastest_of(op: &Op, weights: WeightFormat) -> Algorithm {
    match fewest_products_of(op, weights) {
        Algorithm::Strided => Algorithm::Direct,
        algorithm => algorithm,
    }
}

/// How each op is computed.
fn choices(graph: &Graph, places: &Places, kernels: Kernels, formats: &[WeightFormat]) -> Vec<Choice> {
    let fewest = |index: usize| fewest_products_of(&graph.ops[index], formats[index]);
    let shape =
        |index: usize, choice| shape_of(graph, places, index, Way { choice, weights: formats[index], expanded: None });
    let chooser = Chooser { graph, places, fewest, scratch: |index, choice| shape(index, choice).1 };
    match kernels {
        Kernels::Direct => vec![Choice::default(); graph.ops.len()],
        Kernels::Fast => (0..graph.ops.len()).map(|op| Choice::from(fastest_of(&graph.ops[op], formats[op]))).collect(),
        Kernels::Fewest => (0..graph.ops.len()).map(|index| Choice::from(fewest(index))).collect(),
        Kernels::Small => chooser.least(Core::Dsp),
        Kernels::Within(budget) => {
            let data_bytes = (0..graph.ops.len()).map(|index| shape(index, Choice::default()).0).sum();
            chooser.choose(&budget, data_bytes)
        }
    }
}

/// Bytes of constants and of scratch of an op, computed in some way.
fn shape_of(graph: &Graph, places: &Places, index: usize, way: Way) -> (u32, u32) {
    let statistics = |id: usize| places.records[usize::from(places.of[id])].statistics;
    let channels = |id: usize| graph.tensors[id].channels as u32;
    match &graph.ops[index] {
        Op::TimeEmbed(op) => {
            let record = TimeEmbedOp { common: OpCommon::default(), freq_dim: op.freq_dim as u16 };
            let time_dim = channels(op.out);
            (record.data_layout(time_dim, graph.num_classes as u32).bytes, record.scratch_layout(time_dim).bytes)
        }
        Op::Conv(op) => {
            let record = conv_record(op, places, graph, way);
            let (cin, cout) = (channels(op.src_a) + op.src_b.map_or(0, channels), op.cout() as u32);
            let time_dim = op.time.as_ref().map_or(0, |time| time.inputs() as u32);
            let width = graph.tensors[op.src_a].width as u32;
            let scratch = record.scratch_layout(cin, cout, width, statistics(op.out)).bytes;
            (record.data_layout(cin, cout, time_dim).bytes, scratch)
        }
        Op::Attention(op) => {
            let x = &graph.tensors[op.x];
            let record = attention_record(op, places);
            let scratch = record.scratch_layout(x.channels as u32, (x.height * x.width) as u32, statistics(op.out));
            (record.data_layout(x.channels as u32).bytes, scratch.bytes)
        }
        Op::Narrow(_) => (0, 0),
    }
}

/// A convolution's record without scales and places.
fn conv_record(op: &Conv, places: &Places, graph: &Graph, way: Way) -> ConvOp {
    let of = &places.of;
    ConvOp {
        common: OpCommon::default(),
        src_a: of[op.src_a],
        src_b: op.src_b.map(|b| of[b]),
        residual: op.residual.map(|r| of[r]),
        time: op.time.is_some().then_some(of[graph.temb]),
        kernel: op.kernel as u8,
        stride: op.stride as u8,
        upsample: op.upsample,
        norm: op.norm.as_ref().map(norm_record),
        silu: op.silu,
        algorithm: way.choice.algorithm,
        weights: way.weights,
        expanded: way.expanded,
        per_call: way.choice.per_call,
        qmax: 0,
        inv_scale_a: 0.0,
        inv_scale_b: 0.0,
    }
}

/// An attention's record without scales and places.
fn attention_record(op: &Attention, places: &Places) -> AttentionOp {
    AttentionOp {
        common: OpCommon::default(),
        src: places.of[op.x],
        kv: places.of[op.kv],
        norm: norm_record(&op.norm),
        heads: op.heads as u16,
        qmax: 0,
        inv_scale_in: 0.0,
        inv_scale_proj: 0.0,
    }
}

/// Plans tensors and scratches together and writes the offsets.
fn place(places: &Places, tensors: &mut [TensorRecord], ops: &mut [blob::Op]) -> Plan {
    let mut buffers = places.buffers();
    for (index, op) in ops.iter().enumerate() {
        buffers.push(Buffer { bytes: op.common().scratch.bytes, first: index, last: index });
    }
    let plan = plan(&buffers);
    let (of_tensors, of_scratches) = plan.offsets.split_at(tensors.len());
    tensors.iter_mut().zip(of_tensors).for_each(|(tensor, &offset)| tensor.offset = offset);
    for (op, &offset) in ops.iter_mut().zip(of_scratches) {
        op.common_mut().scratch.offset = offset;
    }
    plan
}

struct Lowerer<'a> {
    graph: &'a Graph,
    places: &'a Places,
    rules: &'a Rules,
    data: Vec<u8>,
}

impl Lowerer<'_> {
    /// Appends a piece to the data section.
    fn common(&mut self, out: usize, scratch_bytes: u32, piece: Piece) -> OpCommon {
        let data = Region { offset: self.data.len() as u32, bytes: piece.0.len() as u32 };
        self.data.extend(piece.0);
        let scratch = Region { offset: 0, bytes: scratch_bytes };
        OpCommon { out: self.places.of[out], scratch, data, ..OpCommon::default() }
    }

    fn time_embed(&mut self, op: &TimeEmbed) -> TimeEmbedOp {
        let mut record = TimeEmbedOp { common: OpCommon::default(), freq_dim: op.freq_dim as u16 };
        let time_dim = self.graph.tensors[op.out].channels as u32;
        let layout = record.data_layout(time_dim, self.graph.num_classes as u32);
        let half = op.freq_dim / 2;
        let freqs = (0..half).map(|k| (-(10_000f64.ln()) * k as f64 / half as f64).exp() as f32);
        let mut piece = Piece::new(layout.bytes);
        piece.floats(layout.freqs, freqs);
        if half == 0 {
            record.common = self.common(op.out, 0, piece);
            return record;
        }
        let (first, second) = (quantise_linear(&op.linear_1), quantise_linear(&op.linear_2));
        piece.ints(layout.weight_1, &first.weight);
        piece.floats(layout.scale_1, first.scale);
        piece.floats(layout.bias_1, op.linear_1.bias.iter().copied());
        piece.ints(layout.weight_2, &second.weight);
        piece.floats(layout.scale_2, second.scale);
        piece.floats(layout.bias_2, op.linear_2.bias.iter().copied());
        piece.halves(layout.class_embedding, &op.classes);
        record.common = self.common(op.out, record.scratch_layout(time_dim).bytes, piece);
        record
    }

    fn qmax(&self, op: &Conv) -> u16 {
        if op.src_a == self.graph.sample {
            self.rules.qmax_sample
        } else if self.rules.on_grid && op.out == self.graph.output {
            self.rules.qmax_last
        } else if op.silu {
            self.rules.qmax_silu
        } else if op.norm.is_none() {
            self.rules.qmax_raw
        } else {
            self.rules.qmax
        }
    }

    /// Quantises a convolution, with fewer bits for its inputs when its sums would pass [`SUM_LIMIT`].
    fn product(&self, op: &Conv, channels: [usize; 2], stats: &OpStats, weights: WeightFormat) -> (u16, QuantProduct) {
        let finer = self.rules.finer.get(&op.name).copied().unwrap_or(1.0);
        let mut inputs = Precision { qmax: self.qmax(op), silu: op.silu, weights, finer };
        loop {
            let (layer, branches) = ((&op.weight[..], &op.bias[..]), stats.branches.each_ref());
            let product = quantise_product(layer, channels, branches, &stats.products[0], inputs, self.rules);
            if product.rows.largest_sum(inputs.qmax) < SUM_LIMIT || inputs.qmax == 1 {
                return (inputs.qmax, product);
            }
            inputs.qmax /= 2;
        }
    }

    fn conv(&mut self, op: &Conv, stats: &OpStats, way: Way) -> ConvOp {
        let source = &self.graph.tensors[op.src_a];
        let channels = [source.channels, op.src_b.map_or(0, |b| self.graph.tensors[b].channels)];
        let (qmax, product) = self.product(op, channels, stats, way.weights);
        let mut record = ConvOp {
            qmax,
            inv_scale_a: product.inv_scale[0],
            inv_scale_b: product.inv_scale[1],
            ..conv_record(op, self.places, self.graph, way)
        };
        let (cin, cout) = ((channels[0] + channels[1]) as u32, op.cout() as u32);
        let piece = conv_piece(op, &record, &product, cin);
        let statistics = self.places.records[usize::from(self.places.of[op.out])].statistics;
        let scratch = record.scratch_layout(cin, cout, source.width as u32, statistics).bytes;
        record.common = self.common(op.out, scratch, piece);
        record
    }

    fn attention(&mut self, op: &Attention, stats: &OpStats) -> AttentionOp {
        let x = &self.graph.tensors[op.x];
        let product = |layer: &Linear, branch: usize| {
            let (branches, moments) = ([&stats.branches[branch]; 2], &stats.products[branch]);
            let layer = (&layer.weight[..], &layer.bias[..]);
            let inputs = Precision { qmax: self.rules.qmax, ..Precision::default() };
            quantise_product(layer, [x.channels, 0], branches, moments, inputs, self.rules)
        };
        let (query, proj) = (product(&op.query, 0), product(&op.projection, 1));
        let mut record = AttentionOp {
            qmax: self.rules.qmax,
            inv_scale_in: query.inv_scale[0],
            inv_scale_proj: proj.inv_scale[0],
            ..attention_record(op, self.places)
        };
        let layout = record.data_layout(x.channels as u32);
        let shrink = 1.0 / (x.channels as f32 / op.heads as f32).sqrt();
        let mut piece = Piece::new(layout.bytes);
        let square = |weight| PlainWeights { weight, kernel: 1, cin: x.channels, cout: x.channels };
        square(&query.rows.weight).pack_direct(piece.bytes(layout.q_weight));
        piece.floats(layout.q_scale, query.rows.scale.iter().map(|s| s * shrink));
        piece.floats(layout.q_bias, query.bias.iter().map(|b| b * shrink));
        piece.floats(layout.gamma, op.norm.gamma.iter().copied());
        piece.floats(layout.beta, op.norm.beta.iter().copied());
        square(&proj.rows.weight).pack_direct(piece.bytes(layout.proj_weight));
        piece.floats(layout.proj_scale, proj.rows.scale);
        piece.floats(layout.proj_bias, proj.bias);
        let statistics = self.places.records[usize::from(self.places.of[op.out])].statistics;
        let scratch = record.scratch_layout(x.channels as u32, (x.height * x.width) as u32, statistics).bytes;
        record.common = self.common(op.out, scratch, piece);
        record
    }
}

fn norm_record(norm: &Norm) -> blob::Norm {
    blob::Norm { groups: norm.groups as u16, eps: norm.eps }
}

fn conv_piece(op: &Conv, record: &ConvOp, product: &QuantProduct, cin: u32) -> Piece {
    let time_dim = op.time.as_ref().map_or(0, |time| time.inputs() as u32);
    let layout = record.data_layout(cin, op.cout() as u32, time_dim);
    let mut piece = Piece::new(layout.bytes);
    let plain = PlainWeights { weight: &product.rows.weight, kernel: op.kernel, cin: cin as usize, cout: op.cout() };
    match (record.weights, record.algorithm) {
        (WeightFormat::Int4, _) => {
            let (mut groups, multipliers) = (vec![0; layout.groups.bytes as usize], &product.rows.multipliers);
            pack_nibbles(&plain, multipliers, &mut groups, piece.bytes(layout.weight));
            piece.bytes(layout.groups).copy_from_slice(&groups);
        }
        (_, Algorithm::Winograd) if !record.from_direct() => plain.pack_winograd(piece.bytes(layout.weight)),
        (_, Algorithm::Phases) if !record.from_direct() => plain.pack_phases(piece.bytes(layout.weight)),
        (_, Algorithm::Strided) => plain.pack_strided(piece.bytes(layout.weight)),
        _ => plain.pack_direct(piece.bytes(layout.weight)),
    }
    piece.floats(layout.scale, product.rows.scale.iter().copied());
    let time_bias = op.time.as_ref().map(|time| &time.bias);
    let bias = product.bias.iter().enumerate().map(|(o, bias)| bias + time_bias.map_or(0.0, |time| time[o]));
    piece.floats(layout.bias, bias);
    if let Some(norm) = &op.norm {
        piece.floats(layout.gamma, norm.gamma.iter().copied());
        piece.floats(layout.beta, norm.beta.iter().copied());
    }
    if let Some(time) = &op.time {
        let rows = quantise_linear(time);
        piece.ints(layout.time_weight, &rows.weight);
        piece.floats(layout.time_scale, rows.scale);
    }
    piece
}

/// One operator's constants, little-endian.
struct Piece(Vec<u8>);

impl Piece {
    fn new(bytes: u32) -> Self {
        Self(vec![0; bytes as usize])
    }

    fn bytes(&mut self, region: Region) -> &mut [u8] {
        &mut self.0[region.range()]
    }

    fn put<const N: usize>(&mut self, region: Region, values: impl IntoIterator<Item = [u8; N]>) {
        let bytes: Vec<u8> = values.into_iter().flatten().collect();
        self.bytes(region).copy_from_slice(&bytes);
    }

    fn ints(&mut self, region: Region, values: &[i8]) {
        self.put(region, values.iter().map(|v| v.to_le_bytes()));
    }

    fn floats(&mut self, region: Region, values: impl IntoIterator<Item = f32>) {
        self.put(region, values.into_iter().map(f32::to_le_bytes));
    }

    fn halves(&mut self, region: Region, values: &[f32]) {
        self.put(region, values.iter().map(|&v| f16::from_f32(v).to_le_bytes()));
    }
}
