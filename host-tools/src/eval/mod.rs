//! eval (stub, replaced by its owner).
