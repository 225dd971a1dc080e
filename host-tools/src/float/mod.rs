//! float (stub, replaced by its owner).
