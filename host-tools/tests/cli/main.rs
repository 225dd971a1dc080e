//! The real binary, as a person or a script runs it: help, JSON, files, and one sentence for everything that is wrong.

mod drawing;
mod harness;
mod quantising;
mod refused;
mod verbs;
