//! The arena plan as a picture: time (ops) from left to right, addresses from bottom to top, one rectangle a tensor.

use std::fmt::Write;

use super::escape;

/// One tensor's place and life in the arena.
#[derive(Clone, Debug)]
pub struct MapTensor {
    /// What to write into the rectangle.
    pub name: String,
    /// First byte in the arena.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
    /// Index of the op that writes it.
    pub first_op: usize,
    /// Index of the last op that touches it.
    pub last_op: usize,
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    /// One line above the drawing.
    pub title: String,
    /// Op names in order of execution.
    pub ops: Vec<String>,
    /// Every tensor.
    pub tensors: Vec<MapTensor>,
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Largest sum of bytes alive at once: no plan can need less.
    pub lower_bound_bytes: usize,
    /// The op where that happens.
    pub peak_op: usize,
}

const LEFT: f64 = 76.0;
const TOP: f64 = 64.0;
const COLUMN: f64 = 30.0;
const HEIGHT: f64 = 520.0;
const NAMES: f64 = 210.0;
const FILLS: [&str; 8] = ["#8fb8de", "#f2c57c", "#a6d8a8", "#e6a5a1", "#c3b1e1", "#9ad5ca", "#f0b5d0", "#d6cf9a"];

/// Draws the plan as one self-contained SVG file.
#[must_use]
pub fn memory_map_svg(map: &MemoryMap) -> String {
    let width = LEFT + COLUMN * map.ops.len() as f64 + 150.0;
    let height = TOP + HEIGHT + NAMES;
    let mut svg = String::new();
    push(
        &mut svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">"
        ),
    );
    push(&mut svg, format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"));
    push(&mut svg, format_args!("<text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}</text>", escape(&map.title)));
    push(
        &mut svg,
        format_args!(
            "<text x=\"{LEFT}\" y=\"46\" fill=\"#555\">left to right: ops of one denoising step; bottom to top: arena address; one rectangle per tensor, from the op that writes it to the last that reads it</text>"
        ),
    );
    columns(&mut svg, map);
    axis(&mut svg, map);
    map.tensors.iter().enumerate().for_each(|(i, tensor)| rectangle(&mut svg, map, i, tensor));
    push(
        &mut svg,
        format_args!(
            "<rect x=\"{:.1}\" y=\"{TOP}\" width=\"{COLUMN}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#b00020\" stroke-width=\"2\"/>",
            x_of(map.peak_op)
        ),
    );
    level(&mut svg, map, (map.arena_bytes, -3.0), "arena", "#333", "");
    level(&mut svg, map, (map.lower_bound_bytes, 11.0), "lower bound", "#b00020", " stroke-dasharray=\"6 4\"");
    svg.push_str("</svg>\n");
    svg
}

/// `fmt::Write` into a `String` cannot fail.
fn push(svg: &mut String, line: std::fmt::Arguments) {
    let _ = writeln!(svg, "{line}");
}

fn y_of(map: &MemoryMap, address: usize) -> f64 {
    TOP + HEIGHT * (1.0 - address as f64 / map.arena_bytes.max(1) as f64)
}

fn x_of(op: usize) -> f64 {
    LEFT + COLUMN * op as f64
}

/// A stripe and a slanted name for every op; the peak op in red.
fn columns(svg: &mut String, map: &MemoryMap) {
    for (i, name) in map.ops.iter().enumerate() {
        let peak = i == map.peak_op;
        let fill = match (peak, i % 2) {
            (true, _) => "#ffe3e0",
            (false, 0) => "#f6f7f9",
            (false, _) => "#fff",
        };
        let x = x_of(i);
        push(
            svg,
            format_args!("<rect x=\"{x:.1}\" y=\"{TOP}\" width=\"{COLUMN}\" height=\"{HEIGHT}\" fill=\"{fill}\"/>"),
        );
        let (x, y) = (x + COLUMN / 2.0 + 3.0, TOP + HEIGHT + 10.0);
        let style = if peak { " fill=\"#b00020\" font-weight=\"bold\"" } else { "" };
        let mark = if peak { " (peak)" } else { "" };
        push(
            svg,
            format_args!(
                "<text transform=\"translate({x:.1} {y:.1}) rotate(-60)\" text-anchor=\"end\" font-size=\"10\"{style}>{i} {}{mark}</text>",
                escape(name)
            ),
        );
    }
}

