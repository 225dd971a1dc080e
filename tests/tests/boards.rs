//! A board by its own HAL: the STM32F405 package, on the machine of QEMU that has that chip, says over its serial line what the
//! host draws.
//!
//! Skipped, by name, where QEMU or the chip's target is missing; with PICODREAM_REQUIRE_EMULATOR=1 that is a failure.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use picodream::sampler::Consistency;
use picodream::{Ddim, Model};
use picodream_tools::emulate::{MACHINES, check_ready};
use picodream_tools::files;
use picodream_tools::sampling::{DrawnImage, Network, Request, SamplerChoice, Settings, default_class, draw};

const IMAGES: u64 = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Whether a test may emulate; says on the terminal when it may not.
fn may_emulate(test: &str) -> bool {
    let m4 = MACHINES.iter().find(|machine| machine.core == "m4").unwrap();
    let Err(error) = check_ready(m4) else { return true };
    assert!(std::env::var_os("PICODREAM_REQUIRE_EMULATOR").is_none(), "{test} must not be skipped: {error}");
    // Not by println!, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {error}");
    false
}

/// Stops the machine when the test is done with it, or has failed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The package with a blob, built for the chip.
fn build(model: &Path) -> PathBuf {
    let (firmware, target) = (root().join("firmware"), "thumbv7em-none-eabihf");
    let status = Command::new("bash")
        .args(["../scripts/cargo-for", target, "build", "--quiet", "--release", "-p", "picodream-stm32f405"])
        .current_dir(&firmware)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env("CARGO_TARGET_DIR", firmware.join("target"))
        .env("PICODREAM_MODEL", model.canonicalize().unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "the package does not build");
    firmware.join("target").join(target).join("release/picodream-stm32f405")
}

/// What the host draws from the seeds 0.., by the sampler that the model was made for.
fn host_images(blob: &[u8]) -> Vec<DrawnImage> {
    let model = Model::parse(blob).unwrap();
    let header = model.header().unwrap();
    let (steps, sampler) = match header.few_steps {
        0 => (20, SamplerChoice::Ddim(Ddim::default())),
        _ => (1, SamplerChoice::Consistency(Consistency::default())),
    };
    let settings = Settings { steps, sampler, ..Settings::default() };
    let requests: Vec<Request> =
        (0..IMAGES).map(|seed| Request { seed, class: default_class(header.num_classes, seed) }).collect();
    draw(&Network::Int8(model), &settings, &requests, 1, || ()).unwrap()
}

/// The line's text for an image: two characters a pixel by its brightness, then seed, class and checksum.
fn expected(image: &DrawnImage) -> Vec<String> {
    let brightness = |pixel: &[u8]| match pixel {
        [grey] => usize::from(*grey),
        // The weights of Rec. 601, as the runtime's `gray8` has them.
        [red, green, blue] => (77 * usize::from(*red) + 150 * usize::from(*green) + 29 * usize::from(*blue)) / 256,
        _ => unreachable!(),
    };
    let shade = |pixel: &[u8]| [b" .:-=+*#%@"[brightness(pixel) * 10 / 256]; 2];
    let row = |row: &[u8]| String::from_utf8(row.chunks(image.channels).flat_map(shade).collect()).unwrap();
    let mut lines: Vec<String> = image.pixels.chunks(image.width * image.channels).map(row).collect();
    let class = image.request.class.map_or(String::new(), |class| format!(" class {class}"));
    lines.push(format!("seed {}{class} crc32 {:08x}", image.request.seed, image.crc32));
    lines
}

#[test]
fn an_stm32f405_says_over_its_line_what_the_host_draws() {
    if !may_emulate("an_stm32f405_says_over_its_line_what_the_host_draws") {
        return;
    }
    // In one step and in twenty; grey and RGB.
    for name in ["fashion-16-fast", "faces-16-fast", "fashion-16-nano"] {
        let path = root().join("models").join(name).with_extension("pdm");
        let blob = files::read(&path).unwrap();
        let mut machine = Command::new("qemu-system-arm");
        machine.args(["-machine", "netduinoplus2", "-nographic", "-monitor", "none", "-serial", "stdio", "-kernel"]);
        machine.arg(build(&path)).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut running = Running(machine.spawn().unwrap());
        let line = BufReader::new(running.0.stdout.take().unwrap());
        let mut said = line.lines().map(|text| text.unwrap().trim_end_matches('\r').to_owned());

        let model = Model::parse(&blob).unwrap();
        let (blob_bytes, arena_bytes) = (blob.len(), model.arena_bytes());
        let head =
            format!("picodream: {name}, blob {blob_bytes} bytes, arena {arena_bytes} bytes, kernels cortex-m-dsp");
        assert_eq!(said.next().unwrap(), head);
        for image in host_images(&blob) {
            for want in expected(&image) {
                assert_eq!(said.next().unwrap(), want, "{name}");
            }
        }
    }
}
