//! `sample` and `compare`: what is drawn and where it goes.

use std::fs;

use picodream_tools::config::{ImageConfig, UNetConfig};
use picodream_tools::float::random;
use picodream_tools::picture;
use serde_json::Value;

use super::harness::*;

#[test]
fn a_folder_gets_single_images_whose_bytes_have_the_crc() {
    let folder = copy("singles");
    let value = json(&folder, &["sample", "tiny.pdm", "--steps", "3", "--seed", "5", "--count", "4", "--out", "drawn"]);
    assert_eq!((&value["engine"], value["images"].as_array().unwrap().len()), (&"int8".into(), 4));
    assert!(value["seconds"].as_f64().unwrap() >= 0.0);
    for (i, image) in value["images"].as_array().unwrap().iter().enumerate() {
        assert_eq!(image["seed"], 5 + i);
        assert_eq!(image["class"], (5 + i) % 3);
        let decoded = picture::decode(&fs::read(folder.join(image["file"].as_str().unwrap())).unwrap()).unwrap();
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&decoded.rgb);
        assert_eq!(image["crc32"], format!("{crc:08x}"));
    }
}

#[test]
fn engines_threads_and_sheets() {
    let folder = copy("sheets");
    let arguments =
        |threads| vec!["sample", "tiny.pdm", "--steps", "2", "--count", "3", "--class", "all", "--threads", threads];
    let one = json(&folder, &[arguments("1"), vec!["--out", "one.png", "--trajectory", "way.gif"]].concat());
    let many = json(&folder, &[arguments("5"), vec!["--out", "many.png"]].concat());
    assert_eq!(one["images"].as_array().unwrap().len(), 9);
    for i in 0..9 {
        assert_eq!(one["images"][i]["crc32"], many["images"][i]["crc32"]);
    }
    assert_eq!(fs::read(folder.join("one.png")).unwrap(), fs::read(folder.join("many.png")).unwrap());
    assert!(fs::read(folder.join("way.gif")).unwrap().starts_with(b"GIF89a"));
    for extra in [&["--engine", "f32"][..], &["--sampler", "ddpm"], &["--guidance", "2.5", "--class", "class 1"]] {
        let value = json(&folder, &[&["sample", "tiny.pdm", "--steps", "2"], extra].concat());
        assert_eq!(value["images"][0]["file"], "tiny.png");
    }
}

#[test]
fn text_goes_to_stdout_and_previews_only_when_asked() {
    let folder = copy("preview");
    let plain = run(&folder, &["sample", "tiny.pdm", "--steps", "1"]);
    assert!(plain.status.success() && !plain.stdout.contains(&0x1b));
    assert!(String::from_utf8(plain.stdout).unwrap().contains("crc32"));
    let shown = run(&folder, &["sample", "tiny.pdm", "--steps", "1", "--preview"]);
    assert!(String::from_utf8(shown.stdout).unwrap().contains('\u{2580}'));
}

#[test]
fn every_sampler_draws_by_its_name() {
    let folder = copy("samplers");
    for (name, _) in picodream::sampler::AnySampler::ALL {
        for engine in ["int8", "f32"] {
            let arguments =
                ["sample", "tiny.pdm", "--sampler", name, "--engine", engine, "--steps", "5", "--out", "x.png"];
            let value = json(&folder, &arguments);
            assert_eq!(value["sampler"], name);
            let calls = value["network_calls"].as_u64().unwrap();
            let want = match name {
                "heun" | "pf-heun" | "predictor-corrector" => 9..=9,
                "flow-midpoint" => 10..=10,
                "langevin" => 26..=26,
                "plms" => 6..=6,
                "pndm" => 14..=14,
                "adaptive" => 1..=5,
                _ => 5..=5,
            };
            assert!(want.contains(&calls), "{name}: {calls} calls");
        }
    }
}

#[test]
fn compare_draws_a_sheet_of_samplers_by_steps() {
    let folder = copy("compare");
    let value = json(
        &folder,
        &["sample", "tiny.pdm", "--compare", "ddim,heun,pndm", "--compare-steps", "2,6", "--out", "sheet.png"],
    );
    let cells = value["cells"].as_array().unwrap();
    let calls: Vec<_> = cells.iter().map(|cell| cell["network_calls"].as_u64()).collect();
    // PNDM cannot start with two steps: its place stays empty, with the reason.
    assert_eq!(calls, [Some(2), Some(6), Some(3), Some(11), None, Some(15)]);
    assert!(cells[4]["refused"].as_str().unwrap().contains("at least 4"));
    assert!(picture::decode(&fs::read(folder.join("sheet.png")).unwrap()).unwrap().height > 3 * 136);
    refused(&folder, &["sample", "tiny.pdm", "--compare", "ddim,magic"], 1, &["magic", "ddim, ddpm, euler"]);
    refused(&folder, &["sample", "tiny.pdm", "--compare", "ddim", "--frechet", "1"], 1, &["--frechet is 1"]);
    for extra in [["--trajectory", "x.gif"], ["--sampler", "heun"], ["--eta", "1"], ["--steps", "3"], ["--count", "2"]]
    {
        refused(&folder, &["sample", "tiny.pdm", "--compare", "ddim", extra[0], extra[1]], 2, &["--compare", extra[0]]);
    }
}

