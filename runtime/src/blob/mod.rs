//! The weight blob: one flat file of header, texts, schedule, tensors, operators and constants. Read and written here only.
//!
//! [`Model`] is a borrowed blob whose front has been checked (that much works in `const`); [`Model::parse`] also runs the
//! whole validation pass. `docs/blob-format.md` is the byte table.

mod bytes;
mod error;
mod header;
mod layout;
mod nibbles;
mod ops;
mod packing;
mod tensors;
mod verify;

pub use bytes::align16;
pub use error::ParseError;
pub use header::{
    HEADER_BYTES, Header, MAX_ARENA_BYTES, MAX_BLOB_BYTES, NONE, PredictionType, Region, SECTION_COUNT, SectionKind,
    TextRef, VERSION, place_sections, seal,
};
pub use layout::{
    AttentionData, AttentionScratch, BLOCK_PIXELS, ConvData, ConvScratch, QUERY_PIXELS, STRIDED_ACC, STRIDED_PAIRS,
    TimeEmbedData, TimeEmbedScratch, WINOGRAD_ACC,
};
pub use nibbles::{GROUP_WORDS, group_bytes, group_of, nibble_bytes, pack_nibbles, unpack_nibbles};
pub use ops::{
    Algorithm, AttentionOp, ConvOp, NarrowOp, Norm, OP_RECORD_BYTES, Op, OpCommon, PerCall, TimeEmbedOp, WeightFormat,
};
pub use packing::{Expansion, PlainWeights, Transform, direct_bytes, phases_bytes, winograd_bytes};
pub use tensors::{DType, TENSOR_RECORD_BYTES, TensorRecord};

/// The blob in a file as part of the program, aligned as every core's kernels like it:
/// `const MODEL: Model = picodream::include_model!("faces.pdm");`. A broken front fails the build.
#[macro_export]
macro_rules! include_model {
    ($path:expr $(,)?) => {{
        #[repr(C, align(16))]
        struct Aligned<T: ?Sized>(T);
        const BLOB: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        $crate::Model::from_static(&BLOB.0)
    }};
}

/// A blob whose magic, version and length are right. [`Model::validate`] proves the rest.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    bytes: &'a [u8],
}

impl Model<'static> {
    /// A blob that is part of the program, for bytes at a multiple of 4 ([`include_model!`](crate::include_model)
    /// takes care of that).
    ///
    /// # Panics
    /// In `const` evaluation, that is, the build fails, when the bytes are not a blob of this version and length.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        match Header::check_front(bytes) {
            Ok(()) => Self { bytes },
            Err(ParseError::NotABlob) => panic!("not a picodream blob: it does not begin with PDRM"),
            Err(ParseError::Version { .. }) => panic!("the blob has another format version: export it again"),
            Err(ParseError::Truncated { .. }) => panic!("the blob is truncated: copy or export it again"),
            Err(_) => panic!("the blob's header is damaged: copy or export it again"),
        }
    }
}

