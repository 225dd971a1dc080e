//! Why a blob is refused: one variant per broken promise, carrying the numbers a person needs.

use core::fmt;

/// Reason for refusing a blob. Nothing of a refused blob is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ParseError {
    /// Fewer bytes than the header, or than the header promises.
    Truncated {
        /// Bytes the blob must have.
        needed: u32,
        /// Bytes given.
        got: u32,
    },
    /// More bytes than the header promises.
    TrailingBytes {
        /// Bytes the header promises.
        expected: u32,
        /// Bytes given.
        got: u32,
    },
    /// The first four bytes are not `PDRM`.
    NotABlob,
    /// A format version that this runtime does not know.
    Version {
        /// Version found.
        found: u16,
        /// Version supported.
        supported: u16,
    },
    /// Stored and computed CRC-32 differ: the bytes were damaged.
    Checksum {
        /// In the header.
        stored: u32,
        /// Over the bytes.
        computed: u32,
    },
    /// A header field is outside its allowed range.
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// The sections do not tile the blob.
    Section {
        /// Index in the section table.
        index: u8,
    },
    /// A tensor record breaks a rule.
    Tensor {
        /// Index in the tensor table.
        index: u16,
        /// The rule.
        rule: &'static str,
    },
    /// An operator record breaks a rule.
    Op {
        /// Index in the operator list.
        index: u16,
        /// The rule.
        rule: &'static str,
    },
    /// Two tensors that are alive together share bytes of the arena.
    Overlap {
        /// Operator at which they meet.
        op: u16,
        /// One tensor.
        first: u16,
        /// The other tensor, or 65535 for the operator's scratch.
        second: u16,
    },
    /// A value of `alphas_cumprod` is outside 0..=1 or larger than the one before.
    Schedule {
        /// Timestep.
        timestep: u16,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { needed, got } => {
                write!(f, "blob is truncated: {needed} bytes needed, {got} given; copy or export it again")
            }
            Self::TrailingBytes { expected, got } => {
                write!(f, "blob has trailing bytes: {expected} expected, {got} given; copy or export it again")
            }
            Self::NotABlob => write!(f, "not a picodream blob: it does not begin with PDRM"),
            Self::Version { found, supported } => {
                write!(f, "blob has format version {found}, this runtime reads {supported}; export it again")
            }
            Self::Checksum { stored, computed } => {
                write!(
                    f,
                    "blob is damaged: checksum {stored:08x} stored, {computed:08x} computed; copy or export it again"
                )
            }
            Self::Header { field, value } => write!(f, "blob header: {field} is {value}, which is not allowed"),
            Self::Section { index } => write!(f, "blob section {index} does not tile the file"),
            Self::Tensor { index, rule } => write!(f, "blob tensor {index}: {rule}"),
            Self::Op { index, rule } => write!(f, "blob operator {index}: {rule}"),
            Self::Overlap { op, first, second: u16::MAX } => {
                write!(f, "blob plan: the scratch of operator {op} overlaps tensor {first}")
            }
            Self::Overlap { op, first, second } => {
                write!(f, "blob plan: tensors {first} and {second} overlap while both live at operator {op}")
            }
            Self::Schedule { timestep } => {
                write!(f, "blob schedule: alphas_cumprod at timestep {timestep} is not a falling value in 0..=1")
            }
        }
    }
}

impl core::error::Error for ParseError {}
