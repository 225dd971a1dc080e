//! The emulated machines: a board of QEMU, the core that code is built for, and how cargo is told so.

use anyhow::{Context, Result};

/// A machine that QEMU emulates and the firmware knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The core that code is built for, in short: what `--core` takes.
    pub core: &'static str,
    /// The same in full.
    pub core_name: &'static str,
    /// QEMU's name for the board.
    pub name: &'static str,
    /// The board as the firmware's build script knows it.
    pub board: &'static str,
    /// Rust's target for the core.
    pub target: &'static str,
    /// Compiler flags that say more about the core than the target does.
    pub rustflags: &'static str,
}

/// All machines, from the smallest core to the largest. QEMU has no board with a Cortex-M0+, whose code a Cortex-M3 runs.
pub const MACHINES: [Machine; 6] = [
    machine("m0plus", "Cortex-M0+", "mps2-an385", "mps2", "thumbv6m-none-eabi", ""),
    machine("m3", "Cortex-M3", "mps2-an385", "mps2", "thumbv7m-none-eabi", ""),
    machine("m4", "Cortex-M4F", DEFAULT_MACHINE, "mps2", "thumbv7em-none-eabihf", ""),
    machine("m7", "Cortex-M7", "mps2-an500", "mps2", "thumbv7em-none-eabihf", ""),
    machine("m33", "Cortex-M33", "mps2-an505", "an505", "thumbv8m.main-none-eabihf", ""),
    machine("m55", "Cortex-M55", "mps3-an547", "an547", "thumbv8m.main-none-eabihf", "-C target-cpu=cortex-m55"),
];

/// Name of the machine that is taken when none is named.
pub const DEFAULT_MACHINE: &str = "mps2-an386";

const fn machine(
    core: &'static str,
    core_name: &'static str,
    name: &'static str,
    board: &'static str,
    target: &'static str,
    rustflags: &'static str,
) -> Machine {
    Machine { core, core_name, name, board, target, rustflags }
}

impl Machine {
    /// Whether the core computes strided convolutions by minimal filtering, as `picodream::kernels::STRIDED` says there.
    #[must_use]
    pub fn has_strided(&self) -> bool {
        matches!(self.core, "m0plus" | "m55")
    }

    /// The machine with this core or of this name (of two cores on one board, the board's own); the error lists all.
    pub fn named(name: &str) -> Result<&'static Self> {
        let known = || MACHINES.map(|m| format!("{} ({} on {})", m.core, m.core_name, m.name)).join(", ");
        MACHINES
            .iter()
            .rfind(|m| m.core == name || m.name == name)
            .with_context(|| format!("no machine '{name}'; there are {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_machines_by_core_and_by_name() {
        assert_eq!(Machine::named("mps2-an385").unwrap().core_name, "Cortex-M3");
        for machine in &MACHINES {
            assert_eq!(Machine::named(machine.core).unwrap(), machine);
        }
        let error = Machine::named("mps2").unwrap_err().to_string();
        let all = |m: &Machine| error.contains(m.name) && error.contains(m.core);
        assert!(error.contains("'mps2'") && MACHINES.iter().all(all), "{error}");
    }
}
