//! Which algorithm each convolution gets: the fewest instructions that a board's flash and RAM have room for.
//!
//! Winograd, phase and strided weights take more flash than direct ones, Winograd's working memory more RAM. Starting from direct
//! everywhere, the layer that saves most instructions per byte of flash is changed first, as long as everything fits; what
//! is then still direct for want of flash has its Winograd weights expanded in RAM, if there is room; and what is direct even
//! then has its weights transformed at every call, a part at a time, where that pays and the RAM is free at that operator.

use anyhow::{Result, ensure};
use picodream::blob::{Algorithm, PerCall, direct_bytes, phases_bytes, winograd_bytes};

use super::places::Places;
use super::plan::{Buffer, lower_bound, plan};
use crate::float::{Conv, Graph, Op};

/// Flash that the program takes beside the blob: the measured firmware with its log and report, and room for an application.
const CODE_BYTES: u32 = 96 << 10;

/// RAM beside the arena: stack, statics of a driver or two.
const STACK_BYTES: u32 = 8 << 10;

/// Header, schedule, tables and names of a blob.
const TABLE_BYTES: u32 = 16 << 10;

/// The kind of core: which loops it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Cortex-M0+.
    M0Plus,
    /// Cortex-M3.
    M3,
    /// Cortex-M4F, M7, M33 with DSP instructions.
    Dsp,
    /// Cortex-M55.
    Helium,
}

impl Core {
    /// Instructions per multiply-accumulate of the definition that an algorithm saves beside the direct one, over `cin` input
    /// channels, as `picodream bench` shows them for 16 to 64.
    fn saved(self, algorithm: Algorithm, cin: u32) -> f64 {
        let by_channel = |most: f64, less: f64| most - less / f64::from(cin);
        match (algorithm, self) {
            (Algorithm::Direct, _) => 0.0,
            (Algorithm::Winograd, Self::M0Plus) => by_channel(0.9, 5.0),
            (Algorithm::Winograd, Self::M3) => 0.66,
            (Algorithm::Winograd, Self::Dsp) => by_channel(0.33, 1.9),
            (Algorithm::Winograd, Self::Helium) => by_channel(0.075, 0.6),
            // The loop for phases is the portable one there.
            (Algorithm::Phases, Self::M0Plus | Self::M3) => -1.0,
            (Algorithm::Phases, Self::Dsp) => 0.39,
            (Algorithm::Phases, Self::Helium) => 0.07,
            // Loops for channels by eight, and on the M0+ for at most 64.
            (Algorithm::Strided, Self::M0Plus) if cin.is_multiple_of(8) && cin <= 64 => 0.38,
            (Algorithm::Strided, Self::Helium) if cin.is_multiple_of(8) => 0.054,
            // Others refuse it.
            (Algorithm::Strided, _) => -1.0,
        }
    }

    /// Instructions that transform the weights from one input channel to one output channel, on cores that do so at every call.
    fn transformation(self, algorithm: Algorithm) -> Option<f64> {
        match (algorithm, self) {
            (Algorithm::Winograd, Self::Dsp) => Some(55.0),
            (Algorithm::Phases, Self::Dsp) => Some(45.0),
            _ => None,
        }
    }
}

/// A chip or board by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// Its name.
    pub name: &'static str,
    /// Its core.
    pub core: Core,
    /// Bytes of flash.
    pub flash_bytes: u32,
    /// Bytes of RAM in one piece.
    pub ram_bytes: u32,
}

const fn board(name: &'static str, core: Core, flash_kib: u32, ram_kib: u32) -> Board {
    Board { name, core, flash_bytes: flash_kib << 10, ram_bytes: ram_kib << 10 }
}

