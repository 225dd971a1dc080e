//! The order of ops whose largest live set is smallest: an exact search over all orders that the data allow.
//!
//! Depth first over the sets of ops that are done, each in the given order first. What lives after a set of ops does not
//! depend on their order, so a set from which every way is too large is never entered twice. A branch is cut where it
//! needs as much as the best order so far: only a better order is taken, and of equals the given one stays. After each
//! better one the search begins anew, until there is none.
//!
//! One thing hangs on the order: whether a record has room for statistics, which an output inherits from the tensor
//! whose place it takes. The sets carry that along; what an output passes back to that tensor is left out, so that
//! the search may think an order better than it is, never worse, and every whole order is measured as it would be placed.

use std::collections::HashSet;

use serde::Serialize;

use super::places::{Places, record_of, taken_over};
use super::plan::{Buffer, lower_bound, plan};
use crate::float::{Conv, Graph, Op, TensorId};

/// So many sets of ops are entered at most.
const LIMIT: usize = 100_000;

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The ops of the graph in the order to run them.
    #[serde(skip)]
    pub ops: Vec<usize>,
    /// Largest live set in the given order, with kernels as small as they may be.
    pub given_bytes: u32,
    /// Largest live set in this order; equal exactly when the given one stays.
    pub bytes: u32,
    /// Sets of ops that the search entered.
    pub searched: usize,
    /// Whether it went through all that could be better.
    pub complete: bool,
}

impl Order {
    /// Whether another order than the given one is to be taken.
    #[must_use]
    pub const fn better(&self) -> bool {
        self.bytes < self.given_bytes
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { given_bytes, bytes, searched, complete, .. } = self;
        let end = if *complete { "" } else { "; stopped there" };
        match self.better() {
            true => write!(f, "changed, {given_bytes} to {bytes} bytes ({searched} sets of operators searched{end})"),
            false => write!(f, "as given, none needs less ({searched} sets of operators searched{end})"),
        }
    }
}

/// Searches; `scratch` tells the working memory of an op, given its graph and places.
pub fn best_order<F: Fn(&Graph, &Places, usize) -> u32>(graph: &Graph, scratch: F) -> Order {
    let given: Vec<usize> = (0..graph.ops.len()).collect();
    let mut search = Search::new(graph, &scratch);
    while search.descend(&mut State::default()) == End::Better {}
    let Search { best, least, entered, .. } = search;
    let bytes = lower_bound(&buffers(graph, &scratch)).1;
    let stays = Order { ops: given, given_bytes: bytes, bytes, searched: entered, complete: entered < LIMIT };
    // A live set that is smaller is not yet a plan that is.
    let peak = |graph: &Graph| plan(&buffers(graph, &scratch)).peak;
    match best.filter(|ops| graph.reordered(ops).is_some_and(|better| peak(&better) < peak(graph))) {
        Some(ops) => Order { ops, bytes: least, ..stays },
        None => stays,
    }
}

/// Tensors and scratches of a graph in its order.
fn buffers<F: Fn(&Graph, &Places, usize) -> u32>(graph: &Graph, scratch: F) -> Vec<Buffer> {
    let places = Places::new(graph);
    let mut buffers = places.buffers();
    let scratches = 0..graph.ops.len();
    buffers.extend(scratches.map(|op| Buffer { bytes: scratch(graph, &places, op), first: op, last: op }));
    buffers
}

/// Up to 256 ops or tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Set([u128; 2]);

impl Set {
    fn has(&self, i: usize) -> bool {
        self.0[i / 128] >> (i % 128) & 1 == 1
    }

    fn add(&mut self, i: usize) {
        self.0[i / 128] |= 1 << (i % 128);
    }

    fn within(&self, other: &Self) -> bool {
        (0..2).all(|half| self.0[half] & !other.0[half] == 0)
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(items: I) -> Self {
        let mut set = Self::default();
        items.into_iter().for_each(|i| set.add(i));
        set
    }
}

/// How far an order has come.
#[derive(Clone, Debug, Default)]
struct State {
    ops: Vec<usize>,
    done: Set,
    /// Tensors that live and whose records have statistics.
    statistics: Set,
}

/// What became of the ways on from a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Each needs too much.
    Dead,
    /// Some come to an end, but needed as much as the best when they were measured.
    NoBetter,
    /// One is the new best.
    Better,
}

