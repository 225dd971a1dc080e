//! Every operator against a naive loop, every gradient against central finite differences.
//!
//! The scalar is f = Σ r·op(…) with fixed random r, summed in f64. With step h the difference quotient is off by f'''·h²/6
//! and by the rounding of f32 outputs, about 1e-7·|f|/h. Convolution is linear in each argument, so h = 0.5 leaves rounding
//! only; for the others h = 0.02 makes both parts a few 1e-4.

use candle_core::{Device, Result, Tensor, Var};
use picodream::rng::NoiseStream;

use super::attention::Attention;
use super::conv::Conv;
use super::norm::GroupNorm;

fn random(stream: u64, shape: &[usize]) -> Tensor {
    let mut data = vec![0.0; shape.iter().product()];
    NoiseStream::new(11, stream).fill_gaussian(&mut data);
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Compares the gradients of Σ r·op(inputs) with difference quotients, at up to 40 places per input.
fn check_gradients(inputs: &[Tensor], h: f32, tolerance: f64, op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<Tensor> = inputs.iter().map(|t| Var::from_tensor(t).unwrap().into_inner()).collect();
    let out = op(&vars).unwrap();
    let weights = random(99, out.dims());
    let grads = (out * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let scalar = |inputs: &[Tensor]| -> f64 {
        let out = values(&op(inputs).unwrap());
        out.iter().zip(values(&weights)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum()
    };
    for (which, input) in inputs.iter().enumerate() {
        let grad = values(grads.get(&vars[which]).unwrap());
        let data = values(input);
        for i in (0..data.len()).step_by(data.len().div_ceil(40)) {
            let moved = |delta: f32| {
                let mut data = data.clone();
                data[i] += delta;
                let mut inputs = inputs.to_vec();
                inputs[which] = Tensor::from_vec(data, input.dims(), &Device::Cpu).unwrap();
                scalar(&inputs)
            };
            let width = f64::from((data[i] + h) - (data[i] - h));
            let want = (moved(h) - moved(-h)) / width;
            let got = f64::from(grad[i]);
            assert!((got - want).abs() < tolerance * (1.0 + want.abs()), "input {which} index {i}: {got} but {want}");
        }
    }
}

/// Convolution by its definition, in f64.
fn naive_conv(op: Conv, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Vec<f64> {
    let (b, h, w, cin) = x.dims4().unwrap();
    let (cout, _, k, _) = weight.dims4().unwrap();
    let rows = bias.dim(0).unwrap();
    let (x, weight, bias) = (values(x), values(weight), values(bias));
    let up = 1 + usize::from(op.upsample);
    let (gh, gw) = (h * up, w * up);
    let mut out = Vec::new();
    for n in 0..b {
        for (oy, ox) in (0..gh / op.stride).flat_map(|y| (0..gw / op.stride).map(move |x| (y, x))) {
            for o in 0..cout {
                let mut sum = f64::from(bias[if rows == 1 { 0 } else { n } * cout + o]);
                for (ky, kx) in (0..k).flat_map(|y| (0..k).map(move |x| (y, x))) {
                    let (y, x0) = (oy * op.stride + ky, ox * op.stride + kx);
                    let (Some(y), Some(x0)) = (y.checked_sub(k / 2), x0.checked_sub(k / 2)) else { continue };
                    if y < gh && x0 < gw {
                        for i in 0..cin {
                            let pixel = x[((n * h + y / up) * w + x0 / up) * cin + i];
                            sum += f64::from(pixel) * f64::from(weight[((o * cin + i) * k + ky) * k + kx]);
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

/// Every mode, with channel counts that fill vectors of 8 and 16 lanes, and that do not.
fn conv_cases() -> Vec<(Conv, [Tensor; 3])> {
    let modes = [
        (Conv::PLAIN, 3),
        (Conv::PLAIN, 1),
        (Conv { stride: 2, ..Conv::PLAIN }, 3),
        (Conv { upsample: true, ..Conv::PLAIN }, 3),
    ];
    let mut cases = Vec::new();
    for (op, k) in modes {
        for (cin, cout, rows) in [(1, 16, 1), (16, 3, 1), (3, 5, 2), (16, 32, 2), (32, 48, 1)] {
            let tensors = [random(1, &[2, 4, 6, cin]), random(2, &[cout, cin, k, k]), random(3, &[rows, cout])];
            cases.push((op, tensors));
        }
    }
    cases
}

#[test]
fn conv_equals_its_definition() {
    for (op, [x, w, b]) in conv_cases() {
        let got = values(&op.apply(&x, &w, &b).unwrap());
        let want = naive_conv(op, &x, &w, &b);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            // 288 products of size about 1 in f32.
            assert!((f64::from(*got) - want).abs() < 2e-4, "{op:?}: {got} but {want}");
        }
    }
}

#[test]
fn conv_gradients() {
    for (op, inputs) in conv_cases() {
        check_gradients(&inputs, 0.5, 2e-3, |t| op.apply(&t[0], &t[1], &t[2]));
    }
}

#[test]
fn conv_without_input_gradient() {
    let op = Conv { input_grad: false, ..Conv::PLAIN };
    let [x, w, b] = [random(1, &[1, 4, 4, 1]), random(2, &[8, 1, 3, 3]), random(3, &[1, 8])];
    check_gradients(&[w, b], 0.5, 2e-3, |t| op.apply(&x, &t[0], &t[1]));
}

#[test]
fn conv_refuses_shapes_that_do_not_fit() {
    let x = random(1, &[1, 4, 4, 2]);
    let (w, b) = (random(2, &[4, 3, 3, 3]), random(3, &[1, 4]));
    assert!(Conv::PLAIN.apply(&x, &w, &b).is_err(), "channels");
    let (w, b) = (random(2, &[4, 2, 5, 5]), random(3, &[1, 4]));
    assert!(Conv::PLAIN.apply(&x, &w, &b).is_err(), "kernel");
    let (w, b) = (random(2, &[4, 2, 3, 3]), random(3, &[3, 4]));
    assert!(Conv::PLAIN.apply(&x, &w, &b).is_err(), "bias rows");
    let odd = random(1, &[1, 5, 4, 2]);
    let b = random(3, &[1, 4]);
    assert!(Conv { stride: 2, ..Conv::PLAIN }.apply(&odd, &w, &b).is_err(), "odd height at stride 2");
}

fn naive_group_norm(op: GroupNorm, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Vec<f64> {
    let (b, h, w, c) = x.dims4().unwrap();
    let (x, weight, bias) = (values(x), values(weight), values(bias));
    let size = c / op.groups;
    let mut out = vec![0.0; x.len()];
    for (n, g) in (0..b).flat_map(|n| (0..op.groups).map(move |g| (n, g))) {
        let places: Vec<usize> = (0..h * w * size).map(|i| (n * h * w + i / size) * c + g * size + i % size).collect();
        let count = places.len() as f64;
        let mean = places.iter().map(|&p| f64::from(x[p])).sum::<f64>() / count;
        let variance = places.iter().map(|&p| (f64::from(x[p]) - mean).powi(2)).sum::<f64>() / count;
        for p in places {
            let z = (f64::from(x[p]) - mean) / (variance + f64::from(op.eps)).sqrt();
            let z = z * f64::from(weight[p % c]) + f64::from(bias[p % c]);
            out[p] = if op.silu { z / (1.0 + (-z).exp()) } else { z };
        }
    }
    out
}

#[test]
fn group_norm_equals_its_definition_and_has_its_gradients() {
    for (groups, c, silu) in [(8, 32, true), (8, 48, true), (2, 4, true), (3, 6, false), (1, 16, false)] {
        let op = GroupNorm { groups, eps: 1e-5, silu };
        let inputs = [random(1, &[2, 3, 5, c]), random(2, &[c]), random(3, &[c])];
        let got = values(&op.apply(&inputs[0], &inputs[1], &inputs[2]).unwrap());
        for (got, want) in got.iter().zip(naive_group_norm(op, &inputs[0], &inputs[1], &inputs[2])) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{op:?}: {got} but {want}");
        }
        check_gradients(&inputs, 0.02, 3e-3, |t| op.apply(&t[0], &t[1], &t[2]));
    }
}

#[test]
fn attention_equals_its_definition_and_has_its_gradients() {
    for (heads, c, h, w) in [(1, 32, 4, 4), (2, 6, 2, 3), (4, 16, 3, 3)] {
        let op = Attention { heads };
        let inputs = [random(1, &[2, h, w, c]), random(2, &[2, h, w, c]), random(3, &[2, h, w, c])];
        let got = values(&op.apply(&inputs[0], &inputs[1], &inputs[2]).unwrap());
        let [q, k, v] = [0, 1, 2].map(|i| values(&inputs[i]));
        let (n, d) = (h * w, c / heads);
        for (b, head, i) in (0..2).flat_map(|b| (0..heads).flat_map(move |m| (0..n).map(move |i| (b, m, i)))) {
            let at = |t: &[f32], row: usize, j: usize| f64::from(t[(b * n + row) * c + head * d + j]);
            let scores: Vec<f64> = (0..n)
                .map(|r| ((0..d).map(|j| at(&q, i, j) * at(&k, r, j)).sum::<f64>() / (d as f64).sqrt()).exp())
                .collect();
            for j in 0..d {
                let want = (0..n).map(|r| scores[r] * at(&v, r, j)).sum::<f64>() / scores.iter().sum::<f64>();
                assert!((at(&got, i, j) - want).abs() < 1e-5, "{op:?}");
            }
        }
        check_gradients(&inputs, 0.02, 3e-3, |t| op.apply(&t[0], &t[1], &t[2]));
    }
}

#[test]
fn a_tensor_used_twice_sums_both_gradients() {
    // candle's own upsample_nearest2d fails here: its backward overwrites the sum.
    let [x, w, b] = [random(1, &[1, 4, 4, 4]), random(2, &[4, 4, 3, 3]), random(3, &[1, 4])];
    check_gradients(&[x, w, b], 0.5, 2e-3, |t| {
        let up = Conv { upsample: true, ..Conv::PLAIN }.apply(&t[0], &t[1], &t[2])?;
        let down = Conv { stride: 2, ..Conv::PLAIN }.apply(&up, &t[1], &t[2].affine(0.5, 0.0)?)?;
        down + &t[0]
    });
}

#[test]
fn a_concat_hands_each_part_its_gradient() {
    let [a, c, w] = [random(1, &[2, 2, 2, 4]), random(2, &[2, 2, 2, 4]), random(3, &[4, 8, 3, 3])];
    let b = random(4, &[1, 4]);
    check_gradients(&[a, c, w], 0.5, 2e-3, |t| Conv::PLAIN.apply(&Tensor::cat(&[&t[0], &t[1]], 3)?, &t[2], &b));
}
