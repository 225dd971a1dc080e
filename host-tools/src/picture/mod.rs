//! picture (stub, replaced by its owner).