/// What one more op needs and leaves.
struct Next {
    bytes: u32,
    statistics: bool,
}

struct Search<'a, F> {
    graph: &'a Graph,
    scratch: &'a F,
    /// By tensor: bytes of its record without and with statistics.
    bytes: Vec<[u32; 2]>,
    /// By op: working memory when its output has no statistics, and when it has.
    scratches: Vec<[u32; 2]>,
    /// By tensor: whether its own readers want statistics.
    normed: Vec<bool>,
    /// By tensor: the ops that read it.
    readers: Vec<Set>,
    /// By tensor: the op that writes it.
    writer: Vec<Option<usize>>,
    /// By op: the ops that write what it reads.
    needs: Vec<Set>,
    /// What lives all the time.
    always: u32,
    /// Sets, with what has statistics, from which nothing better can be reached.
    dead: HashSet<(Set, Set)>,
    entered: usize,
    least: u32,
    best: Option<Vec<usize>>,
}

impl<'a, F: Fn(&Graph, &Places, usize) -> u32> Search<'a, F> {
    fn new(graph: &'a Graph, scratch: &'a F) -> Self {
        let tensors = 0..graph.tensors.len();
        let padded = |id, statistics| {
            let bytes = record_of(graph, id, statistics).region().bytes;
            Buffer { bytes, first: 0, last: 0 }.padded()
        };
        let bytes: Vec<[u32; 2]> = tensors.clone().map(|id| [padded(id, false), padded(id, true)]).collect();
        let reading =
            |id: TensorId| (0..graph.ops.len()).filter(move |&op| graph.ops[op].reads(graph.temb).contains(&id));
        let writer: Vec<Option<usize>> =
            tensors.clone().map(|id| graph.ops.iter().position(|op| op.out() == id)).collect();
        let needs = |op: &Op| op.reads(graph.temb).into_iter().filter_map(|id| writer[id]).collect();
        let normed = normed(graph);
        let sample = bytes[graph.sample][usize::from(normed[graph.sample])];
        let guidance = if graph.num_classes > 0 { bytes[graph.sample][0] } else { 0 };
        Self {
            scratches: scratches(graph, scratch),
            normed,
            readers: tensors.map(|id| reading(id).collect()).collect(),
            needs: graph.ops.iter().map(needs).collect(),
            always: sample + guidance,
            dead: HashSet::new(),
            entered: 0,
            least: lower_bound(&buffers(graph, scratch)).1,
            best: None,
            graph,
            scratch,
            bytes,
            writer,
        }
    }

    /// Tries every way on from here, until one is better than the best.
    fn descend(&mut self, state: &mut State) -> End {
        if state.ops.len() == self.graph.ops.len() {
            return self.measure(&state.ops);
        }
        let key = (state.done, state.statistics);
        if self.dead.contains(&key) || self.entered == LIMIT {
            return End::Dead;
        }
        self.entered += 1;
        let live = self.live(state);
        let ready = |op: &usize| !state.done.has(*op) && self.needs[*op].within(&state.done);
        let mut ways: Vec<usize> = (0..self.graph.ops.len()).filter(ready).collect();
        if let Some(op) = ways.iter().copied().find(|&op| self.at_once(state, op)) {
            ways = vec![op];
        }
        let mut end = End::Dead;
        for op in ways {
            let next = self.next(state, op, live);
            if next.bytes < self.least {
                let mut after = state.clone();
                self.follow(&mut after, op, next.statistics);
                match self.descend(&mut after) {
                    End::Dead => {}
                    End::NoBetter => end = End::NoBetter,
                    End::Better => return End::Better,
                }
            }
        }
        if end == End::Dead && self.entered < LIMIT {
            self.dead.insert(key);
        }
        end
    }

    /// Keeps a whole order when it is better than the best.
    fn measure(&mut self, ops: &[usize]) -> End {
        let Some(graph) = self.graph.reordered(ops) else { return End::NoBetter };
        let bytes = lower_bound(&buffers(&graph, self.scratch)).1;
        if bytes >= self.least {
            return End::NoBetter;
        }
        self.least = bytes;
        self.best = Some(ops.to_vec());
        End::Better
    }

