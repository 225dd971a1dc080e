//! The shipped feature networks: near the floor for real images, further away the more an image is broken.

use picodream::rng::NoiseStream;

use super::corrupt::Corruption;
use super::features::{FEATURES, FeatureCard, Floor, expected_shapes, save, shipped_path};
use super::frechet::{Gaussian, frechet_distance};
use super::*;
use crate::checkpoint::{Tensor, read_tensors};
use crate::data::{Dataset, fashion, load_test, load_train, split::Split};

const FACE: ImageConfig = ImageConfig { width: 16, height: 16, channels: 3 };
const GREY: ImageConfig = ImageConfig { width: 16, height: 16, channels: 1 };

fn faces_net() -> FeatureNet {
    FeatureNet::for_source("faces", FACE).unwrap()
}

fn distance(net: &FeatureNet, images: &[u8]) -> f64 {
    frechet_distance(&Gaussian::fit(&net.features(images), FEATURES).unwrap(), &net.reference)
}

#[test]
fn real_faces_score_near_the_floor_and_pass_as_whole() {
    let train = load_train("faces", FACE).unwrap();
    let report = evaluate(&train.images[..500 * 768], &[], FACE, &faces_net(), "faces").unwrap();
    assert!(report.fd < 1.5 * report.fd_floor && report.fd_floor < 1.5 * report.fd, "{report:?}");
    assert!(report.intact.unwrap() > 0.9 && report.class_accuracy.is_none() && report.samples == 500, "{report:?}");
}

#[test]
fn real_garments_are_told_apart() {
    let test = load_test("fashion-mini", GREY).unwrap();
    let net = FeatureNet::for_source("fashion-mini", GREY).unwrap();
    let report = evaluate(&test.images, &test.labels, GREY, &net, "fashion-mini").unwrap();
    assert!(report.class_accuracy.unwrap() > 0.86 && report.intact.is_none(), "{report:?}");
    assert!(report.fd < 2.0 * report.fd_floor, "{report:?}");
}

#[test]
fn chosen_classes_are_compared_with_their_own_images() {
    let source = "fashion-mini:Bag,Sneaker";
    let net = FeatureNet::for_source(source, GREY).unwrap();
    let judge = |set: &Dataset| evaluate(&set.images, &set.labels, GREY, &net, source).unwrap();
    let test = judge(&load_test(source, GREY).unwrap());
    // The very images of the reference; nobody takes a bag for a shoe.
    assert!(test.fd < 1e-6 && test.class_accuracy.unwrap() > 0.97, "{test:?}");
    assert_eq!(test.per_class.iter().map(|c| &c.class[..]).collect::<Vec<_>>(), ["Bag", "Sneaker"]);
    let train = judge(&load_train(source, GREY).unwrap());
    assert!(train.fd > 0.01 && (train.fd - train.fd_floor).abs() < 1e-9, "{train:?}");
    // The ten classes together are something else.
    let all = load_train("fashion-mini", GREY).unwrap();
    let all = frechet_distance(&Gaussian::fit(&net.features(&all.images), FEATURES).unwrap(), &net.reference);
    assert!(all > 5.0 * train.fd, "{all}");
    let error = FeatureNet::for_source("fashion-mini:Hat", GREY).err().unwrap().to_string();
    assert!(error.starts_with("there is no class 'Hat'"), "{error}");
}

/// 120 test faces, of which a `share` is broken with `strength`.
fn broken_faces(test: &Dataset, family: Corruption, strength: f32, share: f32) -> Vec<u8> {
    let count = 120;
    let one = |i: usize| {
        let strength = if (i as f32) < share * count as f32 { strength } else { 0.0 };
        family.apply(test.image(i), test.image(1000 + i), FACE, strength, &mut NoiseStream::new(i as u64, 0))
    };
    (0..count).flat_map(one).collect()
}

