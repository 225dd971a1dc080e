//! Same bits: every shipped model draws on every emulated core the golden images that
//! `host-tools/tests/golden.rs` draws on the host.
//!
//! Tests that need QEMU or a chip's target say so and are skipped where these are missing; with
//! PICODREAM_REQUIRE_EMULATOR=1 that is a failure.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use picodream::sampler::{AnySampler, Consistency};
use picodream::spacing::AnySpacing;
use picodream::{Ddim, Ddpm, Model};
use picodream_tools::config::{ImageConfig, UNetConfig};
use picodream_tools::emulate::{
    Class, EmulateOptions, EmulateReport, Form, MACHINES, Machine, Sampler, check_kernels, check_ready, emulate, listed,
};
use picodream_tools::export::{ExportOptions, Kernels, Trajectories, export, timesteps_of};
use picodream_tools::files;
use picodream_tools::float::random;
use picodream_tools::sampling::{Network, Request, SamplerChoice, Settings, available_threads, default_class, draw};

const SEEDS: u32 = 8;
const STEPS: u16 = 2;
const STACK_LIMIT_BYTES: u32 = 4 << 10;
const FLASH_LIMIT_BYTES: u64 = 256 << 10;

/// What a model has to fit with its firmware: the usual limit, but for those for smaller and larger parts.
fn flash_limit_bytes(name: &str) -> u64 {
    match name {
        "fashion-16-nano" | "fashion-16-nano-fast" => 128 << 10,
        "fashion-28" | "emoji-32" => 512 << 10,
        _ => FLASH_LIMIT_BYTES,
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder for this test alone.
fn scratch(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The shipped blobs, by name.
fn shipped() -> Vec<(String, PathBuf)> {
    let folder = root().join("models");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "pdm"));
    paths.sort();
    assert!(!paths.is_empty(), "models/ has no blob");
    paths.into_iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path)).collect()
}

/// CRC-32 of the images of seeds 0.. on this machine.
fn host_crcs(blob: &[u8], settings: &Settings, class: Class) -> Vec<String> {
    let model = Model::parse(blob).unwrap();
    let num_classes = model.header().unwrap().num_classes;
    let request = |seed| Request { seed, class: class.of_seed(seed, num_classes) };
    let requests: Vec<_> = (0..u64::from(SEEDS)).map(request).collect();
    let drawn = draw(&Network::Int8(model), settings, &requests, available_threads(), || ()).unwrap();
    drawn.iter().map(|image| format!("{:08x}", image.crc32)).collect()
}

/// CRCs by name of model; see `host-tools/tests/golden.rs`.
fn golden() -> BTreeMap<String, Vec<String>> {
    serde_json::from_slice(&files::read(&root().join("tests/golden/images.json")).unwrap()).unwrap()
}

fn crcs(report: &EmulateReport) -> Vec<String> {
    report.images.iter().map(|image| format!("{:08x}", image.crc32)).collect()
}

/// Whether a test may emulate; says on the terminal when it may not.
fn may_emulate(test: &str) -> bool {
    let Some(error) = MACHINES.iter().find_map(|machine| check_ready(machine).err()) else { return true };
    assert!(std::env::var_os("PICODREAM_REQUIRE_EMULATOR").is_none(), "{test} must not be skipped: {error}");
    // Not by println!, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {error}");
    false
}

/// A small untrained network unlike the shipped ones: not square, RGB, three levels, attention with heads everywhere, and
/// variances behind its predictions.
static ODD: LazyLock<Vec<u8>> = LazyLock::new(|| odd(&[]));

/// The same with the biases of three steps baked in.
static BAKED: LazyLock<Vec<u8>> = LazyLock::new(|| odd(&[3]));

/// The blob of that network, for these numbers of steps only, or for all.
fn odd(bake: &[u16]) -> Vec<u8> {
    let unet = UNetConfig {
        block_out_channels: vec![8, 12, 16],
        layers_per_block: 2,
        attention_levels: vec![false, true, true],
        attention_heads: 2,
        norm_num_groups: 4,
        time_freq_dim: 8,
        time_embed_dim: 24,
        learned_variance: true,
        ..UNetConfig::default()
    };
    let image = ImageConfig { width: 12, height: 8, channels: 3 };
    let checkpoint = random::checkpoint(random::config(image, unet, 3), 11);
    let trajectories = Trajectories { images: 2, steps: vec![3], ..Trajectories::default() };
    let bake = timesteps_of(&checkpoint.config, bake);
    export(&checkpoint, &ExportOptions { trajectories, bake, ..ExportOptions::default() }).unwrap().bytes
}

fn write_odd(folder: &Path) -> PathBuf {
    write(folder, &ODD)
}

