//! cli (stub, replaced by its owner).
