//! Random numbers for the cases, and the comparison of what two loops left.

use picodream::rng::NoiseStream;

/// Memory as the arena and a blob have it: 16-byte aligned.
#[repr(align(16))]
pub struct Aligned<T, const N: usize>(pub [T; N]);

/// The numbers of one case.
pub struct Chance {
    stream: NoiseStream,
    /// Only the ends of every range.
    extreme: bool,
}

impl Chance {
    /// Each loop has a seed, each case a stream; every third case holds extremes only.
    pub fn new(seed: u64, case: u64) -> Self {
        Self { stream: NoiseStream::new(seed, case), extreme: case % 3 == 1 }
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        self.stream.below(n as u32) as usize
    }

    /// True once in n times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// 32 uniform bits.
    pub fn bits(&mut self) -> u32 {
        self.stream.next_u32()
    }

    /// In −limit..limit; in an extreme case the ends and, now and then, zero.
    pub fn within(&mut self, limit: i32) -> i32 {
        if self.extreme {
            return [-limit, limit - 1, -limit, limit - 1, 0][self.below(5)];
        }
        self.stream.below(2 * limit as u32) as i32 - limit
    }

    /// A float of either sign around 2^exponent.
    pub fn float(&mut self, exponent: i32) -> f32 {
        let size = self.below(16) as i32 - 8 + exponent;
        let x = f32::from_bits(((size + 127) as u32) << 23 | self.bits() >> 9);
        if self.one_in(2) { -x } else { x }
    }
}

/// The first place where two outputs differ.
pub fn compare<T: PartialEq>(got: &[T], want: &[T]) -> Result<(), usize> {
    match got.iter().zip(want).position(|(got, want)| got != want) {
        None => Ok(()),
        Some(at) => Err(at),
    }
}