/// Boards with the sizes of their data sheets.
pub const BOARDS: [Board; 14] = [
    board("rp2040", Core::M0Plus, 2048, 264),
    board("stm32g0b1", Core::M0Plus, 512, 144),
    board("stm32f103", Core::M3, 128, 20),
    board("sam3x8e", Core::M3, 512, 96),
    board("nrf52832", Core::Dsp, 512, 64),
    board("nrf52840", Core::Dsp, 1024, 256),
    board("stm32f411", Core::Dsp, 512, 128),
    board("stm32f429", Core::Dsp, 2048, 192),
    board("stm32h743", Core::Dsp, 2048, 512),
    board("imxrt1062", Core::Dsp, 8192, 512),
    board("nrf5340", Core::Dsp, 1024, 512),
    board("rp2350", Core::Dsp, 4096, 520),
    board("stm32n6", Core::Helium, 65536, 4096),
    board("corstone300", Core::Helium, 1024, 512),
];

/// What a blob and its arena may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Whose instructions count.
    pub core: Core,
    /// Bytes for the whole blob.
    pub blob_bytes: u32,
    /// Bytes for the arena.
    pub arena_bytes: u32,
}

impl Budget {
    /// What is left of a board, or of other sizes, after code, stack and statics.
    ///
    /// # Errors
    /// When no board has the name, or when nothing is left.
    pub fn new(name: &str, flash_bytes: Option<u32>, ram_bytes: Option<u32>) -> Result<Self> {
        let known = || BOARDS.map(|board| board.name).join(", ");
        let Some(board) = BOARDS.iter().find(|board| board.name == name) else {
            anyhow::bail!("no target '{name}'; there are {}", known());
        };
        let (flash, ram) = (flash_bytes.unwrap_or(board.flash_bytes), ram_bytes.unwrap_or(board.ram_bytes));
        ensure!(flash > CODE_BYTES, "{flash} bytes of flash leave nothing for a blob: code takes {CODE_BYTES}");
        ensure!(
            ram > STACK_BYTES,
            "{ram} bytes of RAM leave nothing for an arena: stack and statics take {STACK_BYTES}"
        );
        Ok(Self { core: board.core, blob_bytes: flash - CODE_BYTES, arena_bytes: ram - STACK_BYTES })
    }

    /// Refuses a finished blob and arena that are over the budget.
    ///
    /// # Errors
    /// With the numbers.
    pub fn check(&self, blob_bytes: usize, arena_bytes: u32) -> Result<()> {
        let Self { blob_bytes: blob, arena_bytes: arena, .. } = *self;
        ensure!(
            blob_bytes <= blob as usize,
            "the blob takes {blob_bytes} bytes, but {blob} are left of the target's flash beside {CODE_BYTES} for code; take a larger target or a smaller network"
        );
        ensure!(
            arena_bytes <= arena,
            "the arena takes {arena_bytes} bytes, but {arena} are left of the target's RAM beside {STACK_BYTES} for stack and statics; take a larger target or a smaller network"
        );
        Ok(())
    }
}

/// How one op is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Whether its weights are expanded in the arena once per image.
    pub expanded: bool,
    /// Whether they are transformed at every call.
    pub per_call: Option<PerCall>,
}

impl From<Algorithm> for Choice {
    fn from(algorithm: Algorithm) -> Self {
        Self { algorithm, ..Self::default() }
    }
}

/// One way to compute a convolution faster than directly.
struct Change {
    op: usize,
    algorithm: Algorithm,
    saved: f64,
    /// More flash than direct weights.
    bytes: u32,
    /// All its weights, when they may lie in RAM.
    expanded_bytes: Option<u32>,
}

/// The algorithm of fewest products that suits a convolution; not every core has it.
#[must_use]
pub fn fewest_products(op: &Conv) -> Algorithm {
    match (op.upsample, op.kernel, op.stride) {
        (true, ..) => Algorithm::Phases,
        (_, 3, 1) if op.cout() > 1 => Algorithm::Winograd,
        (_, 3, 2) => Algorithm::Strided,
        _ => Algorithm::Direct,
    }
}

/// A graph whose ops are to be computed in some way or other.
pub struct Chooser<'a, F, S> {
    /// The graph.
    pub graph: &'a Graph,
    /// Its tensors.
    pub places: &'a Places,
    /// An op's algorithm of fewest products.
    pub fewest: F,
    /// The working memory of an op, computed in some way.
    pub scratch: S,
}

