//! Editing on the shipped models, with both engines: known pixels stay, a picture comes back from its noise, and every bad
//! setting is refused at set-up in one sentence.

use std::path::Path;

use std::cell::Cell;

use picodream::edit::{Drawing, EditError, Inpainting, between_seeds, image_to_image};
use picodream::sampler::{Adaptive, DpmSolverPp, Heun, Langevin, PredictorCorrector, UniPc};
use picodream::spacing::{AnySpacing, Timesteps, Trailing};
use picodream::{Config, Ddim, Ddpm, Model, Pipeline, Progress, Sampler, Spacing};
use picodream_tools::checkpoint::Checkpoint;
use picodream_tools::config::ImageConfig;
use picodream_tools::data;
use picodream_tools::float::FloatPipeline;
use picodream_tools::inversion::{Inversion, there_and_back};
use picodream_tools::picture::psnr_db;
use picodream_tools::sampling::Network;

const GREY: ImageConfig = ImageConfig { width: 16, height: 16, channels: 1 };
const COLOUR: ImageConfig = ImageConfig { channels: 3, ..GREY };

fn model_file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)).unwrap()
}

fn float(name: &str) -> FloatPipeline {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name).with_extension("safetensors");
    FloatPipeline::new(&Checkpoint::load(&path).unwrap()).unwrap()
}

/// Real pictures that the model has not seen.
fn pictures(source: &str, image: ImageConfig, count: usize) -> Vec<Vec<u8>> {
    let data = data::load_test(source, image).unwrap();
    (0..count).map(|i| data.image(i * 7).to_vec()).collect()
}

/// An arena of exactly the bytes that this pipeline needs.
struct Memory(Vec<u8>, usize, usize);

impl Memory {
    fn of<S: Sampler, P>(model: &Model<'_>, _: &Config<S, P>) -> Self {
        let bytes = Config::<S, P>::arena_bytes(model);
        let memory = vec![0; bytes + 15];
        let start = memory.as_ptr().align_offset(16).min(15);
        Self(memory, start, bytes)
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..self.1 + self.2]
    }
}

/// The left half is known.
fn half_mask() -> Vec<u8> {
    (0..256).map(|i| u8::from(i % 16 >= 8)).collect()
}

fn inpaint(drawing: &mut impl Drawing, picture: &[u8], repeats: u16) {
    let mask = half_mask();
    let mut inpainting = Inpainting::new(drawing, picture, &mask, repeats).unwrap();
    while inpainting.step(drawing) == Progress::Running {}
}

fn assert_known_kept(name: &str, picture: &[u8], drawn: &[u8], channels: usize) {
    let known = |i: &usize| (i / channels) % 16 < 8;
    let (kept, free): (Vec<_>, Vec<_>) = (0..picture.len()).partition(known);
    assert!(kept.iter().all(|&i| drawn[i] == picture[i]), "{name}: a known pixel changed");
    assert!(free.iter().filter(|&&i| drawn[i] != picture[i]).count() > free.len() / 4, "{name}: nothing was drawn");
}

fn inpaints_with<S: Sampler>(name: &str, sampler: S, repeats: u16) {
    let picture = &pictures("faces", COLOUR, 1)[0];
    let config = Config { steps: 12, ..Config::with_sampler(3, sampler) };

    let pipeline = float("faces-16");
    let mut drawing = pipeline.begin(&config).unwrap();
    inpaint(&mut drawing, picture, repeats);
    assert_known_kept(name, picture, &pipeline.image(&drawing.sample).bytes().collect::<Vec<_>>(), 3);

    let blob = model_file("faces-16.pdm");
    let model = Model::parse(&blob).unwrap();
    let mut memory = Memory::of(&model, &config);
    let mut drawing = Pipeline::new(&model, memory.bytes(), config).unwrap();
    inpaint(&mut drawing, picture, repeats);
    assert_known_kept(name, picture, &drawing.image().bytes().collect::<Vec<_>>(), 3);
}