#[test]
fn the_distance_rises_with_the_strength_of_a_corruption() {
    let (net, test) = (faces_net(), load_test("faces", FACE).unwrap());
    let whole = distance(&net, &broken_faces(&test, Corruption::Intact, 1.0, 1.0));
    // A half that is wholly another face's has a clean seam, and eyes two rows too low are as wrong as four: these two
    // are a matter of yes or no, see the next test.
    let graded = |family: &&Corruption| !matches!(family, Corruption::Halves | Corruption::Moved);
    for family in Corruption::ALL[1..].iter().filter(graded) {
        let curve = [0.33, 0.66, 1.0].map(|strength| distance(&net, &broken_faces(&test, *family, strength, 1.0)));
        println!("{:8} {whole:.2} {curve:.2?}", family.name());
        assert!(curve.is_sorted() && curve[0] > 3.0 * whole, "{} {whole} {curve:?}", family.name());
    }
}

#[test]
fn the_distance_rises_with_the_share_of_broken_faces() {
    let (net, test) = (faces_net(), load_test("faces", FACE).unwrap());
    let whole = distance(&net, &broken_faces(&test, Corruption::Intact, 1.0, 1.0));
    for family in &Corruption::ALL[1..] {
        let curve = [0.1, 0.4, 1.0].map(|share| distance(&net, &broken_faces(&test, *family, 1.0, share)));
        println!("{:8} {whole:.2} {curve:.2?}", family.name());
        assert!(whole < curve[0] && curve.is_sorted(), "{} {whole} {curve:?}", family.name());
    }
}

#[test]
fn missing_variety_is_noticed() {
    let (net, test) = (faces_net(), load_test("faces", FACE).unwrap());
    let varied = distance(&net, &test.images[..200 * 768]);
    let repeated = distance(&net, &test.images[..10 * 768].repeat(20));
    assert!(repeated > 2.0 * varied, "{repeated} against {varied}");
    // Only faces on one of the five backgrounds.
    let one_colour = |i: &usize| test.image(*i)[..3] == test.image(0)[..3];
    let plain: Vec<u8> = (0..test.len()).filter(one_colour).take(200).flat_map(|i| test.image(i).to_vec()).collect();
    assert!(distance(&net, &plain) > 2.0 * varied, "{} against {varied}", distance(&net, &plain));
}

