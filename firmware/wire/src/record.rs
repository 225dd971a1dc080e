//! What happened: records of eight words (tag, length of the tail, six numbers) and a tail of bytes.

use crate::{NO_CLASS, WireError, class_of, high, joined, low, words};

const HEAD_WORDS: usize = 8;
const HEAD_BYTES: usize = 4 * HEAD_WORDS;

const STARTED: u32 = 1;
const STEP: u32 = 2;
const IMAGE: u32 = 3;
const FINISHED: u32 = 4;
const REFUSED: u32 = 5;
const PIXELS: u32 = 6;
const OP: u32 = 7;
const YARDSTICK: u32 = 8;
const CHECKED: u32 = 9;
const INTEGER: u32 = 10;

/// One message of the firmware, in the order they come: Started, then per image its Steps, its Pixels in pieces and the
/// Image that ends it, then Finished; or Refused as the last. A firmware that measures sends, between Started and Finished,
/// a Yardstick, a Step and the Ops of a network call (some with their Integer part before them); one that checks its kernels sends Checked, or Refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The model was accepted and the first image begins.
    Started {
        /// CRC-32 of the blob, as the board read it.
        blob_crc32: u32,
        /// Bytes of arena that the pipeline was given and needs.
        arena_bytes: u32,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// 1 (grey) or 3 (RGB).
        channels: u32,
        /// Name of the integer kernels that run.
        backend: &'a str,
        /// Name of the model.
        name: &'a str,
    },
    /// One denoising step is done.
    Step {
        /// Instructions that it took.
        instructions: u64,
    },
    /// One operator of a network call is done.
    Op {
        /// Its place in the operator list.
        index: u32,
        /// Instructions that it took.
        instructions: u64,
    },
    /// The integer part of a convolution, by itself.
    Integer {
        /// Its place in the operator list.
        index: u32,
        /// Instructions of its row feed.
        feed: u64,
        /// Instructions of its products and sums.
        products: u64,
    },
    /// The counter was held against a loop of known length.
    Yardstick {
        /// Instructions of the loop, from its code.
        known: u64,
        /// Instructions that were counted.
        counted: u64,
    },
    /// The next bytes of an image: Gray8 or RGB888, row by row.
    Pixels(&'a [u8]),
    /// One image is done.
    Image {
        /// Its seed.
        seed: u64,
        /// Its class.
        class: Option<u16>,
        /// CRC-32/ISO-HDLC of its pixels, computed on the board.
        crc32: u32,
    },
    /// All images are done.
    Finished {
        /// Most bytes of stack that were ever in use since reset.
        stack_peak_bytes: u32,
    },
    /// The kernels agree with the portable ones.
    Checked {
        /// Name of the kernels.
        backend: &'a str,
        /// How many cases were compared.
        cases: u32,
    },
    /// The work was refused, with the reason in words.
    Refused(&'a str),
}

impl Record<'_> {
    /// Hands the record to `sink`, in pieces.
    pub fn emit(&self, sink: &mut impl FnMut(&[u8])) {
        let none: &[u8] = &[];
        match *self {
            Self::Started { blob_crc32, arena_bytes, width, height, channels, backend, name } => {
                let size = width | height << 16;
                let numbers = [blob_crc32, arena_bytes, size, channels, backend.len() as u32, 0];
                frame(STARTED, numbers, backend.as_bytes(), name.as_bytes(), sink);
            }
            Self::Step { instructions: n } => frame(STEP, [low(n), high(n), 0, 0, 0, 0], none, none, sink),
            Self::Op { index, instructions: n } => frame(OP, [low(n), high(n), index, 0, 0, 0], none, none, sink),
            Self::Integer { index, feed, products } => {
                let numbers = [low(feed), high(feed), low(products), high(products), index, 0];
                frame(INTEGER, numbers, none, none, sink);
            }
            Self::Yardstick { known, counted } => {
                let numbers = [low(known), high(known), low(counted), high(counted), 0, 0];
                frame(YARDSTICK, numbers, none, none, sink);
            }
            Self::Pixels(pixels) => frame(PIXELS, [0; 6], pixels, none, sink),
            Self::Image { seed, class, crc32 } => {
                let class = class.map_or(NO_CLASS, u32::from);
                frame(IMAGE, [low(seed), high(seed), crc32, class, 0, 0], none, none, sink);
            }
            Self::Finished { stack_peak_bytes } => {
                frame(FINISHED, [stack_peak_bytes, 0, 0, 0, 0, 0], none, none, sink);
            }
            Self::Checked { backend, cases } => frame(CHECKED, [cases, 0, 0, 0, 0, 0], backend.as_bytes(), none, sink),
            Self::Refused(reason) => frame(REFUSED, [0; 6], reason.as_bytes(), none, sink),
        }
    }
}