#[test]
fn inpainting_leaves_known_pixels_exact() {
    inpaints_with("ddim", Ddim::default(), 1);
    inpaints_with("ddpm, RePaint", Ddpm::default(), 3);
    inpaints_with("heun", Heun, 1);
    inpaints_with("dpmpp", DpmSolverPp::default(), 1);
    inpaints_with("unipc", UniPc, 1);
    inpaints_with("predictor-corrector", PredictorCorrector::default(), 2);
    inpaints_with("adaptive", Adaptive::default(), 1);
    inpaints_with("langevin", Langevin { moves: 2, step_size: 0.2 }, 1);
}

#[test]
fn a_step_is_its_operators() {
    let picture = &pictures("fashion-mini", GREY, 1)[0];
    let blob = model_file("fashion-16.pdm");
    let model = Model::parse(&blob).unwrap();
    let config = Config { steps: 4, class: Some(3), guidance: 2.0, ..Config::with_sampler(5, Ddpm::default()) };
    let mask = half_mask();
    let draw = |by_operator: bool| {
        let mut memory = Memory::of(&model, &config);
        let mut drawing = Pipeline::new(&model, memory.bytes(), config).unwrap();
        image_to_image(&mut drawing, picture, 0.75).unwrap();
        let mut inpainting = Inpainting::new(&mut drawing, picture, &mask, 2).unwrap();
        let mut next = || if by_operator { inpainting.advance(&mut drawing) } else { inpainting.step(&mut drawing) };
        while next() == Progress::Running {}
        drawing.image().crc32()
    };
    assert_eq!(draw(false), draw(true));
}

const INVERSION: Inversion = Inversion { steps: 50, calls: 5, class: None, spacing: AnySpacing::Trailing(Trailing) };

#[test]
fn inversion_returns_the_picture() {
    for (name, source, image) in [("fashion-16", "fashion-mini", GREY), ("faces-16", "faces", COLOUR)] {
        let network = Network::F32(float(name));
        for (i, picture) in pictures(source, image, 2).iter().enumerate() {
            let steps = Cell::new(0);
            let back = there_and_back(&network, picture, &INVERSION, || steps.set(steps.get() + 1)).unwrap();
            assert!(back.psnr_db >= 30.0, "{name} {i}: {}", back.psnr_db);
            assert_eq!((steps.get(), back.network_calls), (100, 300));
            // What the picture was made of looks like noise: mean 0, variance 1, as far as so few numbers tell.
            let n = back.noise.len() as f64;
            let mean = back.noise.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = back.noise.iter().map(|&x| f64::from(x * x)).sum::<f64>() / n;
            assert!(mean.abs() < 0.5 && (0.5..2.0).contains(&variance), "{name} {i}: {mean}, {variance}");
        }
    }
}

#[test]
fn int8_inverts_through_its_own_network() {
    let blob = model_file("fashion-16.pdm");
    let network = Network::Int8(Model::parse(&blob).unwrap());
    let picture = &pictures("fashion-mini", GREY, 1)[0];
    let back = there_and_back(&network, picture, &Inversion { class: Some(3), ..INVERSION }, || ()).unwrap();
    assert!(back.psnr_db >= 30.0, "{}", back.psnr_db);
    let refused = |inversion| there_and_back(&network, picture, &inversion, || ()).unwrap_err().to_string();
    assert_eq!(refused(Inversion { steps: 0, ..INVERSION }), "steps is 0, but must be in 1..=1000");
    assert_eq!(refused(Inversion { calls: 51, ..INVERSION }), "calls is 51, but must be in 1..=50");
    assert!(refused(Inversion { class: Some(10), ..INVERSION }).contains("classes 0..=9"));
}

#[test]
fn strength_goes_from_the_picture_to_noise() {
    let picture = &pictures("fashion-mini", GREY, 1)[0];
    let pipeline = float("fashion-16");
    let distance = |strength: f32| {
        let config = Config { steps: 20, ..Config::new(1) };
        let mut drawing = pipeline.begin(&config).unwrap();
        image_to_image(&mut drawing, picture, strength).unwrap();
        while drawing.step() == Progress::Running {}
        let drawn: Vec<u8> = pipeline.image(&drawing.sample).bytes().collect();
        (psnr_db(picture, &drawn), drawn)
    };
    let (exact, drawn) = distance(0.0);
    assert!(exact > 90.0 && drawn == *picture);
    let (slight, _) = distance(0.2);
    let (strong, _) = distance(0.7);
    assert!(slight > strong + 3.0, "{slight} and {strong} dB");
    // All of the noise: the image of the seed, but for what the noisiest level holds of the picture.
    let whole = pipeline.run(&Config { steps: 20, ..Config::new(1) }).unwrap();
    let whole: Vec<u8> = pipeline.image(&whole).bytes().collect();
    assert!(psnr_db(&whole, &distance(1.0).1) > 40.0);
}

