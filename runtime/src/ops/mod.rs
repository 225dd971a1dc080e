//! The operators, one a file: everything between reading tensors and writing one.

mod attention;
mod conv;
mod feed;
mod finish;
mod narrow;
mod norm;
mod time_embed;

pub(crate) use attention::run as attention;
pub(crate) use conv::{Operands, run as conv};
pub(crate) use narrow::run as narrow;
pub(crate) use time_embed::run as time_embed;

use crate::blob::{Header, Model};
use crate::kernels;
use crate::math;
use crate::tensor::{Elements, i8s};

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

/// out\[o\] = [`math::dot`] of `x` and row o of `weight`.
fn dots(x: &[f32], weight: &[u8], out: &mut [f32]) {
    let weight = i8s(weight);
    if !kernels::dots(x, weight, out) {
        for (o, value) in out.iter_mut().enumerate() {
            *value = math::dot(x, &weight[o * x.len()..][..x.len()]);
        }
    }
}

/// A tensor that is read: memory of its own, or the memory that the output replaces bit by bit.
#[derive(Clone, Copy)]
enum Source<'a> {
    Own(Elements<'a>),
    Output,
}

impl<'a> Source<'a> {
    /// The elements, given those of the output.
    fn or<'s>(self, out: Elements<'s>) -> Elements<'s>
    where
        'a: 's,
    {
        match self {
            Self::Own(elements) => elements,
            Self::Output => out,
        }
    }
}
