//! What each op's rounding does to finished images: the float network draws them with that one op in int8.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use picodream::spacing::AnySpacing;
use picodream::{Config, UNet};

use super::operands::LoneOp;
use super::psnr;
use crate::float::{FloatPipeline, OpCall};
use crate::picture::LIMIT_DB;
use crate::sampling::{SamplerChoice, available_threads};

/// PSNR over all pixels of the images of `configs`, for each op; `done` is called after each op.
pub(super) fn of_each_op(
    unet: UNet<'_>,
    float: &FloatPipeline,
    configs: &[Config<SamplerChoice, AnySpacing>],
    done: &mut (impl FnMut() + Send),
) -> Result<Vec<f64>> {
    let reference = configs.iter().map(|config| float.run(config)).collect::<Result<Vec<_>>>()?.concat();
    let ops = float.net().graph().ops.len();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(done));
    let work = || -> Result<Vec<(usize, f64)>> {
        let mut lone = LoneOp::new(unet, float.net().graph());
        let mut damage = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= ops {
                return Ok(damage);
            }
            damage.push((index, of_op(index, &mut lone, float, configs, &reference)?));
            if let Ok(mut done) = done.lock() {
                done();
            }
        }
    };
    let mut damage = vec![LIMIT_DB; ops];
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..available_threads().clamp(1, ops)).map(|_| scope.spawn(work)).collect();
        let joined =
            others.into_iter().map(|other| other.join().map_err(|_| anyhow!("a comparing thread stopped early"))?);
        // This thread's share first: it must be done before the others are waited for.
        for share in [work()].into_iter().chain(joined) {
            share?.into_iter().for_each(|(index, psnr)| damage[index] = psnr);
        }
        Ok(damage)
    })
}

/// PSNR of the images with op `index` in int8.
fn of_op(
    index: usize,
    lone: &mut LoneOp<'_, '_>,
    float: &FloatPipeline,
    configs: &[Config<SamplerChoice, AnySpacing>],
    reference: &[f32],
) -> Result<f64> {
    let mut images = Vec::with_capacity(reference.len());
    for config in configs {
        images.extend(float.run_replacing(config, &mut |call: &OpCall<'_>, result| {
            if call.index == index {
                // Row `num_classes` of the class table is the null class.
                let class = call.class.unwrap_or(float.net().graph().num_classes) as u16;
                result.copy_from_slice(&lone.run(index, (call.timestep, class), |id| &call.values[id]));
            }
        })?);
    }
    Ok(psnr(float, reference, &images))
}
