//! export (stub, replaced by its owner).
