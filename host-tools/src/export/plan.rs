//! Memory planner: an arena offset for every buffer, so that no two that live together overlap and the peak is small.
//!
//! First-fit is optimal for some order, so the search goes over orders: a few sorted ones, then every order when there are
//! few buffers, else a seeded local search that moves the buffers on top of the peak forwards. Both stop at the lower bound
//! (the largest live set). Everything is deterministic.

use picodream::rng::NoiseStream;

/// Every offset is a multiple of this.
pub const ALIGN: u32 = 16;

/// Up to this many buffers every order is tried.
const EXHAUSTIVE_LIMIT: usize = 7;

/// Orders that the local search tries.
const LOCAL_SEARCH_ORDERS: usize = 20_000;

/// Memory that is needed from op `first` to op `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Length; planned as the next multiple of [`ALIGN`].
    pub bytes: u32,
    /// First op.
    pub first: usize,
    /// Last op.
    pub last: usize,
}

impl Buffer {
    /// Length in the plan.
    #[must_use]
    pub fn padded(&self) -> u32 {
        self.bytes.next_multiple_of(ALIGN)
    }

    fn life(&self) -> u64 {
        (self.last - self.first + 1) as u64
    }

    /// Whether both live at some op.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where every buffer lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// First byte of each buffer.
    pub offsets: Vec<u32>,
    /// Bytes of the arena.
    pub peak: u32,
    /// The largest live set: no plan can be smaller.
    pub lower_bound: u32,
    /// The op with the largest live set.
    pub peak_op: usize,
}

/// The op with the largest live set and its bytes; (0, 0) without buffers.
#[must_use]
pub fn lower_bound(buffers: &[Buffer]) -> (usize, u32) {
    let ops = buffers.iter().map(|b| b.last + 1).max().unwrap_or(0);
    let live = |op: usize| buffers.iter().filter(|b| b.first <= op && op <= b.last).map(Buffer::padded).sum::<u32>();
    // The first of equals.
    (0..ops).map(|op| (op, live(op))).fold((0, 0), |best, now| if now.1 > best.1 { now } else { best })
}

/// Plans the arena.
#[must_use]
pub fn plan(buffers: &[Buffer]) -> Plan {
    let (peak_op, bound) = lower_bound(buffers);
    let mut search = Search::new(buffers, bound);
    for order in sorted_orders(buffers) {
        search.try_order(&order);
    }
    if buffers.len() <= EXHAUSTIVE_LIMIT {
        search.descend(&mut vec![None; buffers.len()], 0);
    } else {
        search.improve(sorted_orders(buffers));
    }
    Plan { offsets: search.best, peak: search.best_peak, lower_bound: bound, peak_op }
}

/// Orders that first-fit does well with: by size, by size · life, by life, by start.
fn sorted_orders(buffers: &[Buffer]) -> Vec<Vec<usize>> {
    let keys: [fn(&Buffer) -> u64; 4] = [
        |b| u64::from(b.bytes),
        |b| u64::from(b.bytes) * b.life(),
        |b| b.life() << 32 | u64::from(b.bytes),
        |b| u64::MAX - b.first as u64,
    ];
    let mut orders = Vec::new();
    for key in keys {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(key(&buffers[i])));
        orders.push(order);
    }
    orders
}

struct Search<'a> {
    buffers: &'a [Buffer],
    bound: u32,
    best: Vec<u32>,
    best_peak: u32,
}

impl<'a> Search<'a> {
    fn new(buffers: &'a [Buffer], bound: u32) -> Self {
        Self { buffers, bound, best: vec![0; buffers.len()], best_peak: u32::MAX }
    }