fn write(folder: &Path, blob: &[u8]) -> PathBuf {
    let path = folder.join("odd.pdm");
    files::write_atomic(&path, blob).unwrap();
    path
}

#[test]
fn class_by_seed_is_the_same_rule_for_host_and_board() {
    for (seed, classes) in [(0, 10), (17, 10), (u64::MAX, 3), (5, 0)] {
        assert_eq!(Class::BySeed.of_seed(seed, classes), default_class(classes, seed));
    }
}

#[test]
fn every_back_end_agrees_with_the_portable_loops() {
    if !may_emulate("every_back_end_agrees_with_the_portable_loops") {
        return;
    }
    for machine in &MACHINES {
        let report = check_kernels(machine).unwrap();
        let backend = match machine.core {
            "m0plus" => "cortex-m0plus-plain",
            "m3" => "cortex-m3-plain",
            "m55" => "cortex-m-helium",
            _ => "cortex-m-dsp",
        };
        assert_eq!(report.backend, backend);
        assert!(report.cases >= 1000, "{report:?}");
    }
}

#[test]
fn boards_draw_the_golden_images() {
    if !may_emulate("boards_draw_the_golden_images") {
        return;
    }
    let golden = golden();
    let draw_on = |machine: &Machine| {
        // Half a billion instructions a step: two images each.
        let count = if machine.core == "m0plus" { 2 } else { SEEDS };
        for (name, path) in shipped() {
            let options = EmulateOptions {
                machine: machine.core.into(),
                steps: STEPS,
                count,
                form: Form::Loaded,
                ..EmulateOptions::default()
            };
            let report = emulate(&path, &options).unwrap();
            assert_eq!(crcs(&report), golden[&name][..count as usize], "{name} on {}", machine.core_name);
            assert_eq!(report.core, machine.core_name);
            assert!(report.stack_peak_bytes <= STACK_LIMIT_BYTES, "{name} on {}: {report:?}", machine.core_name);
        }
    };
    std::thread::scope(|scope| {
        for machine in &MACHINES {
            scope.spawn(|| draw_on(machine));
        }
    });
}

#[test]
fn every_sampler_and_operator_has_the_same_bits() {
    if !may_emulate("every_sampler_and_operator_has_the_same_bits") {
        return;
    }
    let path = write_odd(&scratch("every_sampler"));
    let ddim = |eta| (Sampler::Ddim(eta), SamplerChoice::Ddim(Ddim { eta }));
    let ddpm = (Sampler::Ddpm, SamplerChoice::Ddpm(Ddpm::default()));
    for ((on_board, on_host), class, guidance, clip_sample) in
        [(ddim(0.0), Class::BySeed, 1.0, true), (ddim(0.5), Class::One(2), 2.5, true), (ddpm, Class::Null, 1.0, false)]
    {
        let settings = Settings { steps: 3, guidance, clip_sample, sampler: on_host, ..Settings::default() };
        let want = host_crcs(&ODD, &settings, class);
        for machine in &MACHINES {
            let options = EmulateOptions {
                machine: machine.core.into(),
                steps: 3,
                count: 2,
                class,
                guidance,
                clip_sample,
                sampler: on_board,
                form: Form::Loaded,
                ..EmulateOptions::default()
            };
            let report = emulate(&path, &options).unwrap();
            assert_eq!(crcs(&report), want[..2], "{on_board:?} on {}", machine.core_name);
        }
    }
}

#[test]
fn boards_with_loops_for_strided_convolutions_have_the_same_bits_and_others_refuse_them() {
    if !may_emulate("boards_with_loops_for_strided_convolutions_have_the_same_bits_and_others_refuse_them") {
        return;
    }
    // Once with channels that the loops take, once with others.
    for (channels, norm_num_groups) in [(vec![16, 32], 8), (vec![6, 10], 2)] {
        let unet = UNetConfig {
            block_out_channels: channels,
            layers_per_block: 1,
            attention_levels: vec![false, false],
            norm_num_groups,
            time_freq_dim: 8,
            time_embed_dim: 16,
            ..UNetConfig::default()
        };
        let image = ImageConfig { width: 20, height: 12, channels: 1 };
        let checkpoint = random::checkpoint(random::config(image, unet, 0), 12);
        let trajectories = Trajectories { images: 2, steps: vec![2], ..Trajectories::default() };
        let blob = |kernels| {
            let options = ExportOptions { trajectories: trajectories.clone(), kernels, ..ExportOptions::default() };
            export(&checkpoint, &options).unwrap().bytes
        };
        let settings = Settings { steps: 2, ..Settings::default() };
        let want = host_crcs(&blob(Kernels::Direct), &settings, Class::BySeed);
        let strided = blob(Kernels::Fewest);
        assert_eq!(host_crcs(&strided, &settings, Class::BySeed), want);
        let path = write(&scratch("strided"), &strided);
        for machine in &MACHINES {
            let options = EmulateOptions {
                machine: machine.core.into(),
                steps: 2,
                count: 2,
                form: Form::Loaded,
                ..EmulateOptions::default()
            };
            match emulate(&path, &options) {
                Ok(report) => {
                    assert!(machine.has_strided(), "{}", machine.core_name);
                    assert_eq!(crcs(&report), want[..2], "on {}", machine.core_name);
                }
                Err(error) => {
                    assert!(!machine.has_strided(), "{}: {error:?}", machine.core_name);
                    let error = format!("{error:#}");
                    assert!(error.contains("export it for the Cortex-M"), "{error}");
                    assert!(error.contains("the algorithm does not suit the kernel"), "{error}");
                }
            }
        }
    }
}

