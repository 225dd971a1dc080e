//! emulate (stub).