    /// Lowest offset of buffer `index` that avoids everything placed.
    fn first_fit(&self, index: usize, placed: &[Option<u32>]) -> u32 {
        let buffer = &self.buffers[index];
        let mut taken: Vec<(u32, u32)> = placed
            .iter()
            .zip(self.buffers)
            .filter(|(_, other)| buffer.meets(other))
            .filter_map(|(offset, other)| offset.map(|offset| (offset, offset + other.padded())))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + buffer.padded() <= start {
                break;
            }
            at = at.max(end);
        }
        at
    }

    /// Places everything in this order; returns the offsets and the peak.
    fn try_order(&mut self, order: &[usize]) -> (Vec<Option<u32>>, u32) {
        let mut placed = vec![None; self.buffers.len()];
        let mut peak = 0;
        for &index in order {
            let offset = self.first_fit(index, &placed);
            placed[index] = Some(offset);
            peak = peak.max(offset + self.buffers[index].padded());
        }
        self.keep(&placed, peak);
        (placed, peak)
    }

    fn keep(&mut self, placed: &[Option<u32>], peak: u32) {
        if peak < self.best_peak {
            self.best_peak = peak;
            self.best = placed.iter().map(|offset| offset.unwrap_or(0)).collect();
        }
    }

    /// Tries every order, cutting off where the peak so far is no better than the best.
    fn descend(&mut self, placed: &mut [Option<u32>], peak: u32) {
        if placed.iter().all(Option::is_some) {
            self.keep(placed, peak);
        }
        for index in 0..placed.len() {
            if placed[index].is_some() || self.best_peak == self.bound {
                continue;
            }
            let offset = self.first_fit(index, placed);
            let top = peak.max(offset + self.buffers[index].padded());
            if top < self.best_peak {
                placed[index] = Some(offset);
                self.descend(placed, top);
                placed[index] = None;
            }
        }
    }

    /// From each start in turn: moves a buffer that ends at the peak (or any, every fourth time) to an earlier place in the
    /// order, and stays there unless the peak grows.
    fn improve(&mut self, starts: Vec<Vec<usize>>) {
        let mut random = NoiseStream::new(0, 0);
        let rounds = LOCAL_SEARCH_ORDERS / starts.len();
        for mut order in starts {
            let (mut placed, mut peak) = self.try_order(&order);
            for round in 0..rounds {
                if self.best_peak == self.bound {
                    return;
                }
                let from = if round % 4 == 0 {
                    random.below(order.len() as u32) as usize
                } else {
                    self.topmost(&order, &placed, peak)
                };
                let to = random.below(from as u32 + 1) as usize;
                let mut moved = order.clone();
                let index = moved.remove(from);
                moved.insert(to, index);
                let (offsets, top) = self.try_order(&moved);
                if top <= peak {
                    (order, placed, peak) = (moved, offsets, top);
                }
            }
        }
    }

    /// Place in `order` of a buffer that ends at the peak.
    fn topmost(&self, order: &[usize], placed: &[Option<u32>], peak: u32) -> usize {
        let ends_there = |&index: &usize| placed[index].is_some_and(|at| at + self.buffers[index].padded() == peak);
        order.iter().position(ends_there).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(stream: &mut NoiseStream, count: u32, ops: u32) -> Vec<Buffer> {
        let mut below = |n| stream.below(n) as usize;
        (0..count)
            .map(|_| {
                let first = below(ops);
                Buffer { bytes: 1 + below(200) as u32, first, last: first + below(ops - first as u32) }
            })
            .collect()
    }

    fn assert_sound(buffers: &[Buffer], plan: &Plan) {
        for (i, a) in buffers.iter().enumerate() {
            assert_eq!(plan.offsets[i] % ALIGN, 0);
            assert!(plan.offsets[i] + a.padded() <= plan.peak);
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let apart =
                    plan.offsets[i] + a.padded() <= plan.offsets[j] || plan.offsets[j] + b.padded() <= plan.offsets[i];
                assert!(apart || !a.meets(b), "{i} and {j} overlap");
            }
        }
        assert!(plan.peak >= plan.lower_bound);
    }

    /// Smallest peak over every order and first-fit: the optimum.
    fn brute_force(search: &Search<'_>, placed: &mut Vec<Option<u32>>, peak: u32) -> u32 {
        let free: Vec<usize> = (0..placed.len()).filter(|&i| placed[i].is_none()).collect();
        let mut best = if free.is_empty() { peak } else { u32::MAX };
        for index in free {
            let offset = search.first_fit(index, placed);
            placed[index] = Some(offset);
            best = best.min(brute_force(search, placed, peak.max(offset + search.buffers[index].padded())));
            placed[index] = None;
        }
        best
    }

    #[test]
    fn small_plans_are_optimal() {
        let mut stream = NoiseStream::new(11, 0);
        for round in 0..60 {
            let buffers = random(&mut stream, 2 + round % 6, 6);
            let got = plan(&buffers);
            assert_sound(&buffers, &got);
            let search = Search::new(&buffers, got.lower_bound);
            assert_eq!(got.peak, brute_force(&search, &mut vec![None; buffers.len()], 0), "{buffers:?}");
        }
    }

    #[test]
    fn large_plans_are_sound_and_close_to_the_bound() {
        let mut stream = NoiseStream::new(12, 0);
        for _ in 0..5 {
            let buffers = random(&mut stream, 50, 40);
            let got = plan(&buffers);
            assert_sound(&buffers, &got);
            assert!(f64::from(got.peak) <= 1.15 * f64::from(got.lower_bound), "{} {}", got.peak, got.lower_bound);
            assert_eq!(got, plan(&buffers));
        }
    }

    #[test]
    fn nothing_needs_nothing() {
        assert_eq!(plan(&[]), Plan { offsets: vec![], peak: 0, lower_bound: 0, peak_op: 0 });
    }
}