    /// A skip that nothing else reads is narrowed at once where that stays below the best, whatever has statistics: it
    /// leaves less, and what would come before it does not see the difference.
    fn at_once(&self, state: &State, op: usize) -> bool {
        let Op::Narrow(narrow) = &self.graph.ops[op] else { return false };
        let ([src, src_most], [out, out_most]) = (self.bytes[narrow.src], self.bytes[narrow.out]);
        let most = State { statistics: Set([u128::MAX; 2]), ..state.clone() };
        let bytes = self.live(&most) + out_most + self.scratches[op][1];
        self.dies(state, op, narrow.src) && out <= src && out_most <= src_most && bytes < self.least
    }

    /// Whether op is the last to read a tensor.
    fn dies(&self, state: &State, op: usize, id: TensorId) -> bool {
        let mut done = state.done;
        done.add(op);
        id != self.graph.output && id != self.graph.sample && self.readers[id].within(&done)
    }

    fn alive(&self, done: &Set, id: TensorId) -> bool {
        let written = self.writer[id].is_some_and(|op| done.has(op));
        written && (id == self.graph.output || !self.readers[id].within(done))
    }

    /// Bytes that live after what is done.
    fn live(&self, state: &State) -> u32 {
        let alive = (0..self.bytes.len()).filter(|&id| id != self.graph.sample && self.alive(&state.done, id));
        self.always + alive.map(|id| self.bytes[id][usize::from(state.statistics.has(id))]).sum::<u32>()
    }

    /// What `op` needs after what is done, and whether its output's record has statistics.
    fn next(&self, state: &State, op: usize, live: u32) -> Next {
        let out = self.graph.ops[op].out();
        let taken = taken_over(self.graph, op, |id| self.dies(state, op, id));
        let from = taken.or(match &self.graph.ops[op] {
            Op::Narrow(narrow) => Some(narrow.src),
            _ => None,
        });
        let statistics = self.normed[out] || from.is_some_and(|id| state.statistics.has(id));
        let place = self.bytes[out][usize::from(statistics)];
        let shared = taken.map_or(0, |id| self.bytes[id][usize::from(state.statistics.has(id))]);
        Next { bytes: live + place - shared.min(place) + self.scratches[op][usize::from(statistics)], statistics }
    }

    fn follow(&self, state: &mut State, op: usize, statistics: bool) {
        state.ops.push(op);
        state.done.add(op);
        if statistics {
            state.statistics.add(self.graph.ops[op].out());
        }
        let marked = (0..self.bytes.len()).filter(|&id| state.statistics.has(id) && self.alive(&state.done, id));
        state.statistics = marked.collect();
    }
}

/// By tensor: whether an op that reads it, or reads what it is narrowed to, normalises it.
fn normed(graph: &Graph) -> Vec<bool> {
    let mut normed = vec![false; graph.tensors.len()];
    for op in &graph.ops {
        match op {
            Op::Conv(Conv { norm: Some(_), src_a, src_b, .. }) => {
                normed[*src_a] = true;
                src_b.iter().for_each(|&b| normed[b] = true);
            }
            Op::Attention(op) => normed[op.x] = true,
            _ => {}
        }
    }
    for op in &graph.ops {
        if let Op::Narrow(op) = op {
            normed[op.src] |= normed[op.out];
        }
    }
    normed
}

/// By op: its working memory when the output's record has no statistics, and when it has.
fn scratches<F: Fn(&Graph, &Places, usize) -> u32>(graph: &Graph, scratch: &F) -> Vec<[u32; 2]> {
    let mut places = Places::new(graph);
    let mut with = |op: usize, statistics| {
        let record = usize::from(places.of[graph.ops[op].out()]);
        places.records[record].statistics = statistics;
        Buffer { bytes: scratch(graph, &places, op), first: op, last: op }.padded()
    };
    (0..graph.ops.len()).map(|op| [with(op, false), with(op, true)]).collect()
}

#[cfg(test)]
mod tests;
