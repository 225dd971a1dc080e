//! checkpoint (stub).
