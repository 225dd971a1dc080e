//! Blobs with the biases of a few timesteps baked in: they draw what the whole network draws in these steps, in less flash, and
//! refuse all others in one sentence.

use super::{ExportOptions, Rules, Trajectories, export, timesteps_of};
use crate::checkpoint::Checkpoint;
use crate::config::{ImageConfig, UNetConfig};
use crate::diff::{Arena, DiffOptions, diff};
use crate::float::random;
use crate::inspect;
use picodream::blob::Op;
use picodream::{Config, Model, Pipeline, Progress};

const IMAGE: ImageConfig = ImageConfig { width: 8, height: 8, channels: 3 };

fn network(classes: usize) -> Checkpoint {
    let unet =
        UNetConfig { block_out_channels: vec![8, 16], attention_levels: vec![false; 2], ..UNetConfig::default() };
    random::checkpoint(random::config(IMAGE, unet, classes), 4)
}

fn blob(checkpoint: &Checkpoint, bake: &[u16]) -> Vec<u8> {
    // The very images that are compared, so that nothing clips; the rounding of 12-bit inputs hides nothing.
    let plain =
        Trajectories { images: 8, first_seed: 0, guidance: vec![1.0], steps: vec![4], ..Trajectories::default() };
    let bake = timesteps_of(&checkpoint.config, bake);
    let trajectories = plain.within(&checkpoint.config, &bake);
    let rules = Rules::default().with_input_bits(12);
    export(checkpoint, &ExportOptions { trajectories, rules, bake, ..ExportOptions::default() }).unwrap().bytes
}

/// x_0 of an image, or why there is none.
fn drawn(blob: &[u8], steps: u16, class: Option<u16>) -> Result<Vec<f32>, String> {
    let model = Model::parse(blob).unwrap();
    let mut arena = Arena::new(model.arena_bytes());
    let config = Config { steps, class, ..Config::new(3) };
    let mut pipeline = Pipeline::new(&model, arena.bytes(), config).map_err(|error| error.to_string())?;
    while pipeline.step() == Progress::Running {}
    Ok(pipeline.sample().to_vec())
}

#[test]
fn the_images_are_those_of_the_whole_network() {
    for classes in [0, 3] {
        let checkpoint = network(classes);
        let (whole, baked) = (blob(&checkpoint, &[]), blob(&checkpoint, &[4]));
        assert!(baked.len() + 5000 < whole.len(), "{} {}", baked.len(), whole.len());
        for (steps, class) in [(4, None), (4, (classes > 0).then_some(2)), (2, None), (1, None)] {
            let (want, got) = (drawn(&whole, steps, class).unwrap(), drawn(&baked, steps, class).unwrap());
            let power = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
            let error: Vec<f32> = want.iter().zip(&got).map(|(a, b)| a - b).collect();
            // Each is 34 dB or more from the float network at every step (below), and errs in its own way.
            let db = 10.0 * (power(&want) / power(&error)).log10();
            assert!(db > 30.0, "{classes} classes, {steps} steps of {class:?}: {db} dB");
        }
        let options = DiffOptions { steps: 4, count: 4, ..DiffOptions::default() };
        let [whole, baked] = [&whole, &baked]
            .map(|blob| diff(&Model::parse(blob).unwrap(), &checkpoint, &options).unwrap().worst_x0_sqnr_db());
        // 2 dB for scales that were chosen on one and two steps as well.
        assert!(whole > 34.0 && baked > whole - 2.0, "{whole} {baked}");
    }
}

#[test]
fn what_baking_gains_is_told_within_padding() {
    let checkpoint = network(3);
    let whole = blob(&checkpoint, &[]).len() as isize;
    for steps in [1, 4, 16] {
        let bake = timesteps_of(&checkpoint.config, &[steps]);
        let trajectories = Trajectories { images: 1, ..Trajectories::default() }.within(&checkpoint.config, &bake);
        let options = ExportOptions { trajectories, bake, ..ExportOptions::default() };
        let exported = export(&checkpoint, &options).unwrap();
        let [baked, embedding] = exported.report.baked_bytes.unwrap().map(|bytes| bytes as isize);
        let (told, true_difference) = (baked - embedding, exported.bytes.len() as isize - whole);
        // Arrays begin at multiples of 16: at most 15 bytes for each of the embedding's and each convolution's.
        let padding = 16 * (8 + exported.report.op_count as isize);
        assert!((told - true_difference).abs() < padding, "{steps} steps: {told}, truly {true_difference}");
        assert_eq!(told > 0, true_difference > 0);
    }
}

#[test]
fn other_steps_are_refused_with_the_timestep() {
    let baked = blob(&network(0), &[4]);
    let error = drawn(&baked, 3, None).unwrap_err();
    assert_eq!(error, "timestep 666 is not baked into the blob: take other steps");
    let report = inspect::report(&Model::parse(&baked).unwrap()).unwrap();
    assert_eq!(report.baked_timesteps, [999.0, 749.0, 499.0, 249.0]);
    assert_eq!((report.ops[0].algorithm, report.ops[0].macs), (Some("baked"), 0));
}

#[test]
fn a_table_that_does_not_fit_its_network_is_refused() {
    let baked = blob(&network(3), &[2]);
    let model = Model::parse(&baked).unwrap();
    let header = model.header().unwrap();
    assert!(model.ops(&header).next().is_some_and(|op| matches!(op, Op::TimeEmbed(op) if op.freq_dim == 0)));
    // Another number of classes: another number of rows.
    let mut other = baked.clone();
    other[26] = 5;
    picodream::blob::seal(&mut other);
    assert!(Model::parse(&other).is_err());
    // Without the marker: a time embedding of 16 biases has none of its constants.
    let mut unmarked = baked.clone();
    let record = header.sections[3].range().start;
    unmarked[record + 22] = 4;
    picodream::blob::seal(&mut unmarked);
    let error = Model::parse(&unmarked).unwrap_err().to_string();
    assert!(error.contains("time_embed") || error.contains("operator 0"), "{error}");
}
