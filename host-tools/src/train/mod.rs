//! train (stub, replaced by its owner).
