//! data (stub, replaced by its owner).
