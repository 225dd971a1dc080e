//! CRC-32/ISO-HDLC, with its table in flash: as a local value it would take two kilobytes of stack.

/// The algorithm and its table.
pub(crate) static CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