#[test]
fn pictures_are_edited_by_flags() {
    let folder = copy("edits");
    let grey = |bytes: Vec<u8>| picture::png_bytes(8, 8, 1, &bytes).unwrap();
    fs::write(folder.join("picture.png"), grey((0..64).map(|i| 3 * i).collect())).unwrap();
    fs::write(folder.join("mask.png"), grey((0..64).map(|i| if i % 8 < 4 { 0 } else { 255 }).collect())).unwrap();
    fs::write(folder.join("black.png"), grey(vec![0; 64])).unwrap();
    let draw = |extra: &[&'static str]| {
        let value = json(&folder, &[&["sample", "tiny.pdm", "--steps", "4", "--out", "x.png"], extra].concat());
        let drawn = picture::decode(&fs::read(folder.join("x.png")).unwrap()).unwrap();
        (drawn, value["images"][0]["crc32"].as_str().unwrap().to_owned())
    };
    let (kept, _) = draw(&["--init", "picture.png", "--mask", "mask.png", "--repeats", "2"]);
    let same = |x: usize, y: usize| kept.pixel(x, y) == [3 * (8 * y + x) as u8; 3];
    assert!((0..8).all(|y| (0..4).all(|x| same(x, y))) && !(0..8).all(|y| (4..8).all(|x| same(x, y))));
    let (untouched, _) = draw(&["--init", "picture.png", "--strength", "0"]);
    assert!((0..8).all(|y| (0..8).all(|x| untouched.pixel(x, y) == [3 * (8 * y + x) as u8; 3])));
    let crc = |extra| draw(extra).1;
    assert_eq!(crc(&["--seed", "3", "--to-seed", "3"]), crc(&["--seed", "3"]));
    assert_eq!(
        crc(&["--seed", "3", "--to-seed", "6", "--weight", "1", "--class", "0"]),
        crc(&["--seed", "6", "--class", "0"])
    );
    assert_eq!(crc(&["--sampler", "ddpm", "--variance", "fixed-small"]), crc(&["--sampler", "ddpm"]));
    assert_ne!(crc(&["--sampler", "ddpm", "--variance", "fixed-large"]), crc(&["--sampler", "ddpm"]));
    assert_ne!(crc(&["--guidance-per-step", "3,2,1,1"]), crc(&["--guidance", "3"]));
    assert_eq!(crc(&["--guidance-per-step", "3,3,3,3"]), crc(&["--guidance", "3"]));
    assert_eq!(crc(&["--guidance", "3", "--guidance-interval", "0", "5"]), crc(&[]));
    assert_eq!(crc(&["--guidance", "0", "--class", "2", "--negative-class", "1"]), crc(&["--class", "1"]));
    let sample = |extra: &[&'static str]| [&["sample", "tiny.pdm", "--out", "x.png"], extra].concat();
    for (extra, parts) in [
        (&["--init", "picture.png", "--strength", "1.5"][..], ["strength is 1.5", "0..=1"]),
        (&["--init", "picture.png", "--strength", "NaN"], ["strength is NaN", "0..=1"]),
        (&["--init", "nothing.png"], ["nothing.png", ""]),
        (&["--init", "tiny.json"], ["tiny.json", "PNG or JPEG"]),
        (&["--init", "picture.png", "--mask", "black.png"], ["black everywhere", "white"]),
        (&["--init", "picture.png", "--mask", "mask.png", "--repeats", "0"], ["repeats is 0", "1..=100"]),
        (&["--to-seed", "4", "--weight", "-1"], ["weight is -1", "0..=1"]),
        (&["--sampler", "heun", "--eta", "0.5"], ["--eta", "heun"]),
        (&["--sampler", "heun", "--variance", "fixed-large"], ["--variance", "--sampler ddpm"]),
        (&["--sampler", "ddpm", "--variance", "learned-range"], ["output channels is 3", "does not give"]),
        (&["--sampler", "ddim", "--tolerance", "0.5"], ["--tolerance", "--sampler adaptive"]),
        (&["--sampler", "adaptive", "--tolerance", "0"], ["tolerance is 0", "0.00001..=1"]),
        (&["--guidance-per-step", "1,2"], ["2 guidance scales for 20 steps", "each step"]),
        (&["--guidance-interval", "9", "2", "--guidance", "2"], ["guidance_interval is 9..=2", "the lower first"]),
    ] {
        refused(&folder, &sample(extra), 1, &parts);
    }
    refused(&folder, &sample(&["--sampler", "magic"]), 2, &["magic", "dpmpp-2m"]);
    refused(&folder, &sample(&["--sampler", "ddpm", "--variance", "huge"]), 2, &["huge", "learned-range"]);
    // What would be ignored without another flag.
    for (extra, needed) in [
        (["--mask", "mask.png"], "--init"),
        (["--strength", "0.5"], "--init"),
        (["--repeats", "2"], "--mask"),
        (["--weight", "0.5"], "--to-seed"),
        (["--compare-steps", "4"], "--compare"),
        (["--frechet", "500"], "--compare"),
    ] {
        refused(&folder, &sample(&extra), 2, &[needed]);
    }
    let both = ["--init", "picture.png", "--mask", "mask.png", "--strength", "0.5"];
    refused(&folder, &sample(&both), 2, &["--strength", "--mask"]);
}

#[test]
fn learned_variances_are_reached_by_their_flag() {
    let folder = copy("variances");
    let unet = UNetConfig { block_out_channels: vec![8, 8], learned_variance: true, ..UNetConfig::default() };
    let mut config = random::config(ImageConfig { width: 8, height: 8, channels: 3 }, unet, 3);
    config.name = "learned".into();
    random::checkpoint(config, 5).save(&folder.join("learned.safetensors")).unwrap();
    json(&folder, &["export", "learned.safetensors"]);
    assert_eq!(json(&folder, &["inspect", "learned.pdm"])["learned_variance"], true);
    let crc = |variance: &str, engine: &str| {
        let ddpm = ["sample", "learned.pdm", "--sampler", "ddpm", "--steps", "4", "--out", "x.png"];
        let value = json(&folder, &[&ddpm[..], &["--variance", variance, "--engine", engine]].concat());
        value["images"][0]["crc32"].as_str().unwrap().to_owned()
    };
    for engine in ["int8", "f32"] {
        assert_ne!(crc("learned-range", engine), crc("fixed-small", engine));
    }
}

#[test]
fn inversion_shows_picture_noise_and_what_comes_back() {
    let folder = copy("inversion");
    let grey = |size: usize| picture::png_bytes(size, size, 1, &vec![90; size * size]).unwrap();
    fs::write(folder.join("picture.png"), grey(8)).unwrap();
    fs::write(folder.join("large.png"), grey(16)).unwrap();
    for (engine, more) in [("f32", &["--class", "1"][..]), ("int8", &["--calls", "2", "--spacing", "karras"])] {
        let inversion = ["sample", "tiny.pdm", "--invert", "picture.png", "--engine", engine, "--steps", "6"];
        let value = json(&folder, &[&inversion[..], &["--out", "sheet.png"], more].concat());
        let calls = if engine == "f32" { 36 } else { 18 };
        assert_eq!((value["network_calls"].as_u64(), value["engine"].as_str()), (Some(calls), Some(engine)));
        assert!(value["psnr_db"].is_f64() && value["file"] == "sheet.png" && value["picture"] == "picture.png");
        assert_eq!(value["class_name"], if engine == "f32" { Value::from("class 1") } else { Value::Null });
        // Three images of 16 × 8 pixels side by side, the first one grey 90.
        let sheet = picture::decode(&fs::read(folder.join("sheet.png")).unwrap()).unwrap();
        assert!(sheet.width > 3 * 128 && sheet.height > 128 && sheet.rgb.chunks_exact(3).any(|p| p == [90; 3]));
    }
    assert_eq!(json(&folder, &["sample", "tiny.pdm", "--invert", "picture.png", "--out", "x.png"])["steps"], 50);
    let invert = |extra: &[&'static str]| [&["sample", "tiny.pdm", "--invert", "picture.png"], extra].concat();
    for (extra, parts) in [
        (&["--steps", "0"][..], &["steps is 0", "1..=1000"][..]),
        (&["--calls", "0"], &["calls is 0", "1..=50"]),
        (&["--class", "all"], &["--class all", "one class"]),
        (&["--class", "hat"], &["there is no class 'hat'"]),
        (&["--out", "folder"], &["--out is folder", ".png"]),
    ] {
        refused(&folder, &invert(extra), 1, parts);
    }
    let sized = ["sample", "tiny.pdm", "--invert", "large.png"];
    refused(&folder, &sized, 1, &["large.png has 16x16 pixels, but tiny draws 8x8", "--strength 0"]);
    refused(&folder, &["sample", "tiny.pdm", "--invert", "absent.png"], 1, &["absent.png"]);
    refused(&folder, &["sample", "tiny.pdm", "--invert", "tiny.json"], 1, &["tiny.json", "PNG or JPEG"]);
    for extra in [
        &["--compare", "ddim"][..],
        &["--init", "picture.png"],
        &["--to-seed", "3"],
        &["--sampler", "heun"],
        &["--guidance", "2"],
        &["--trajectory", "x.gif"],
        &["--count", "2"],
    ] {
        refused(&folder, &invert(extra), 2, &["--invert", extra[0]]);
    }
    refused(&folder, &["sample", "tiny.pdm", "--calls", "3"], 2, &["--invert"]);
}
