//! Which tensors share one place of the arena because one takes over where the other ends, and how long each place lives.
//!
//! An output takes over the residual it adds, a source of a 1×1 convolution of stride 1 that reads raw values, or an
//! attention's input, whenever that tensor dies there and has the same shape: the runtime reads before it writes.

use picodream::blob::{ConvOp, DType, TensorRecord};

use super::plan::Buffer;
use super::target::Choice;
use crate::float::{Conv, Graph, Op, TensorId};

/// Records without offsets, and who uses which.
#[derive(Clone, Debug)]
pub struct Places {
    /// Tensor records, offsets still 0.
    pub records: Vec<TensorRecord>,
    /// Record of each tensor of the graph.
    pub of: Vec<u16>,
    /// Record that keeps the unconditional prediction; present when there are classes.
    pub guidance: Option<u16>,
    /// First and last op of each record, as the runtime's loader counts them.
    pub lives: Vec<(usize, usize)>,
}

impl Places {
    /// Assigns records to the tensors of a graph.
    #[must_use]
    pub fn new(graph: &Graph) -> Self {
        let roots = roots(graph);
        let mut places =
            Self { records: Vec::new(), of: vec![0; graph.tensors.len()], guidance: None, lives: Vec::new() };
        for (id, &root) in roots.iter().enumerate() {
            if root == id {
                places.of[id] = places.push(graph, id);
            }
        }
        for (id, &root) in roots.iter().enumerate() {
            places.of[id] = places.of[root];
        }
        places.collect_uses(graph);
        let last = graph.ops.len() - 1;
        places.lives[usize::from(places.of[graph.output])].1 = last;
        places.lives[usize::from(places.of[graph.sample])] = (0, last);
        if graph.num_classes > 0 {
            // The prediction alone is kept: an image.
            let guidance = places.push(graph, graph.sample);
            places.lives[usize::from(guidance)] = (0, last);
            places.guidance = Some(guidance);
        }
        places
    }

    /// The records as buffers for the planner.
    #[must_use]
    pub fn buffers(&self) -> Vec<Buffer> {
        let records = self.records.iter().zip(&self.lives);
        records.map(|(record, &(first, last))| Buffer { bytes: record.region().bytes, first, last }).collect()
    }

    /// Adds the tensors of weights that are expanded in the arena, alive all the time; returns that of each op.
    pub fn push_expanded(&mut self, graph: &Graph, choices: &[Choice]) -> Vec<Option<u16>> {
        let mut expanded = Vec::with_capacity(choices.len());
        for (op, choice) in graph.ops.iter().zip(choices) {
            expanded.push(match op {
                Op::Conv(op) if choice.expanded => {
                    let cin = op.weight.len() / op.cout() / op.kernel / op.kernel;
                    self.records.push(ConvOp::expanded_record(cin as u32, op.cout() as u32));
                    self.lives.push((0, graph.ops.len() - 1));
                    Some((self.records.len() - 1) as u16)
                }
                _ => None,
            });
        }
        expanded
    }

    fn push(&mut self, graph: &Graph, id: TensorId) -> u16 {
        self.records.push(record_of(graph, id, false));
        self.lives.push((usize::MAX, 0));
        (self.records.len() - 1) as u16
    }

    fn collect_uses(&mut self, graph: &Graph) {
        for (index, op) in graph.ops.iter().enumerate() {
            for id in op.reads(graph.temb).into_iter().chain([op.out()]) {
                let life = &mut self.lives[usize::from(self.of[id])];
                *life = (life.0.min(index), life.1.max(index));
            }
            let normed = match op {
                Op::Conv(op) if op.norm.is_some() => [Some(op.src_a), op.src_b],
                Op::Attention(op) => [Some(op.x), None],
                _ => [None, None],
            };
            for id in normed.into_iter().flatten() {
                self.records[usize::from(self.of[id])].statistics = true;
            }
        }
        // What is narrowed hands its statistics on.
        for op in &graph.ops {
            if let Op::Narrow(op) = op {
                let [src, out] = [op.src, op.out].map(|id| usize::from(self.of[id]));
                self.records[src].statistics |= self.records[out].statistics;
                self.records[out].statistics = self.records[src].statistics;
            }
        }
    }
}

/// The record of a tensor that has a place of its own, offset still 0.
pub(super) fn record_of(graph: &Graph, id: TensorId, statistics: bool) -> TensorRecord {
    let tensor = &graph.tensors[id];
    let whole = id == graph.sample || id == graph.temb || id == graph.output;
    TensorRecord {
        height: tensor.height as u16,
        width: tensor.width as u16,
        channels: tensor.channels as u16,
        dtype: match (whole, is_narrow(graph, id)) {
            (true, _) => DType::F32,
            (false, true) => DType::I8,
            (false, false) => DType::F16,
        },
        statistics,
        offset: 0,
    }
}

fn is_narrow(graph: &Graph, id: TensorId) -> bool {
    graph.ops.iter().any(|op| matches!(op, Op::Narrow(op) if op.out == id))
}

/// For each tensor, the first tensor of its chain of take-overs.
fn roots(graph: &Graph) -> Vec<TensorId> {
    let mut roots: Vec<TensorId> = (0..graph.tensors.len()).collect();
    let last_use = |id: TensorId| graph.ops.iter().rposition(|op| op.reads(graph.temb).contains(&id));
    for index in 0..graph.ops.len() {
        if let Some(id) = taken_over(graph, index, |id| last_use(id) == Some(index)) {
            roots[graph.ops[index].out()] = roots[id];
        }
    }
    roots
}

/// The tensor whose place the output of op `index` takes, if one of those that may be taken dies there.
pub(super) fn taken_over(graph: &Graph, index: usize, dies: impl Fn(TensorId) -> bool) -> Option<TensorId> {
    let op = &graph.ops[index];
    let candidates = match op {
        Op::TimeEmbed(_) | Op::Narrow(_) => [None, None],
        Op::Conv(op) if op.residual.is_some() => [op.residual, None],
        Op::Conv(op) if reads_whole_rows(op) => [Some(op.src_a), op.src_b],
        Op::Conv(_) => [None, None],
        Op::Attention(op) => [Some(op.x), None],
    };
    let shape = |id: TensorId| (graph.tensors[id].height, graph.tensors[id].width, graph.tensors[id].channels);
    let fits = |id: TensorId| {
        let out = op.out();
        // All others are f16.
        let plain = ![graph.sample, graph.temb, graph.output].contains(&id) && out != graph.output;
        plain && !is_narrow(graph, id) && shape(id) == shape(out)
    };
    candidates.into_iter().flatten().find(|&id| dies(id) && fits(id))
}

fn reads_whole_rows(op: &Conv) -> bool {
    (op.kernel, op.stride) == (1, 1) && op.norm.is_none() && !op.upsample
}