impl<F: Fn(usize) -> Algorithm, S: Fn(usize, Choice) -> u32> Chooser<'_, F, S> {
    /// Direct ops, and those whose weights are transformed at every call where `core` gains by it and the arena does not grow.
    pub fn least(&self, core: Core) -> Vec<Choice> {
        let mut chosen = vec![Choice::default(); self.graph.ops.len()];
        let arena_bytes = self.arena_bound(&chosen);
        self.add_per_call(core, arena_bytes, &mut chosen);
        // Live sets that fit are not yet a plan that does.
        let planned = |chosen: &[Choice]| plan(&self.buffers(chosen)).peak;
        if planned(&chosen) > arena_bytes {
            let least = planned(&vec![Choice::default(); chosen.len()]);
            while planned(&chosen) > least {
                let largest = (0..chosen.len()).filter(|&op| chosen[op].per_call.is_some());
                let Some(op) = largest.max_by_key(|&op| self.scratch(op, chosen[op])) else { break };
                chosen[op] = Choice::default();
            }
        }
        chosen
    }

    /// How each op of the graph is computed within a budget; `data_bytes` is that of all constants when everything is direct.
    pub fn choose(&self, budget: &Budget, data_bytes: u32) -> Vec<Choice> {
        let graph = self.graph;
        let mut chosen = vec![Choice::default(); graph.ops.len()];
        let mut changes: Vec<Change> =
            (0..graph.ops.len()).filter_map(|op| change(graph, op, (self.fewest)(op), budget.core)).collect();
        changes.retain(|change| change.saved > 0.0);
        changes.sort_by(|a, b| (b.saved / f64::from(b.bytes)).total_cmp(&(a.saved / f64::from(a.bytes))));
        let mut blob_bytes = data_bytes + TABLE_BYTES;
        let mut expanded_bytes = 0;
        for Change { op, algorithm, bytes, .. } in &changes {
            chosen[*op] = Choice::from(*algorithm);
            if blob_bytes + bytes <= budget.blob_bytes && self.arena_bound(&chosen) <= budget.arena_bytes {
                blob_bytes += bytes;
            } else {
                chosen[*op] = Choice::default();
            }
        }
        for Change { op, algorithm, expanded_bytes: weights, .. } in changes {
            let Some(weights) = weights.filter(|_| chosen[op].algorithm == Algorithm::Direct) else { continue };
            chosen[op] = Choice { algorithm, expanded: true, per_call: None };
            if self.arena_bound(&chosen) + expanded_bytes + weights <= budget.arena_bytes {
                expanded_bytes += weights;
            } else {
                chosen[op] = Choice::default();
            }
        }
        self.add_per_call(budget.core, budget.arena_bytes - expanded_bytes, &mut chosen);
        chosen
    }

    /// Has the weights of ops that are direct yet transformed at every call, in the parts that cost least, where that pays and the
    /// op's live set stays within `arena_bytes`.
    fn add_per_call(&self, core: Core, arena_bytes: u32, chosen: &mut [Choice]) {
        let buffers = self.places.buffers();
        for (op, chosen) in chosen.iter_mut().enumerate().filter(|(_, chosen)| chosen.algorithm == Algorithm::Direct) {
            let live: u32 = buffers.iter().filter(|b| (b.first..=b.last).contains(&op)).map(Buffer::padded).sum();
            let fits = |(choice, _): &(Choice, f64)| live + self.scratch(op, *choice) <= arena_bytes;
            let ways = per_call_ways(self.graph, op, (self.fewest)(op), core);
            let best = ways.into_iter().filter(fits).max_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((choice, _)) = best {
                *chosen = choice;
            }
        }
    }

    fn scratch(&self, op: usize, choice: Choice) -> u32 {
        (self.scratch)(op, choice).next_multiple_of(16)
    }

    /// Tensors and scratches, as the planner sees them.
    fn buffers(&self, chosen: &[Choice]) -> Vec<Buffer> {
        let mut buffers = self.places.buffers();
        let scratches = chosen.iter().enumerate();
        buffers.extend(scratches.map(|(op, choice)| Buffer { bytes: self.scratch(op, *choice), first: op, last: op }));
        buffers
    }

    fn arena_bound(&self, chosen: &[Choice]) -> u32 {
        lower_bound(&self.buffers(chosen)).1
    }
}