fn same_statistics(net: &FeatureNet, test: &Dataset) {
    assert_eq!(test.len(), net.card.test_images);
    let again = Gaussian::fit(&net.features(&test.images), FEATURES).unwrap();
    // The shipped statistics are rounded to f32.
    assert!(frechet_distance(&again, &net.reference) < 1e-5);
    assert!(again.mean.iter().zip(&net.reference.mean).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn shipped_statistics_are_those_of_the_test_split() {
    same_statistics(&faces_net(), &load_test("faces", FACE).unwrap());
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/fashion-mnist");
    match fashion::load(&folder, Split::Test, GREY) {
        Ok(test) => same_statistics(&FeatureNet::for_source("fashion", GREY).unwrap(), &test),
        Err(_) => eprintln!("fashion skipped: Fashion-MNIST is not in data/ (picodream data fashion)"),
    }
}

#[test]
fn floors_are_interpolated_in_one_over_n() {
    let mut card = faces_net().card;
    card.floors =
        vec![Floor { samples: 100, fd: 11.0 }, Floor { samples: 200, fd: 6.0 }, Floor { samples: 400, fd: 3.5 }];
    // 1 + 1000/n.
    for n in [50, 100, 150, 200, 300, 400] {
        assert!((card.floor(n) - 1.0 - 1000.0 / n as f64).abs() < 1e-12, "{n}");
    }
    assert_eq!(card.floor(4000), 3.5);
}

#[test]
fn what_does_not_fit_is_refused() {
    let net = faces_net();
    let refused = |images: &[u8], labels: &[u16], image, source: &str, part: &str| {
        let error = evaluate(images, labels, image, &net, source).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&[0; 1536], &[], FACE, "fashion", "judges faces, but these images are of fashion");
    refused(&[0; 512], &[], GREY, "faces", "takes images of 16×16×3, but these are 16×16×1");
    refused(&[0; 1000], &[], FACE, "faces", "1000 bytes are not a whole number");
    refused(&[0; 1536], &[1], FACE, "faces", "1 labels for 2 images");
    refused(&[0; 768], &[], FACE, "faces", "at least 2 images, but there are 1");
    let error = FeatureNet::for_source("my-cats", FACE).err().unwrap().to_string();
    assert!(error.contains("no feature network for the data 'my-cats'"), "{error}");
}

#[test]
fn damaged_networks_are_refused() {
    let folder = std::env::temp_dir().join(format!("picodream-features-{}", std::process::id()));
    let path = folder.join("toy.safetensors");
    let refused = |card: &FeatureCard, change: &dyn Fn(&mut std::collections::BTreeMap<String, Tensor>), part: &str| {
        let mut tensors = read_tensors(&shipped_path("faces", 16)).unwrap();
        change(&mut tensors);
        save(&path, card, &tensors).unwrap();
        let error = format!("{:#}", FeatureNet::load(&path).err().unwrap());
        assert!(error.contains(part), "{error}");
    };
    let card = faces_net().card;
    refused(&card, &|t| drop(t.remove("dense.bias")), "tensor dense.bias is missing");
    refused(&card, &|t| t.get_mut("head.bias").unwrap().data[0] = f32::NAN, "not finite");
    refused(&FeatureCard { image: GREY, ..card.clone() }, &|_| {}, "tensor conv_1.weight has shape [16, 3, 3, 3]");
    let odd = ImageConfig { width: 18, ..FACE };
    refused(&FeatureCard { image: odd, ..card.clone() }, &|_| {}, "multiples of 4");
    refused(&FeatureCard { floors: Vec::new(), ..card }, &|_| {}, "no floors");
    std::fs::write(path.with_extension("json"), "{}").unwrap();
    assert!(format!("{:#}", FeatureNet::load(&path).err().unwrap()).contains("is not the card"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(format!("{:#}", FeatureNet::load(&path).err().unwrap()).contains("cannot read"));
}

#[test]
fn the_convolution_is_the_textbook_one() {
    // One image through conv_1 alone is not reachable from outside, so a network whose later layers copy: conv_2 and
    // conv_3 pass the middle tap of channel 0 on, the dense layer sums the 4×4 places of channel 0.
    let shapes = expected_shapes(GREY, 2);
    let mut tensors: std::collections::BTreeMap<String, Tensor> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let data = vec![0.0; shape.iter().product()];
            (name, Tensor { shape, data })
        })
        .collect();
    let kernel = [0.5, -0.25, 1.0, 2.0, 0.125, -1.0, 0.75, 0.0, -0.5];
    tensors.get_mut("conv_1.weight").unwrap().data[..9].copy_from_slice(&kernel);
    tensors.get_mut("conv_2.weight").unwrap().data[4] = 1.0;
    tensors.get_mut("conv_3.weight").unwrap().data[4] = 1.0;
    (0..16).for_each(|place| tensors.get_mut("dense.weight").unwrap().data[place * 64] = 1.0);
    let card = FeatureCard { image: GREY, class_names: vec!["a".into(), "b".into()], ..faces_net().card };
    let net = FeatureNet::new(card, &tensors).unwrap();
    let image: Vec<u8> = (0..256).map(|i| (i * 37 % 256) as u8).collect();
    let pixel = |y: i32, x: i32| {
        let inside = (0..16).contains(&y) && (0..16).contains(&x);
        if inside { f64::from(image[(y * 16 + x) as usize]) / 127.5 - 1.0 } else { 0.0 }
    };
    let at = |y: i32, x: i32| -> f64 {
        (0..9).map(|t| f64::from(kernel[t as usize]) * pixel(y + t / 3 - 1, x + t % 3 - 1)).sum::<f64>().max(0.0)
    };
    // Two strides of 2 keep every fourth pixel.
    let want: f64 = (0..16).map(|k| at(k / 4 * 4, k % 4 * 4)).sum();
    assert!((f64::from(net.features(&image)[0]) - want).abs() < 1e-4);
}
