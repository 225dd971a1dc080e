//! The one buffer: a static, 16-byte aligned arena that is handed out once.

#![allow(unsafe_code)] // One of the two places of this crate; every block says why it is sound.

use core::cell::UnsafeCell;

/// Alignment that every arena has, in bytes.
pub const ARENA_ALIGN: usize = 16;

/// Static memory for one pipeline: `static ARENA: Arena<{ MODEL.arena_bytes() }> = Arena::new();`.
#[repr(C, align(16))]
pub struct Arena<const N: usize> {
    bytes: UnsafeCell<[u8; N]>,
    taken: Taken,
}

// SAFETY: the bytes are reached only through `take`, which hands them out at most once (see `Taken::first`).
unsafe impl<const N: usize> Sync for Arena<N> {}

impl<const N: usize> Arena<N> {
    /// Zeroed memory; a `static` of it lies in `.bss` and costs no flash.
    #[must_use]
    #[allow(clippy::new_without_default)] // A default arena outside a static would be a large value on the stack.
    pub const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; N]), taken: Taken::new() }
    }

    /// The memory, the first time; an empty slice afterwards, which a pipeline refuses as too small.
    #[must_use]
    #[allow(clippy::mut_from_ref)] // The one reference is made once: see the safety reason.
    pub fn take(&'static self) -> &'static mut [u8] {
        if !self.taken.first() {
            return &mut [];
        }
        // SAFETY: `first` returns true once in the life of this static, so this is the only reference ever made, and
        // `&'static self` keeps the memory alive.
        unsafe { &mut *self.bytes.get() }
    }
}

/// Remembers whether something happened, safely between interrupts and cores.
#[cfg(target_has_atomic = "8")]
struct Taken(core::sync::atomic::AtomicBool);

#[cfg(target_has_atomic = "8")]
impl Taken {
    const fn new() -> Self {
        Self(core::sync::atomic::AtomicBool::new(false))
    }

    fn first(&self) -> bool {
        !self.0.swap(true, core::sync::atomic::Ordering::AcqRel)
    }
}

/// Remembers whether something happened, safely between interrupts and cores.
#[cfg(not(target_has_atomic = "8"))]
struct Taken(core::cell::Cell<bool>);

#[cfg(not(target_has_atomic = "8"))]
impl Taken {
    const fn new() -> Self {
        Self(core::cell::Cell::new(false))
    }

    fn first(&self) -> bool {
        // The cell is touched only inside a critical section, so no two callers meet.
        critical_section::with(|_| !self.0.replace(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_once_and_aligned() {
        static ARENA: Arena<48> = Arena::new();
        let first = ARENA.take();
        assert_eq!(first.len(), 48);
        assert_eq!(first.as_ptr() as usize % ARENA_ALIGN, 0);
        assert!(ARENA.take().is_empty());
    }
}
