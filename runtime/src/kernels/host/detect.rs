//! What this processor can do, asked once: `no_std` has no feature detection of its own.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use core::sync::atomic::{AtomicU8, Ordering};

/// Sets of instructions that the loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Level {
    /// What every x86-64 has.
    Baseline = 1,
    /// AVX2 and F16C.
    Avx2 = 2,
    /// AVX-512 F, BW, VL and VNNI, and all of the above.
    Avx512 = 3,
}

/// The best level of this processor and its operating system.
#[inline]
pub(super) fn level() -> Level {
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    // Relaxed: whoever finds nothing here finds out for itself, and all find the same.
    match KNOWN.load(Ordering::Relaxed) {
        1 => Level::Baseline,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let level = ask();
            KNOWN.store(level as u8, Ordering::Relaxed);
            level
        }
    }
}

#[cold]
fn ask() -> Level {
    const OSXSAVE_AVX_F16C: u32 = 1 << 27 | 1 << 28 | 1 << 29;
    const AVX2: u32 = 1 << 5;
    const AVX512_F_BW_VL: u32 = 1 << 16 | 1 << 30 | 1 << 31;
    const AVX512_VNNI: u32 = 1 << 11;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE_AVX_F16C != OSXSAVE_AVX_F16C {
        return Level::Baseline;
    }
    let saved = saved_registers();
    let features = __cpuid_count(7, 0);
    // The operating system saves SSE and AVX registers (bits 1, 2), and for AVX-512 also bits 5 to 7.
    if features.ebx & AVX2 == 0 || saved & 0x06 != 0x06 {
        return Level::Baseline;
    }
    let avx512 = features.ebx & AVX512_F_BW_VL == AVX512_F_BW_VL && features.ecx & AVX512_VNNI != 0;
    if avx512 && saved & 0xe6 == 0xe6 { Level::Avx512 } else { Level::Avx2 }
}

/// The register sets that the operating system saves.
fn saved_registers() -> u64 {
    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: reading register 0 is allowed to every program where OSXSAVE is set, which the caller checked.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE says that the processor has XGETBV and the operating system allows it.
    unsafe { xcr0() }
}