impl<'a> Model<'a> {
    /// Checks every byte of a blob that arrives at run time.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        Header::check_front(bytes)?;
        let model = Self { bytes };
        model.validate()?;
        Ok(model)
    }

    /// The whole validation pass; returns the header it proved.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn validate(&self) -> Result<Header, ParseError> {
        verify::verify(self)
    }

    /// Bytes of the arena that a pipeline over this model needs, exactly.
    #[must_use]
    pub const fn arena_bytes(&self) -> usize {
        Header::arena_bytes_of(self.bytes) as usize
    }

    /// Bytes of one image of f32 samples: what each buffer of a sampler that keeps images takes beside the arena.
    #[must_use]
    pub const fn image_bytes(&self) -> usize {
        Header::image_bytes_of(self.bytes)
    }

    /// The blob itself.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The header; fails only for a blob that [`Model::validate`] refuses.
    ///
    /// # Errors
    /// The first header rule that the bytes break.
    pub fn header(&self) -> Result<Header, ParseError> {
        Header::read(self.bytes)
    }

    /// A string of the text section, empty when the reference is damaged.
    #[must_use]
    pub fn text(&self, header: &Header, text: TextRef) -> &'a str {
        self.text_of(header, text).unwrap_or("")
    }

    /// The operators in execution order; ends early at a record that [`Model::validate`] refuses.
    pub fn ops(&self, header: &Header) -> impl Iterator<Item = Op> {
        (0..header.op_count).map_while(move |index| self.read_op(header, index).ok())
    }

    /// The tensors; ends early at a record that [`Model::validate`] refuses.
    pub fn tensors(&self, header: &Header) -> impl Iterator<Item = TensorRecord> {
        (0..header.tensor_count).map_while(move |index| self.read_tensor(header, index).ok())
    }

    /// The constants of one operator: `array` of its piece. Empty when out of range.
    #[must_use]
    #[inline(never)]
    pub fn array(&self, header: &Header, op: &OpCommon, array: Region) -> &'a [u8] {
        let region = self.data_region(header, op.data, array);
        self.bytes.get(region.range()).unwrap_or(&[])
    }

    /// `alphas_cumprod`, f32 little-endian per timestep.
    #[must_use]
    pub fn alphas_cumprod(&self, header: &Header) -> &'a [u8] {
        self.schedule(header).0
    }

    /// The only timesteps that the network knows, f32 little-endian, noisiest first, when their biases are baked into the
    /// convolutions; empty when it knows all.
    #[must_use]
    pub fn baked_timesteps(&self, header: &Header) -> &'a [u8] {
        self.schedule(header).1
    }

    fn schedule(&self, header: &Header) -> (&'a [u8], &'a [u8]) {
        let section = self.bytes.get(header.sections[SectionKind::Schedule as usize].range());
        let alphas_bytes = 4 * usize::from(header.num_train_timesteps);
        section.and_then(|section| section.split_at_checked(alphas_bytes)).unwrap_or((&[], &[]))
    }

    fn text_of(&self, header: &Header, text: TextRef) -> Option<&'a str> {
        let section = self.bytes.get(header.sections[SectionKind::Text as usize].range())?;
        let start = usize::from(text.offset);
        core::str::from_utf8(section.get(start..start + usize::from(text.bytes))?).ok()
    }

    fn record(&self, header: &Header, section: SectionKind, index: u16, record_bytes: usize) -> &'a [u8] {
        let start = header.sections[section as usize].offset as usize + usize::from(index) * record_bytes;
        self.bytes.get(start..start + record_bytes).unwrap_or(&[])
    }

    /// Tensor `index`; fails only for a blob that [`Model::validate`] refuses.
    #[inline(never)]
    pub(crate) fn read_tensor(&self, header: &Header, index: u16) -> Result<TensorRecord, ParseError> {
        let record = self.record(header, SectionKind::Tensors, index, TENSOR_RECORD_BYTES);
        TensorRecord::read(record).map_err(|rule| ParseError::Tensor { index, rule })
    }

    /// Operator `index`; fails only for a blob that [`Model::validate`] refuses.
    #[inline(never)]
    pub(crate) fn read_op(&self, header: &Header, index: u16) -> Result<Op, ParseError> {
        let record = self.record(header, SectionKind::Ops, index, OP_RECORD_BYTES);
        Op::read(record).map_err(|rule| ParseError::Op { index, rule })
    }

    /// `array` of `piece` of the data section as a range of the blob; saturates, and then lies outside.
    fn data_region(&self, header: &Header, piece: Region, array: Region) -> Region {
        let section = header.sections[SectionKind::Data as usize].offset;
        Region { offset: section.saturating_add(piece.offset).saturating_add(array.offset), bytes: array.bytes }
    }

    /// Element `index` of an f32 array at `region` of the blob; NaN when out of range.
    fn f32_of(&self, region: Region, index: u32) -> f32 {
        let at = region.offset as usize + index as usize * 4;
        match self.bytes.get(at..at + 4) {
            Some(&[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => f32::NAN,
        }
    }
}