fn frame(tag: u32, numbers: [u32; 6], tail: &[u8], more: &[u8], sink: &mut impl FnMut(&[u8])) {
    let [a, b, c, d, e, f] = numbers;
    let mut head = [0; HEAD_BYTES];
    let words: [u32; HEAD_WORDS] = [tag, (tail.len() + more.len()) as u32, a, b, c, d, e, f];
    for (chunk, word) in head.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
    sink(&head);
    for piece in [tail, more] {
        if !piece.is_empty() {
            sink(piece);
        }
    }
}

/// The records in a run of bytes. What the board is still writing shows as one [`WireError::Truncated`] at the end.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// From the first byte that the board sent.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn parse_next(&mut self) -> Result<Record<'a>, WireError> {
        let [tag, tail_bytes, a, b, c, d, e, _] = words::<HEAD_WORDS>(self.rest)?;
        let after = &self.rest[HEAD_BYTES..];
        let tail = after.get(..tail_bytes as usize).ok_or(WireError::Truncated(tail_bytes, after.len() as u32))?;
        self.rest = &after[tail.len()..];
        Ok(match tag {
            STARTED => {
                let (backend, name) = tail.split_at_checked(e as usize).ok_or(WireError::BadValue(e))?;
                Record::Started {
                    blob_crc32: a,
                    arena_bytes: b,
                    width: c & 0xffff,
                    height: c >> 16,
                    channels: d,
                    backend: text(backend)?,
                    name: text(name)?,
                }
            }
            STEP => Record::Step { instructions: joined(a, b) },
            OP => Record::Op { index: c, instructions: joined(a, b) },
            INTEGER => Record::Integer { index: e, feed: joined(a, b), products: joined(c, d) },
            YARDSTICK => Record::Yardstick { known: joined(a, b), counted: joined(c, d) },
            PIXELS => Record::Pixels(tail),
            IMAGE => Record::Image { seed: joined(a, b), class: class_of(d)?, crc32: c },
            FINISHED => Record::Finished { stack_peak_bytes: a },
            CHECKED => Record::Checked { backend: text(tail)?, cases: a },
            REFUSED => Record::Refused(text(tail)?),
            other => return Err(WireError::BadValue(other)),
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.parse_next();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    core::str::from_utf8(bytes).map_err(|_| WireError::BadText)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const STORY: [Record; 10] = [
        Record::Started {
            blob_crc32: 0xdead_beef,
            arena_bytes: 40_000,
            width: 16,
            height: 28,
            channels: 3,
            backend: "portable",
            name: "faces-16",
        },
        Record::Step { instructions: 0x1_0000_0002 },
        Record::Op { index: 5, instructions: 0x3_0000_0004 },
        Record::Integer { index: 6, feed: 0x9_0000_000a, products: 0xb_0000_000c },
        Record::Yardstick { known: 0x5_0000_0006, counted: 0x7_0000_0008 },
        Record::Pixels(&[1, 2, 3]),
        Record::Image { seed: u64::MAX, class: Some(2), crc32: 7 },
        Record::Finished { stack_peak_bytes: 1234 },
        Record::Refused("too small"),
        Record::Checked { backend: "cortex-m-dsp", cases: 8 },
    ];

    fn emitted(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            record.emit(&mut |piece| bytes.extend_from_slice(piece));
        }
        bytes
    }

    #[test]
    fn come_back_as_they_went() {
        let bytes = emitted(&STORY);
        let back: Result<Vec<_>, _> = Records::new(&bytes).collect();
        assert_eq!(back.as_deref(), Ok(&STORY[..]));
    }

    #[test]
    fn every_cut_ends_in_whole_records_and_at_most_one_error() {
        let bytes = emitted(&STORY);
        for cut in 0..bytes.len() {
            let got: Vec<_> = Records::new(&bytes[..cut]).collect();
            let whole = got.iter().take_while(|r| r.is_ok()).count();
            assert!(got.len() <= whole + 1, "cut at {cut}");
            assert!(got[..whole].iter().zip(&STORY).all(|(a, b)| *a == Ok(*b)), "cut at {cut}");
            assert!(whole < STORY.len(), "cut at {cut}");
        }
    }

    #[test]
    fn refuses_what_is_no_record() {
        let mut unknown = emitted(&STORY[1..2]);
        unknown[0] = 99;
        assert_eq!(Records::new(&unknown).next(), Some(Err(WireError::BadValue(99))));
        let mut started = emitted(&STORY[..1]);
        started[24] = 200; // the backend's name longer than the tail
        assert_eq!(Records::new(&started).next(), Some(Err(WireError::BadValue(200))));
        let mut refused = emitted(&STORY[8..9]);
        refused[HEAD_BYTES] = 0xff;
        assert_eq!(Records::new(&refused).next(), Some(Err(WireError::BadText)));
    }
}
