//! Picture → noise → picture: DDIM backwards and forwards over the same levels, with either engine.

use anyhow::{Result, anyhow};
use picodream::edit::{self, Drawing};
use picodream::sampler::DdimInversion;
use picodream::spacing::AnySpacing;
use picodream::{Config, Ddim, Image, Pipeline, Progress};

use crate::diff::Arena;
use crate::picture::psnr_db;
use crate::sampling::Network;

/// How to invert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inversion {
    /// Steps of each way, 1..=T.
    pub steps: u16,
    /// Network calls a step on the way to the noise, 1..=50.
    pub calls: u16,
    /// Class of the picture, or `None` for the null class.
    pub class: Option<u16>,
    /// Which levels of noise are visited.
    pub spacing: AnySpacing,
}

/// A picture that went to its noise and came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Inverted {
    /// x_T: what DDIM makes the picture of, height · width · channels.
    pub noise: Vec<f32>,
    /// The noise as pixels.
    pub noise_pixels: Vec<u8>,
    /// The picture that DDIM draws from it.
    pub pixels: Vec<u8>,
    /// PSNR of `pixels` against the picture.
    pub psnr_db: f64,
    /// Network calls of both ways.
    pub network_calls: u32,
}

/// Takes a picture (height · width · channels bytes) to its noise and back; `on_step` is called after each of the 2 · `steps`
/// steps.
///
/// Fails when a setting or the picture's size is refused; one sentence each.
pub fn there_and_back(
    network: &Network<'_>,
    picture: &[u8],
    inversion: &Inversion,
    on_step: impl Fn(),
) -> Result<Inverted> {
    let Inversion { steps, calls, class, spacing } = *inversion;
    // Clipped estimates cannot be turned back.
    let up = Config::with_spacing(0, DdimInversion { calls }, spacing);
    let up = Config { steps, class, clip_sample: false, ..up };
    let down = Config { steps, class, clip_sample: false, ..Config::with_spacing(0, Ddim::default(), spacing) };
    let (noise, back) = match network {
        Network::F32(pipeline) => {
            let noise = noised(&mut pipeline.begin(&up)?, picture, &on_step)?;
            let back = drawn(&mut pipeline.begin(&down)?, &noise.sample, &on_step);
            (noise, back)
        }
        Network::Int8(model) => {
            let mut arena = Arena::new(Config::<DdimInversion>::arena_bytes(model));
            let refused = |error| anyhow!("{error}");
            let mut noising = Pipeline::new(model, arena.bytes(), up).map_err(refused)?;
            let noise = noised(&mut noising, picture, &on_step)?;
            let mut drawing = Pipeline::new(model, arena.bytes(), down).map_err(refused)?;
            let back = drawn(&mut drawing, &noise.sample, &on_step);
            (noise, back)
        }
    };
    Ok(Inverted {
        psnr_db: psnr_db(picture, &back.pixels),
        noise: noise.sample,
        noise_pixels: noise.pixels,
        pixels: back.pixels,
        network_calls: noise.calls + back.calls,
    })
}

/// One way's end.
struct Way {
    sample: Vec<f32>,
    pixels: Vec<u8>,
    calls: u32,
}

fn noised(drawing: &mut impl Drawing, picture: &[u8], on_step: &impl Fn()) -> Result<Way> {
    edit::invert(drawing, picture).map_err(|error| anyhow!("{error}"))?;
    Ok(walked(drawing, on_step))
}

fn drawn(drawing: &mut impl Drawing, noise: &[f32], on_step: &impl Fn()) -> Way {
    drawing.begin_at(0, |_, sample| sample.copy_from_slice(noise));
    walked(drawing, on_step)
}

fn walked(drawing: &mut impl Drawing, on_step: &impl Fn()) -> Way {
    loop {
        let progress = drawing.advance_step();
        on_step();
        if progress == Progress::Done {
            break;
        }
    }
    let (mut sample, mut pixels) = (Vec::new(), Vec::new());
    drawing.change(|info, x| {
        sample = x.to_vec();
        // Only the order of the pixels matters here, not their rows.
        let shape = (1, info.pixels as u16, info.channels[0] as u8);
        pixels = Image::new(x, shape, info.pixel_scale, info.pixel_offset).bytes().collect();
    });
    Way { sample, pixels, calls: drawing.walk().calls() }
}
