//! Quality against cost as one SVG: a line a model, both axes logarithmic.

use std::fmt::Write;

use super::escape;

/// A measured point.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvePoint {
    /// Position from left to right, above 0.
    pub cost: f64,
    /// Position from bottom to top, above 0.
    pub value: f64,
    /// What to write beside it.
    pub label: String,
}

/// A line and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct CurveSeries {
    /// What the legend says.
    pub name: String,
    /// In order of cost.
    pub points: Vec<CurvePoint>,
}

/// The whole drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// One line above it.
    pub title: String,
    /// What `cost` is.
    pub cost: String,
    /// What `value` is.
    pub value: String,
    /// A value that is drawn as a dashed line, and what it is.
    pub floor: Option<(f64, String)>,
    /// The lines.
    pub series: Vec<CurveSeries>,
}

const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 620.0;
const HEIGHT: f64 = 380.0;
const LEGEND: f64 = 20.0;
const COLOURS: [&str; 8] = ["#1f6fb4", "#d1731f", "#2f8f46", "#b3342d", "#7d5bb0", "#3d9c93", "#b85c93", "#857a2c"];

/// A logarithmic axis from `low` to `high`.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// Around all values, to the next of 1, 2, 5 · 10ⁿ on both sides.
    fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (least, most) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
        let low = ticks().take_while(|&tick| tick <= least).last().unwrap_or(least);
        let high = ticks().find(|&tick| tick >= most).unwrap_or(most);
        Self { low, high: if high > low { high } else { 2.0 * low } }
    }

    /// 0 at `low`, 1 at `high`.
    fn place(&self, value: f64) -> f64 {
        (value / self.low).ln() / (self.high / self.low).ln()
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low * 0.999, self.high * 1.001);
        ticks().filter(move |&tick| tick >= low && tick <= high)
    }
}

/// 1, 2 and 5 · 10ⁿ from 10⁻⁶ to 10¹⁵.
fn ticks() -> impl Iterator<Item = f64> {
    (-6..16).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
}

/// 20 M for 20,000,000, 0.2 for itself.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{} G", v / 1e9),
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e4 => format!("{} k", v / 1e3),
        v => format!("{}", (v * 1e6).round() / 1e6),
    }
}

/// Draws the lines as one self-contained SVG file; points that are not above 0 are left out.
#[must_use]
pub fn curve_svg(curve: &Curve) -> String {
    let points = || curve.series.iter().flat_map(|series| &series.points).filter(|point| drawable(point));
    let floor = curve.floor.iter().map(|(value, _)| *value);
    let x = Axis::around(points().map(|point| point.cost));
    let y = Axis::around(points().map(|point| point.value).chain(floor));
    let height = TOP + HEIGHT + 60.0 + LEGEND * curve.series.len() as f64;
    let width = LEFT + WIDTH + 70.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}</text>\n",
        escape(&curve.title)
    );
    axes(&mut svg, curve, &x, &y);
    if let Some((value, name)) = &curve.floor {
        let at = down(&y, *value);
        line(&mut svg, format_args!("<path d=\"M{LEFT} {at:.1}h{WIDTH}\" stroke=\"#888\" stroke-dasharray=\"6 4\"/>"));
        text(&mut svg, (LEFT + 6.0, at - 4.0), "fill=\"#666\"", name);
    }
    for (index, series) in curve.series.iter().enumerate() {
        draw_series(&mut svg, series, index, (&x, &y));
    }
    svg.push_str("</svg>\n");
    svg
}

fn drawable(point: &CurvePoint) -> bool {
    point.cost > 0.0 && point.value > 0.0 && point.cost.is_finite() && point.value.is_finite()
}

fn right(axis: &Axis, value: f64) -> f64 {
    LEFT + WIDTH * axis.place(value)
}

fn down(axis: &Axis, value: f64) -> f64 {
    TOP + HEIGHT * (1.0 - axis.place(value))
}