/// Instructions beside the products for each call of the loop for phases.
const PHASE_CALL: f64 = 370.0;

/// Every way to transform an op's weights at each call that saves instructions, and how many.
fn per_call_ways(graph: &Graph, index: usize, algorithm: Algorithm, core: Core) -> Vec<(Choice, f64)> {
    let Op::Conv(op) = &graph.ops[index] else { return Vec::new() };
    let Some(transformation) = core.transformation(algorithm) else { return Vec::new() };
    let out = &graph.tensors[op.out];
    let (cout, cin) = (op.cout(), op.weight.len() / op.cout() / op.kernel / op.kernel);
    let (row_pairs, out_pairs) = (out.height.div_ceil(2), cout.div_ceil(2));
    let saved = graph.macs(index) as f64 * core.saved(algorithm, cin as u32);
    let mut ways = Vec::new();
    // The loader lets phases of two source rows share a ring of four.
    let most = if algorithm == Algorithm::Phases { 2 } else { row_pairs };
    for rows in 1..=most.min(255) {
        for part in (0..).map(|k| out_pairs.div_ceil(1 << k)).take_while(|&n| n > 1).chain([1]).filter(|&n| n < 256) {
            let parts = out_pairs.div_ceil(part);
            let times = if parts == 1 { 1 } else { row_pairs.div_ceil(rows) };
            let calls =
                if algorithm == Algorithm::Phases { (parts - 1) * row_pairs * 4 * out.width.div_ceil(8) } else { 0 };
            let left = saved - (times * cin * cout) as f64 * transformation - calls as f64 * PHASE_CALL;
            let per_call = Some(PerCall { row_pairs: rows as u8, out_pairs: part as u8 });
            if left > 0.0 {
                ways.push((Choice { algorithm, expanded: false, per_call }, left));
            }
        }
    }
    ways
}

fn change(graph: &Graph, index: usize, algorithm: Algorithm, core: Core) -> Option<Change> {
    let Op::Conv(op) = &graph.ops[index] else { return None };
    let (cout, cin) = (op.cout() as u32, (op.weight.len() / op.cout() / op.kernel / op.kernel) as u32);
    let bytes = match algorithm {
        Algorithm::Direct => return None,
        Algorithm::Winograd | Algorithm::Strided => winograd_bytes(cin, cout),
        Algorithm::Phases => phases_bytes(cin, cout),
    };
    let saved = graph.macs(index) as f64 * core.saved(algorithm, cin);
    Some(Change {
        op: index,
        algorithm,
        saved,
        bytes: (bytes - direct_bytes(op.kernel as u32, cin, cout)) as u32,
        expanded_bytes: (algorithm == Algorithm::Winograd).then_some((bytes as u32).next_multiple_of(16)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_name_what_is_wrong() {
        let error = |name: &str, flash, ram| Budget::new(name, flash, ram).unwrap_err().to_string();
        assert!(error("esp32", None, None).contains("no target 'esp32'; there are rp2040, "));
        assert!(error("rp2040", Some(90_000), None).contains("90000 bytes of flash leave nothing"));
        assert!(error("rp2040", None, Some(8192)).contains("8192 bytes of RAM leave nothing"));
        let budget = Budget::new("nrf52840", None, None).unwrap();
        assert_eq!((budget.blob_bytes, budget.arena_bytes), ((1024 - 96) << 10, (256 - 8) << 10));
        assert!(budget.check(2_000_000, 1000).unwrap_err().to_string().contains("the blob takes 2000000 bytes"));
        assert!(budget.check(1000, 300_000).unwrap_err().to_string().contains("the arena takes 300000 bytes"));
    }
}
