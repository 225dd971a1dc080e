//! The operators, one a file: everything between reading tensors and writing one.

mod attention;
mod conv;
mod norm;
mod time_embed;

pub(crate) use attention::run as attention;
pub(crate) use conv::{Operands, run as conv};
pub(crate) use time_embed::run as time_embed;

use crate::blob::{Header, Model};

/// What every operator is given besides its record: the blob, and the step's conditions.
#[derive(Clone, Copy)]
pub(crate) struct Context<'m> {
    pub(crate) model: Model<'m>,
    pub(crate) header: &'m Header,
    /// The timestep.
    pub(crate) timestep: f32,
    /// Row of the class table: a class, or `num_classes` for the null class.
    pub(crate) class: u16,
}
