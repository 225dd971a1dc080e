//! How much flash a firmware takes: the bytes of its ELF segments that are loaded.
//!
//! Only 32-bit little-endian ELF, which is what every Cortex-M firmware is.

use anyhow::{Context, Result, ensure};

/// `PT_LOAD`: a segment that goes onto the chip.
const LOAD: u32 = 1;

/// Bytes of all loaded segments as they lie in the file: vectors, code, constants, blob and initial values of statics.
pub fn flash_bytes(elf: &[u8]) -> Result<u64> {
    ensure!(elf.starts_with(b"\x7fELF\x01\x01"), "the firmware is not a 32-bit little-endian ELF file");
    // Elf32_Ehdr: e_phoff at 28, e_phentsize at 42, e_phnum at 44. Elf32_Phdr: p_type at 0, p_filesz at 16.
    let (table, entry, count) = (word(elf, 28)?, half(elf, 42)?, half(elf, 44)?);
    let mut total = 0;
    for index in 0..usize::from(count) {
        let at = table as usize + index * usize::from(entry);
        if word(elf, at)? == LOAD {
            total += u64::from(word(elf, at + 16)?);
        }
    }
    Ok(total)
}

fn word(elf: &[u8], at: usize) -> Result<u32> {
    let bytes = elf.get(at..).and_then(|rest| rest.first_chunk()).context("the firmware's ELF file is cut short")?;
    Ok(u32::from_le_bytes(*bytes))
}

fn half(elf: &[u8], at: usize) -> Result<u16> {
    Ok(word(elf, at)? as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of 52 header bytes and segments (type, bytes in the file).
    fn elf(segments: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 52];
        bytes[..6].copy_from_slice(b"\x7fELF\x01\x01");
        bytes[28] = 52;
        bytes[42] = 32;
        bytes[44] = segments.len() as u8;
        for (kind, size) in segments {
            let mut segment = [0; 32];
            segment[..4].copy_from_slice(&kind.to_le_bytes());
            segment[16..20].copy_from_slice(&size.to_le_bytes());
            bytes.extend(segment);
        }
        bytes
    }

    #[test]
    fn adds_up_loaded_segments_only() {
        assert_eq!(flash_bytes(&elf(&[(1, 1000), (6, 99), (1, 70_000)])).unwrap(), 71_000);
    }

    #[test]
    fn refuses_other_files() {
        assert!(flash_bytes(b"#!/bin/sh").unwrap_err().to_string().contains("not a 32-bit"));
        assert!(flash_bytes(&elf(&[(1, 1000)])[..60]).unwrap_err().to_string().contains("cut short"));
    }
}
