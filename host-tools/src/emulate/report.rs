//! The board's records put together and checked: every image whole, its checksum the one of the bytes that arrived.

use anyhow::{Result, bail, ensure};
use picodream_wire::{Record, Records};

/// A complete report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Name of the model.
    pub name: String,
    /// Name of the kernels.
    pub backend: String,
    /// CRC-32 of the blob.
    pub blob_crc32: u32,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// 1 or 3.
    pub channels: u32,
    /// Steps of all images.
    pub steps: u32,
    /// Instructions of all steps.
    pub instructions: u64,
    /// High-water mark of the stack.
    pub stack_peak_bytes: u32,
    /// The images in the order they were drawn.
    pub images: Vec<ReportImage>,
    finished: bool,
}

/// One image of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportImage {
    /// Seed.
    pub seed: u64,
    /// Class.
    pub class: Option<u16>,
    /// Checksum of `pixels`.
    pub crc32: u32,
    /// `height · width · channels` bytes.
    pub pixels: Vec<u8>,
}

impl Report {
    /// Reads a whole report.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut report = Self::default();
        let mut pixels = Vec::new();
        for record in Records::new(bytes) {
            report.add(record?, &mut pixels)?;
        }
        ensure!(report.finished, "the report ends after {} images and {} steps", report.images.len(), report.steps);
        Ok(report)
    }

    fn add(&mut self, record: Record, pixels: &mut Vec<u8>) -> Result<()> {
        match record {
            Record::Started { blob_crc32, arena_bytes, width, height, channels, backend, name } => {
                (self.name, self.backend) = (name.to_owned(), backend.to_owned());
                (self.blob_crc32, self.arena_bytes) = (blob_crc32, arena_bytes);
                (self.width, self.height, self.channels) = (width, height, channels);
            }
            Record::Step { instructions } => {
                self.steps += 1;
                self.instructions += instructions;
            }
            // What a firmware that measures says; `bench` reads it.
            Record::Op { .. } | Record::Integer { .. } | Record::Yardstick { .. } | Record::Checked { .. } => {}
            Record::Pixels(piece) => pixels.extend_from_slice(piece),
            Record::Image { seed, class, crc32 } => {
                let pixels = std::mem::take(pixels);
                let expected = u64::from(self.width) * u64::from(self.height) * u64::from(self.channels);
                ensure!(pixels.len() as u64 == expected, "seed {seed}: {} bytes of {expected} arrived", pixels.len());
                let arrived = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&pixels);
                ensure!(arrived == crc32, "seed {seed}: the board computed {crc32:08x}, but {arrived:08x} arrived");
                self.images.push(ReportImage { seed, class, crc32, pixels });
            }
            Record::Finished { stack_peak_bytes } => {
                self.stack_peak_bytes = stack_peak_bytes;
                self.finished = true;
            }
            Record::Refused(reason) => bail!("the board refused: {reason}"),
        }
        Ok(())
    }
}

/// Steps that a report, perhaps still being written, tells of.
pub fn steps_done(bytes: &[u8]) -> u64 {
    Records::new(bytes).filter(|record| matches!(record, Ok(Record::Step { .. }))).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: Record = Record::Started {
        blob_crc32: 1,
        arena_bytes: 2,
        width: 3,
        height: 1,
        channels: 1,
        backend: "portable",
        name: "tiny",
    };
    /// CRC-32/ISO-HDLC of 1, 2, 3, by Python's `zlib.crc32(bytes([1, 2, 3]))`.
    const CRC: u32 = 0x55bc_801d;

    fn emitted(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            record.emit(&mut |piece| bytes.extend_from_slice(piece));
        }
        bytes
    }

    fn story(pixels: &'static [u8], crc32: u32) -> Vec<u8> {
        let step = Record::Step { instructions: 40 };
        let (a, b) = pixels.split_at(1);
        let (a, b) = (Record::Pixels(a), Record::Pixels(b));
        emitted(&[
            STARTED,
            step,
            step,
            a,
            b,
            Record::Image { seed: 9, class: Some(4), crc32 },
            Record::Finished { stack_peak_bytes: 5 },
        ])
    }

    #[test]
    fn puts_the_pieces_together() {
        let report = Report::read(&story(&[1, 2, 3], CRC)).unwrap();
        assert_eq!(report.images, [ReportImage { seed: 9, class: Some(4), crc32: CRC, pixels: vec![1, 2, 3] }]);
        assert_eq!((report.steps, report.instructions, report.stack_peak_bytes), (2, 80, 5));
        assert_eq!(steps_done(&story(&[1, 2, 3], CRC)), 2);
    }

    #[test]
    fn refuses_what_did_not_arrive_whole() {
        let whole = story(&[1, 2, 3], CRC);
        for cut in 0..whole.len() {
            assert!(Report::read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for (bytes, word) in [
            (story(&[1, 2, 4], CRC), "55bc801d"),
            (story(&[1, 2], CRC), "2 bytes of 3"),
            (emitted(&[Record::Refused("arena is too small")]), "arena is too small"),
        ] {
            let error = Report::read(&bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
