//! The search for the best order: against every order of small random graphs, on crafted ones, on the shipped models.

use picodream::rng::NoiseStream;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::config::{ImageConfig, UNetConfig};
use crate::export::{Kernels, Rules, lower};
use crate::float::graph::Narrow;
use crate::float::{FloatPipeline, Norm, TensorInfo, random};

/// A network of convolutions of nothing: only shapes matter here.
fn graph(tensors: &[(usize, usize)], ops: Vec<Op>) -> Graph {
    let info =
        |&(side, channels): &(usize, usize)| TensorInfo { name: String::new(), height: side, width: side, channels };
    let output = ops.last().map_or(0, Op::out);
    Graph { tensors: tensors.iter().map(info).collect(), ops, sample: 0, temb: usize::MAX, output, num_classes: 0 }
}

fn conv(reads: [Option<TensorId>; 3], out: TensorId, kernel: usize, normed: bool) -> Op {
    let norm = normed.then(|| Norm { groups: 1, eps: 0.0, gamma: Vec::new(), beta: Vec::new() });
    let [src_a, src_b, residual] = reads;
    Op::Conv(Conv {
        name: String::new(),
        src_a: src_a.unwrap_or(0),
        src_b,
        residual,
        out,
        kernel,
        stride: 1,
        upsample: false,
        norm,
        silu: false,
        weight: Vec::new(),
        bias: Vec::new(),
        time: None,
    })
}

/// Up to seven ops of one to three sources each, among them a few that narrow.
fn random(stream: &mut NoiseStream) -> Graph {
    let mut below = |n: usize| stream.below(n as u32) as usize;
    let count = 3 + below(5);
    let mut tensors = vec![(4, 4)];
    let mut ops = Vec::new();
    for out in 1..=count {
        let some = |yes: bool, id: usize| yes.then_some(id);
        let (a, b, c) = (below(out), below(out), below(out));
        tensors.push(([2, 4][below(2)], [8, 16, 32][below(3)]));
        ops.push(if below(4) == 0 && a > 0 {
            tensors[out] = tensors[a];
            Op::Narrow(Narrow { name: String::new(), src: a, out })
        } else {
            let reads = [Some(a), some(below(2) == 0, b), some(below(3) == 0, c)];
            conv(reads, out, [1, 3][below(2)], below(2) == 0)
        });
    }
    graph(&tensors, ops)
}

/// Working memory of its own for each output, more where that has statistics.
fn scratch(graph: &Graph, places: &Places, op: usize) -> u32 {
    let out = graph.ops[op].out();
    let statistics = places.records[usize::from(places.of[out])].statistics;
    (out as u32 * 7 % 5) * 48 + u32::from(statistics) * 64
}

fn bound(graph: &Graph) -> u32 {
    lower_bound(&buffers(graph, scratch)).1
}

/// The largest live set of every order that there is.
fn every_bound(graph: &Graph, order: &mut Vec<usize>, all: &mut Vec<u32>) {
    if order.len() == graph.ops.len() {
        all.extend(graph.reordered(order).map(|graph| bound(&graph)));
    }
    for op in 0..graph.ops.len() {
        if !order.contains(&op) {
            order.push(op);
            every_bound(graph, order, all);
            order.pop();
        }
    }
}

#[test]
fn no_order_needs_less_than_the_one_found() {
    let mut stream = NoiseStream::new(5, 0);
    let mut improved = 0;
    for _ in 0..300 {
        let graph = random(&mut stream);
        let mut all = Vec::new();
        every_bound(&graph, &mut Vec::new(), &mut all);
        let (least, given) = (all.iter().min().copied().unwrap(), bound(&graph));
        let mut search = Search::new(&graph, &scratch);
        while search.descend(&mut State::default()) == End::Better {}
        assert_eq!((search.least, search.best.is_some()), (least, least < given), "{graph:?}");
        if let Some(order) = search.best {
            assert_eq!(bound(&graph.reordered(&order).unwrap()), least);
            improved += 1;
        }
    }
    // Enough of them to mean something.
    assert!(improved > 50, "{improved}");
}

/// Two wide tensors, each made narrow by the op after it, or both made first.
fn branches(wide_first: bool) -> Graph {
    let wide = |out| conv([Some(0), None, None], out, 3, false);
    let thin = |src, out| conv([Some(src), None, None], out, 3, false);
    let (first, second, join) = (wide(1), thin(1, 2), conv([Some(2), Some(4), None], 5, 3, false));
    let (third, fourth) = (wide(3), thin(3, 4));
    let ops =
        if wide_first { vec![first, third, second, fourth, join] } else { vec![first, second, third, fourth, join] };
    graph(&[(4, 1), (4, 64), (4, 1), (4, 64), (4, 1), (4, 1)], ops)
}

#[test]
fn what_is_wide_is_not_kept_twice() {
    // In bytes: x_t and the output in f32 are 64 each, a wide tensor 2048, a thin one 32. Both wide ones with a thin one
    // take 64 + 2 · 2048 + 32; one after the other with both thin ones 64 + 2048 + 2 · 32.
    let found = best_order(&branches(true), |_, _, _| 0);
    assert_eq!((found.given_bytes, found.bytes, &found.ops[..]), (4192, 2176, &[0, 2, 1, 3, 4][..]));
    assert!(found.better() && found.complete);
    assert!(found.to_string().starts_with("changed, 4192 to 2176 bytes ("), "{found}");
}

#[test]
fn of_equals_the_given_order_stays() {
    let found = best_order(&branches(false), |_, _, _| 0);
    assert_eq!((found.given_bytes, found.bytes, &found.ops[..]), (2176, 2176, &[0, 1, 2, 3, 4][..]));
    assert!(!found.better() && found.to_string().starts_with("as given, none needs less ("), "{found}");
}

#[test]
fn the_shipped_models_have_the_best_order() {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    for name in [
        "fashion-16",
        "fashion-16-fast",
        "fashion-16-nano",
        "fashion-16-nano-fast",
        "fashion-16-eps",
        "faces-16",
        "faces-16-fast",
        "fashion-28",
        "emoji-32",
    ] {
        let checkpoint = Checkpoint::load(&models.join(name).with_extension("safetensors")).unwrap();
        let found = of_checkpoint(&checkpoint);
        assert!(!found.better() && found.complete, "{name}: {found}");
    }
}

#[test]
fn deep_networks_are_searched_to_the_end() {
    let image = ImageConfig { width: 32, height: 32, channels: 3 };
    let unet = UNetConfig { block_out_channels: vec![8, 16, 16, 24], layers_per_block: 3, ..UNetConfig::default() };
    let unet = UNetConfig { attention_levels: vec![false, true, true, true], norm_num_groups: 4, ..unet };
    let found = of_checkpoint(&random::checkpoint(random::config(image, unet, 3), 3));
    assert!(found.ops.len() > 80 && found.complete, "{found}");
}

fn of_checkpoint(checkpoint: &Checkpoint) -> Order {
    let pipeline = FloatPipeline::new(checkpoint).unwrap();
    lower::best_order(pipeline.net().graph(), &Rules::default(), Kernels::Small)
}

#[test]
fn a_graph_takes_only_orders_of_its_own() {
    let graph = branches(false);
    assert!(graph.reordered(&[2, 3, 0, 1, 4]).is_some());
    for wrong in [&[1, 0, 2, 3, 4][..], &[0, 1, 2, 3], &[0, 0, 1, 2, 3], &[0, 1, 2, 3, 5]] {
        assert!(graph.reordered(wrong).is_none(), "{wrong:?}");
    }
}
