//! The firmware that holds the back end to the portable loops: random shapes, tails, alignments and extreme values.
#![no_std]
#![no_main]

mod chance;
mod ends;
mod point;
mod rest;
mod sums;

use picodream::BACKEND;
use picodream_app::Outcome;
use picodream_qemu::Qemu;
use picodream_wire::Record;

/// Where a back end left the definition.
pub struct Difference {
    /// The loop.
    pub kernel: &'static str,
    /// Number of the case: the stream it is drawn from.
    pub case: u32,
    /// First place of the output that differs.
    pub at: usize,
}

/// A loop's name, a case of it, and how many cases there are.
type Check = (&'static str, fn(u64) -> Result<(), usize>, u32);

const CHECKS: [Check; 17] = [
    ("direct", sums::direct, 400),
    ("phase", sums::phase, 200),
    ("winograd_input", sums::winograd_input, 150),
    ("winograd_products", sums::winograd_products, 150),
    ("winograd_eight", sums::winograd_eight, 100),
    ("strided_input", sums::strided_input, 150),
    ("strided_products", sums::strided_products, 150),
    ("expand", sums::expand, 200),
    ("point", point::halves, 400),
    ("point to floats", point::floats, 150),
    ("clear", ends::clear, 100),
    ("feed", ends::feed, 400),
    ("finish", ends::finish, 400),
    ("finish of every half", ends::halves, 512),
    ("narrow", rest::narrow, 200),
    ("dots", rest::dots, 200),
    ("mix", rest::mix, 150),
];

#[cortex_m_rt::entry]
fn main() -> ! {
    let mut board = Qemu::start();
    let outcome = match check_all() {
        Ok(cases) => {
            defmt::println!("backend {=str}, {=u32} cases equal", BACKEND, cases);
            picodream_app::Board::send(&mut board, &Record::Checked { backend: BACKEND, cases });
            Outcome::Done
        }
        Err(Difference { kernel, case, at }) => picodream_app::refuse(
            &mut board,
            &format_args!("{BACKEND} differs from the portable {kernel} at element {at} of case {case}"),
        ),
    };
    board.exit(outcome)
}

fn check_all() -> Result<u32, Difference> {
    let mut cases = 0;
    for (kernel, check, count) in CHECKS {
        for case in 0..count {
            check(case.into()).map_err(|at| Difference { kernel, case, at })?;
            cases += 1;
        }
    }
    Ok(cases)
}
