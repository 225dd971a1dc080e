//! diff (stub).