#[test]
fn noise_between_seeds_is_on_the_great_circle() {
    let pipeline = float("fashion-16");
    let noise = |seed: u64, weight: f32| {
        let mut drawing = pipeline.begin(&Config::new(seed)).unwrap();
        between_seeds(&mut drawing, 9, weight).unwrap();
        drawing.sample
    };
    let start = |seed: u64| pipeline.begin(&Config::new(seed)).unwrap().sample;
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5);
    assert!(near(&noise(4, 0.0), &start(4)) && near(&noise(4, 1.0), &start(9)));
    let square = |x: &[f32]| x.iter().map(|v| f64::from(v * v)).sum::<f64>();
    let (a, b) = (start(4), start(9));
    let dot: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(x * y)).sum();
    let angle = (dot / (square(&a) * square(&b)).sqrt()).acos();
    for weight in [0.25, 0.5, 0.8] {
        let got = noise(4, weight as f32);
        let of = |w: f64| (w * angle).sin() / angle.sin();
        let want: Vec<f32> = a
            .iter()
            .zip(&b)
            .map(|(&x, &y)| (of(1.0 - weight) * f64::from(x) + of(weight) * f64::from(y)) as f32)
            .collect();
        assert!(near(&got, &want), "weight {weight}");
    }
}

#[test]
fn between_two_classes_the_ends_are_the_classes() {
    let pipeline = float("fashion-16");
    let draw = |config: Config| pipeline.run(&Config { steps: 10, ..config }).unwrap();
    let between =
        |weight: f32| draw(Config { class: Some(7), negative_class: Some(1), guidance: weight, ..Config::new(2) });
    let of = |class: u16| draw(Config { class: Some(class), ..Config::new(2) });
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from((x - y).powi(2))).sum::<f64>().sqrt();
    let (shirt, shoe, middle) = (of(1), of(7), between(0.5));
    assert!(distance(&between(0.0), &shirt) < 1e-3 && distance(&between(1.0), &shoe) == 0.0);
    let apart = distance(&shirt, &shoe);
    assert!(apart > 1.0 && distance(&middle, &shirt) < apart && distance(&middle, &shoe) < apart);
}

#[test]
fn guidance_acts_within_its_interval_only() {
    let pipeline = float("fashion-16");
    let base = Config { steps: 10, class: Some(2), ..Config::new(2) };
    let draw =
        |guidance: f32, guidance_interval| pipeline.run(&Config { guidance, guidance_interval, ..base }).unwrap();
    let (whole, plain) = (draw(3.0, [0.0, 999.0]), draw(1.0, [0.0, 999.0]));
    assert_ne!(whole, plain);
    assert_eq!(draw(3.0, [0.0, f32::INFINITY]), whole);
    assert_eq!(draw(3.0, [2000.0, 3000.0]), plain);
    let part = draw(3.0, [200.0, 600.0]);
    assert!(part != whole && part != plain);
    // The same by setting the scale step by step.
    let mut drawing = pipeline.begin(&base).unwrap();
    loop {
        let guided = (200.0..=600.0).contains(&drawing.walk().level().timestep);
        drawing.set_guidance(if guided { 3.0 } else { 1.0 }).unwrap();
        if drawing.step() == Progress::Done {
            break;
        }
    }
    assert_eq!(drawing.sample, part);
    assert!(drawing.set_guidance(f32::NAN).unwrap_err().to_string().contains("guidance is NaN"));
}

/// What a pipeline says at set-up.
fn refused<S: Sampler, P: Spacing>(config: Config<S, P>) -> String {
    let blob = model_file("fashion-16.pdm");
    let model = Model::parse(&blob).unwrap();
    let mut memory = Memory::of(&model, &config);
    let said = Pipeline::new(&model, memory.bytes(), config).map(|_| ()).unwrap_err().to_string();
    // Both engines say the same.
    assert_eq!(float("fashion-16").begin(&config).map(|_| ()).unwrap_err().to_string(), said);
    said
}