fn axes(svg: &mut String, curve: &Curve, x: &Axis, y: &Axis) {
    for tick in x.ticks() {
        let at = right(x, tick);
        line(svg, format_args!("<path d=\"M{at:.1} {TOP}v{HEIGHT}\" stroke=\"#ddd\"/>"));
        text(svg, (at, TOP + HEIGHT + 16.0), "text-anchor=\"middle\" fill=\"#555\"", &short(tick));
    }
    for tick in y.ticks() {
        let at = down(y, tick);
        line(svg, format_args!("<path d=\"M{LEFT} {at:.1}h{WIDTH}\" stroke=\"#ddd\"/>"));
        text(svg, (LEFT - 6.0, at + 4.0), "text-anchor=\"end\" fill=\"#555\"", &short(tick));
    }
    text(svg, (LEFT + WIDTH, TOP + HEIGHT + 36.0), "text-anchor=\"end\"", &curve.cost);
    text(svg, (LEFT - 60.0, TOP - 8.0), "", &curve.value);
}

fn draw_series(svg: &mut String, series: &CurveSeries, index: usize, (x, y): (&Axis, &Axis)) {
    let colour = COLOURS[index % COLOURS.len()];
    let places: Vec<_> = series
        .points
        .iter()
        .filter(|point| drawable(point))
        .map(|point| (right(x, point.cost), down(y, point.value), &point.label))
        .collect();
    let way: Vec<_> = places.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
    let way = way.join(" ");
    line(svg, format_args!("<polyline points=\"{way}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
    for (x, y, label) in &places {
        line(svg, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
        text(svg, (x + 6.0, y - 5.0), &format!("fill=\"{colour}\""), label);
    }
    let at = TOP + HEIGHT + 60.0 + LEGEND * index as f64;
    line(svg, format_args!("<path d=\"M{LEFT} {:.1}h24\" stroke=\"{colour}\" stroke-width=\"3\"/>", at - 4.0));
    text(svg, (LEFT + 32.0, at), "", &series.name);
}

/// `fmt::Write` into a `String` cannot fail.
fn line(svg: &mut String, line: std::fmt::Arguments) {
    let _ = writeln!(svg, "{line}");
}

fn text(svg: &mut String, (x, y): (f64, f64), style: &str, words: &str) {
    line(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>", escape(words)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_are_logarithmic() {
        let axis = Axis::around([3.0, 170.0].into_iter());
        assert!((axis.low - 2.0).abs() < 1e-9 && (axis.high - 200.0).abs() < 1e-9);
        assert!((axis.place(20.0) - 0.5).abs() < 1e-9, "half-way is the geometric mean");
        assert_eq!(axis.ticks().map(short).collect::<Vec<_>>(), ["2", "5", "10", "20", "50", "100", "200"]);
        assert_eq!([2e4, 5e6, 1e9, 0.05].map(short), ["20 k", "5 M", "1 G", "0.05"]);
        // One point alone still has an axis.
        let axis = Axis::around([10.0].into_iter());
        assert!(axis.high > axis.low);
    }

    #[test]
    fn more_costs_lie_right_and_worse_values_higher() {
        let point = |cost, value| CurvePoint { cost, value, label: format!("{cost}") };
        let series =
            CurveSeries { name: "a & b".into(), points: vec![point(1e6, 0.2), point(1e7, 0.1), point(0.0, 1.0)] };
        let (title, cost, value) = ("t".into(), "c".into(), "v".into());
        let svg = curve_svg(&Curve { title, cost, value, floor: Some((0.05, "real".into())), series: vec![series] });
        let circles: Vec<(f64, f64)> = svg
            .lines()
            .filter_map(|line| line.strip_prefix("<circle cx=\""))
            .map(|line| line.split('"').collect::<Vec<_>>())
            .map(|parts| (parts[0].parse().unwrap(), parts[2].parse().unwrap()))
            .collect();
        assert_eq!(circles.len(), 2, "a point without cost has no place");
        assert!(circles[0].0 < circles[1].0 && circles[0].1 < circles[1].1);
        assert!(svg.contains("a &amp; b") && svg.contains("stroke-dasharray"));
    }
}