#[test]
fn baked_biases_have_the_same_bits_and_other_steps_are_refused() {
    if !may_emulate("baked_biases_have_the_same_bits_and_other_steps_are_refused") {
        return;
    }
    let path = write(&scratch("baked"), &BAKED);
    let settings = Settings { steps: 3, ..Settings::default() };
    let want = host_crcs(&BAKED, &settings, Class::BySeed);
    for machine in &MACHINES {
        let options =
            EmulateOptions { machine: machine.core.into(), steps: 3, form: Form::Loaded, ..EmulateOptions::default() };
        let report = emulate(&path, &options).unwrap();
        assert_eq!(crcs(&report), want[..1], "{}", machine.core_name);
        let error = emulate(&path, &EmulateOptions { steps: 2, ..options }).unwrap_err();
        assert!(format!("{error:#}").contains("timestep 499 is not baked"), "{error:#}");
    }
}

#[test]
fn every_listed_sampler_has_the_same_bits() {
    if !may_emulate("every_listed_sampler_has_the_same_bits") {
        return;
    }
    let path = write_odd(&scratch("every_listed"));
    // Every sampler over its usual levels, as `picodream sample` draws, and DDIM over all others.
    let usual = (0..AnySampler::ALL.len()).map(|number| (listed(number), number, None));
    let ddim = AnySampler::ALL.iter().position(|(name, _)| *name == "ddim").unwrap();
    let others = AnySpacing::ALL.into_iter().enumerate().skip(1).map(|(spacing, (_, levels))| {
        (Sampler::Listed { sampler: ddim as u16, spacing: spacing as u16 }, ddim, Some(levels))
    });
    let all: Vec<(Sampler, usize, Option<AnySpacing>)> = usual.chain(others).collect();
    let draw_on = |machine: &str| {
        for &(sampler, number, spacing) in &all {
            let (name, on_host) = AnySampler::ALL[number];
            let settings = Settings { steps: 4, sampler: on_host, spacing, ..Settings::default() };
            let want = host_crcs(&ODD, &settings, Class::BySeed);
            let options = EmulateOptions {
                machine: machine.into(),
                steps: 4,
                sampler,
                form: Form::Loaded,
                ..EmulateOptions::default()
            };
            let report = emulate(&path, &options).unwrap();
            assert_eq!(crcs(&report), want[..1], "{name} over {spacing:?} on {machine}");
        }
    };
    std::thread::scope(|scope| {
        for machine in ["mps2-an386", "mps2-an385"] {
            scope.spawn(move || draw_on(machine));
        }
    });
}