/// Addresses on the left: about eight round numbers.
fn axis(svg: &mut String, map: &MemoryMap) {
    let step = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 262_144]
        .into_iter()
        .find(|step| map.arena_bytes / step <= 10)
        .unwrap_or(1 << 20);
    for address in (0..=map.arena_bytes).step_by(step) {
        let y = y_of(map, address);
        let right = x_of(map.ops.len());
        push(svg, format_args!("<path d=\"M{LEFT} {y:.1}H{right:.1}\" stroke=\"#ddd\"/>"));
        push(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{address}</text>",
                LEFT - 6.0,
                y + 4.0
            ),
        );
    }
}

fn rectangle(svg: &mut String, map: &MemoryMap, index: usize, tensor: &MapTensor) {
    let (x, y) = (x_of(tensor.first_op), y_of(map, tensor.offset + tensor.bytes));
    let width = COLUMN * (tensor.last_op + 1).saturating_sub(tensor.first_op) as f64;
    let height = y_of(map, tensor.offset) - y;
    let (name, fill) = (escape(&tensor.name), FILLS[index % FILLS.len()]);
    push(
        svg,
        format_args!(
            "<g><title>{name}: {} bytes at {}, ops {} to {}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\" fill-opacity=\"0.85\" stroke=\"#444\" stroke-width=\"0.7\"/>",
            tensor.bytes, tensor.offset, tensor.first_op, tensor.last_op
        ),
    );
    let label = format!("{name} · {}", tensor.bytes);
    let short = name.rsplit_once("blocks.").map_or(name.as_str(), |(_, short)| short);
    for (text, across, along) in [&label, &name, short].map(|text| (text, width, height)) {
        if text.chars().count() as f64 * 5.6 + 6.0 <= across && along >= 12.0 {
            let (x, y) = (x + across / 2.0, y + along / 2.0 + 3.5);
            push(
                svg,
                format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" font-size=\"10\">{text}</text>"),
            );
            break;
        } else if text.chars().count() as f64 * 5.6 + 6.0 <= along && across >= 12.0 {
            let (x, y) = (x + across / 2.0 + 3.5, y + along / 2.0);
            push(
                svg,
                format_args!(
                    "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\" font-size=\"10\">{text}</text>"
                ),
            );
            break;
        }
    }
    svg.push_str("</g>\n");
}

/// A line across the drawing at `bytes`, with its name and bytes on the right, `shift` below it.
fn level(svg: &mut String, map: &MemoryMap, (bytes, shift): (usize, f64), name: &str, colour: &str, dash: &str) {
    let (y, right) = (y_of(map, bytes), x_of(map.ops.len()));
    push(svg, format_args!("<path d=\"M{LEFT} {y:.1}H{right:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\"{dash}/>"));
    let (x, y) = (right + 6.0, y + shift);
    push(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{name} {bytes} B</text>"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_and_op_is_drawn() {
        let tensor = |name: &str, offset, first_op, last_op| MapTensor {
            name: name.into(),
            offset,
            bytes: 512,
            first_op,
            last_op,
        };
        let map = MemoryMap {
            title: "a < b".into(),
            ops: vec!["conv_in".into(), "conv_out".into()],
            tensors: vec![tensor("x", 0, 0, 1), tensor("h", 512, 1, 1)],
            arena_bytes: 1024,
            lower_bound_bytes: 1024,
            peak_op: 1,
        };
        let svg = memory_map_svg(&map);
        assert_eq!(svg.matches("<g>").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.contains("conv_out (peak)") && svg.contains("lower bound 1024 B"));
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }
}