#[test]
fn bad_settings_name_the_field_and_its_range() {
    let with = |sampler| Config::with_sampler(1, sampler);
    assert_eq!(refused(Config { steps: 0, ..Config::new(1) }), "steps is 0, but must be in 1..=1000");
    assert_eq!(refused(with(Ddim { eta: -0.5 })), "eta is -0.5, but must be in 0..=1");
    assert_eq!(refused(with(Ddim { eta: f32::NAN })), "eta is NaN, but must be in 0..=1");
    assert_eq!(refused(Config::with_sampler(1, DpmSolverPp { eta: 2.0 })), "eta is 2, but must be in 0..=1");
    assert_eq!(
        refused(Config::with_sampler(1, Adaptive { tolerance: 0.0 })),
        "tolerance is 0, but must be in 0.00001..=1"
    );
    let corrector = PredictorCorrector { corrector_steps: 0, snr: 0.1 };
    assert!(refused(Config::with_sampler(1, corrector)).starts_with("corrector_steps is 0, but must be in 1..=100"));
    let rising = Config { steps: 2, ..Config::with_spacing(1, Ddim::default(), Timesteps(&[10.0, 20.0])) };
    assert_eq!(refused(rising), "timesteps is 20, but must be below the value before it");
    let interval = [f32::NAN, 5.0];
    assert!(
        refused(Config { guidance_interval: interval, ..Config::new(1) }).starts_with("guidance_interval is NaN..=5")
    );
    let negative = Config { negative_class: Some(10), class: Some(0), ..Config::new(1) };
    assert!(refused(negative).starts_with("class 10 was asked for"));
}

#[test]
fn bad_edits_name_the_field_and_its_range() {
    let pipeline = float("fashion-16");
    let picture = vec![0; 256];
    let drawing = || pipeline.begin(&Config::new(1)).unwrap();
    let strength = |strength| image_to_image(&mut drawing(), &picture, strength).unwrap_err().to_string();
    assert_eq!(strength(1.5), "strength is 1.5, but must be in 0..=1");
    assert_eq!(strength(-0.1), "strength is -0.1, but must be in 0..=1");
    assert_eq!(strength(f32::NAN), "strength is NaN, but must be in 0..=1");
    let size = image_to_image(&mut drawing(), &picture[1..], 0.5);
    assert_eq!(size, Err(EditError::PictureBytes { needed: 256, got: 255 }));
    let mask = Inpainting::new(&mut drawing(), &picture, &[0; 257], 1).unwrap_err().to_string();
    assert_eq!(mask, "mask has 257 bytes, but must have height * width = 256");
    let repeats = Inpainting::new(&mut drawing(), &picture, &[0; 256], 0).unwrap_err();
    assert_eq!(repeats, EditError::Repeats { got: 0, max: 100 });
    let mut multistep = pipeline.begin(&Config::with_sampler(1, UniPc)).unwrap();
    let repeats = Inpainting::new(&mut multistep, &picture, &[0; 256], 2).unwrap_err();
    assert_eq!(repeats, EditError::Repeats { got: 2, max: 1 });
    assert_eq!(
        between_seeds(&mut drawing(), 2, f32::NAN).unwrap_err().to_string(),
        "weight is NaN, but must be in 0..=1"
    );
}

#[test]
fn an_arena_one_byte_short_is_refused_with_both_numbers() {
    let blob = model_file("fashion-16.pdm");
    let model = Model::parse(&blob).unwrap();
    let config = Config::with_sampler(1, UniPc);
    let needed = Config::<UniPc>::arena_bytes(&model);
    assert_eq!(needed, model.arena_bytes() + 3 * 4 * 256);
    let mut memory = Memory::of(&model, &config);
    let said = Pipeline::new(&model, &mut memory.bytes()[..needed - 1], config).map(|_| ()).unwrap_err().to_string();
    assert_eq!(said, format!("arena is too small: {needed} bytes needed, {} given", needed - 1));
}