#[test]
fn product_fits_the_chip_and_its_log_says_so() {
    if !may_emulate("product_fits_the_chip_and_its_log_says_so") {
        return;
    }
    let folder = scratch("product");
    // Every model on the Cortex-M4F, and on the Cortex-M3 the largest of the usual limit with either sampler.
    let on = |machine: &'static str| move |(name, path)| (name, path, machine);
    let largest = |tuned: bool| {
        let usual = shipped().into_iter().filter(|(name, _)| flash_limit_bytes(name) == FLASH_LIMIT_BYTES);
        usual
            .filter(|(name, _)| name.ends_with("-fast") == tuned)
            .max_by_key(|(_, path)| path.metadata().unwrap().len())
    };
    let on_m3 = [largest(false), largest(true)].into_iter().map(|model| on("mps2-an385")(model.unwrap()));
    for (name, path, machine) in shipped().into_iter().map(on("mps2-an386")).chain(on_m3) {
        let blob = files::read(&path).unwrap();
        let model = Model::parse(&blob).unwrap();
        let header = model.header().unwrap();
        // By the sampler that the model was made for.
        let (sampler, on_host) = if header.few_steps > 0 {
            (Sampler::FewStep, SamplerChoice::Consistency(Consistency::default()))
        } else {
            (Sampler::Ddim(0.0), SamplerChoice::Ddim(Ddim::default()))
        };
        let settings = Settings { steps: 1, sampler: on_host, ..Settings::default() };
        let options = EmulateOptions { machine: machine.into(), steps: 1, seed: 7, ..EmulateOptions::default() };
        let options = EmulateOptions { sampler, out: Some(folder.clone()), ..options };
        let report = emulate(&path, &options).unwrap();
        assert_eq!(crcs(&report), host_crcs(&blob, &settings, Class::BySeed)[7..], "{name}");
        assert_eq!((report.model.as_str(), report.machine), (name.as_str(), machine));
        assert!(
            report.flash_bytes <= flash_limit_bytes(&name),
            "{name}: {} + {}",
            report.blob_bytes,
            report.code_bytes
        );
        assert!(report.stack_peak_bytes <= STACK_LIMIT_BYTES, "{name}: {} bytes", report.stack_peak_bytes);
        assert_eq!(report.arena_bytes as usize, model.arena_bytes());
        assert_eq!(report.blob_crc32, header.crc32);
        let png = files::read(report.images[0].file.as_ref().unwrap()).unwrap();
        assert!(png.starts_with(b"\x89PNG"));

        let crc32 = report.images[0].crc32;
        let EmulateReport { blob_crc32, blob_bytes, arena_bytes, backend, instructions_per_step, .. } = &report;
        let want = format!(
            "model {name} crc32 {blob_crc32:08x}, {blob_bytes} bytes\n\
             arena {arena_bytes} bytes, backend {backend}\n\
             seed 7 crc32 {crc32:08x}, {instructions_per_step} instructions a step\n\
             stack peak {} bytes\n",
            report.stack_peak_bytes
        );
        assert_eq!(log_of(&report, &folder), want);
    }
}

/// The lines of the board's defmt log, as `picodream-log` prints them.
fn log_of(report: &EmulateReport, folder: &Path) -> String {
    let (elf, frames) = (folder.join("firmware.elf"), folder.join("frames.bin"));
    files::write_atomic(&elf, &report.elf).unwrap();
    files::write_atomic(&frames, &report.log).unwrap();
    let firmware = root().join("firmware");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "-p", "picodream-log", "--"])
        .arg(&elf)
        .current_dir(&firmware)
        .env("CARGO_TARGET_DIR", firmware.join("target"))
        .stdin(Stdio::from(std::fs::File::open(&frames).unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn board_refuses_what_it_cannot_run() {
    if !may_emulate("board_refuses_what_it_cannot_run") {
        return;
    }
    let folder = scratch("refused");
    let path = write_odd(&folder);
    let needed = Model::parse(&ODD).unwrap().arena_bytes();
    let base = EmulateOptions { form: Form::Loaded, steps: 1, ..EmulateOptions::default() };
    let refused = |path: &Path, options: &EmulateOptions| format!("{:#}", emulate(path, options).unwrap_err());

    for machine in &MACHINES {
        let short = EmulateOptions { arena_short_bytes: 1, machine: machine.core.into(), ..base.clone() };
        let error = refused(&path, &short);
        assert!(error.contains(&format!("{needed}")) && error.contains(&format!("{}", needed - 1)), "{error}");
    }
    let error = refused(&path, &EmulateOptions { class: Class::One(3), ..base.clone() });
    assert!(error.contains("class 3"), "{error}");
    let unknown = Sampler::Listed { sampler: 0, spacing: 99 };
    let error = refused(&path, &EmulateOptions { sampler: unknown, ..base.clone() });
    assert!(error.contains("a sampler or levels that this firmware does not know"), "{error}");
    let error = refused(&path, &EmulateOptions { form: Form::BuiltInFewStep, ..base.clone() });
    assert!(error.contains("this firmware carries the consistency sampler only"), "{error}");
    let error = refused(&path, &EmulateOptions { form: Form::BuiltIn, sampler: unknown, ..base.clone() });
    assert!(error.contains("this firmware carries the samplers ddim and ddpm only"), "{error}");
    let error = refused(&path, &EmulateOptions { steps: 0, ..base.clone() });
    assert!(error.contains("steps is 0"), "{error}");

    let flipped = folder.join("flipped.pdm");
    let mut bytes = ODD.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    files::write_atomic(&flipped, &bytes).unwrap();
    let error = refused(&flipped, &base);
    assert!(error.contains("the board refused"), "{error}");
}
