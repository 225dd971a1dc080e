//! Which algorithm each convolution gets: the fewest instructions that a board's flash and RAM have room for.
//!
//! Winograd and phase weights take more flash than direct ones, Winograd's working memory more RAM. Starting from direct
//! everywhere, the layer that saves most instructions per byte of flash is changed first, as long as everything fits; what
//! is then still direct for want of flash has its Winograd weights expanded in RAM, if there is room.

use anyhow::{Result, ensure};
use picodream::blob::{Algorithm, direct_bytes, phases_bytes, winograd_bytes};

use super::places::Places;
use super::plan::{Buffer, lower_bound};
use crate::float::{Conv, Graph, Op};

/// Flash that the program takes beside the blob: the measured firmware with its log and report, and room for an application.
const CODE_BYTES: u32 = 96 << 10;

/// RAM beside the arena: stack, statics of a driver or two.
const STACK_BYTES: u32 = 8 << 10;

/// Header, schedule, tables and names of a blob.
const TABLE_BYTES: u32 = 10 << 10;

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
    /// Instructions per multiply-accumulate of the definition in the integer loops, as `picodream bench` shows them for 16 to
    /// 32 channels; only their ratios matter here.
    fn cost(self, algorithm: Algorithm) -> f64 {
        let [direct, winograd, phases] = match self {
            Self::M0Plus => [3.5, 2.0, 1.6],
            Self::M3 => [1.9, 1.0, 0.9],
            Self::Dsp => [0.85, 0.45, 0.40],
            Self::Helium => [0.25, 0.14, 0.12],
        };
        match algorithm {
            Algorithm::Direct => direct,
            Algorithm::Winograd => winograd,
            Algorithm::Phases => phases,
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
}

impl From<Algorithm> for Choice {
    fn from(algorithm: Algorithm) -> Self {
        Self { algorithm, expanded: false }
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

/// The fastest algorithm that suits a convolution.
#[must_use]
pub fn fastest(op: &Conv) -> Algorithm {
    if op.upsample {
        Algorithm::Phases
    } else if (op.kernel, op.stride) == (3, 1) && op.cout() > 1 {
        Algorithm::Winograd
    } else {
        Algorithm::Direct
    }
}

/// How each op of the graph is computed within a budget. `fastest` names an op's fastest algorithm, `scratch` the working
/// memory of op and algorithm; `data_bytes` is that of all constants when everything is direct.
pub fn choose(
    graph: &Graph,
    places: &Places,
    budget: &Budget,
    (fastest, scratch): (&impl Fn(usize) -> Algorithm, &impl Fn(usize, Algorithm) -> u32),
    data_bytes: u32,
) -> Vec<Choice> {
    let mut chosen = vec![Choice::default(); graph.ops.len()];
    let mut changes: Vec<Change> =
        (0..graph.ops.len()).filter_map(|op| change(graph, op, fastest(op), budget.core)).collect();
    changes.sort_by(|a, b| (b.saved / f64::from(b.bytes)).total_cmp(&(a.saved / f64::from(a.bytes))));
    let mut blob_bytes = data_bytes + TABLE_BYTES;
    let mut expanded_bytes = 0;
    for Change { op, algorithm, bytes, .. } in &changes {
        chosen[*op] = Choice::from(*algorithm);
        if blob_bytes + bytes <= budget.blob_bytes && arena_bound(places, &chosen, scratch) <= budget.arena_bytes {
            blob_bytes += bytes;
        } else {
            chosen[*op] = Choice::default();
        }
    }
    for Change { op, algorithm, expanded_bytes: weights, .. } in changes {
        let Some(weights) = weights.filter(|_| chosen[op].algorithm == Algorithm::Direct) else { continue };
        chosen[op] = Choice { algorithm, expanded: true };
        if arena_bound(places, &chosen, scratch) + expanded_bytes + weights <= budget.arena_bytes {
            expanded_bytes += weights;
        } else {
            chosen[op] = Choice::default();
        }
    }
    chosen
}

fn change(graph: &Graph, index: usize, algorithm: Algorithm, core: Core) -> Option<Change> {
    let Op::Conv(op) = &graph.ops[index] else { return None };
    let (cout, cin) = (op.cout() as u32, (op.weight.len() / op.cout() / op.kernel / op.kernel) as u32);
    let bytes = match algorithm {
        Algorithm::Direct => return None,
        Algorithm::Winograd => winograd_bytes(cin, cout),
        Algorithm::Phases => phases_bytes(cin, cout),
    };
    let saved = graph.macs(index) as f64 * (core.cost(Algorithm::Direct) - core.cost(algorithm));
    Some(Change {
        op: index,
        algorithm,
        saved,
        bytes: (bytes - direct_bytes(op.kernel as u32, cin, cout)) as u32,
        expanded_bytes: (algorithm == Algorithm::Winograd).then_some((bytes as u32).next_multiple_of(16)),
    })
}

fn arena_bound(places: &Places, chosen: &[Choice], scratch: &impl Fn(usize, Algorithm) -> u32) -> u32 {
    let mut buffers = places.buffers();
    let scratches = chosen.iter().enumerate();
    buffers.extend(scratches.map(|(op, choice)| Buffer { bytes: scratch(op, choice.algorithm), first: op, last: op }));
    lower_bound(&buffers).1
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
