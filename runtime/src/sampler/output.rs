//! What stands in a network's output: for each pixel the prediction of every channel and, where the network learned variances
//! too, as many numbers behind them that say the variance (arXiv:2102.09672). `channels` are those of the image and of the
//! output, which has as many or twice as many.

use core::cell::Cell;

/// The prediction, in the order of the image.
pub fn predictions(output: &[f32], channels: [u16; 2]) -> impl Iterator<Item = f32> {
    let [own, given] = channels.map(|channels| usize::from(channels.max(1)));
    output.chunks_exact(given).flat_map(move |pixel| pixel.iter().take(own)).copied()
}

/// Keeps the prediction of the pass that guidance leads away from.
pub fn keep_prediction(output: &[f32], kept: &mut [f32], channels: [u16; 2]) {
    for (kept, value) in kept.iter_mut().zip(predictions(output, channels)) {
        *kept = value;
    }
}

/// Classifier-free guidance (arXiv:2207.12598): negative + scale · (output − negative), written over the prediction in
/// `output`. Variances stay those of the class's own pass, as in OpenAI's samplers.
pub fn guide(output: &mut [f32], negative: &[f32], scale: f32, channels: [u16; 2]) {
    let [own, given] = channels.map(|channels| usize::from(channels.max(1)));
    for (pixel, negative) in output.chunks_exact_mut(given).zip(negative.chunks_exact(own)) {
        for (c, &n) in pixel.iter_mut().zip(negative) {
            *c = n + scale * (*c - n);
        }
    }
}

/// Takes the variances out: the prediction alone, moved together at the front of `output`.
pub(crate) fn without_variances(output: &mut [f32], channels: [u16; 2]) -> &mut [f32] {
    let [own, given] = channels.map(|channels| usize::from(channels.max(1)));
    if own >= given {
        return output;
    }
    let cells = Cell::from_mut(&mut *output).as_slice_of_cells();
    for (pixel, kept) in cells.chunks_exact(given).zip(cells.chunks_exact(own)) {
        // Never behind what has been written: given > own.
        pixel.iter().zip(kept).for_each(|(from, to)| to.set(from.get()));
    }
    let kept = output.len() / given * own;
    output.get_mut(..kept).unwrap_or(&mut [])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pixels of three channels: predictions 0, 1, 2 and 10, 11, 12 with variances below 0.
    const OUTPUT: [f32; 12] = [0.0, 1.0, 2.0, -1.0, -2.0, -3.0, 10.0, 11.0, 12.0, -4.0, -5.0, -6.0];

    #[test]
    fn the_prediction_is_the_first_half_of_every_pixel() {
        let want = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0];
        assert!(predictions(&OUTPUT, [3, 6]).eq(want));
        let mut kept = [0.0; 6];
        keep_prediction(&OUTPUT, &mut kept, [3, 6]);
        assert_eq!(kept, want);
        assert_eq!(without_variances(&mut OUTPUT.clone(), [3, 6]), want);
        assert_eq!(without_variances(&mut OUTPUT.clone(), [3, 3]), OUTPUT);
        assert!(predictions(&OUTPUT, [1, 1]).eq(OUTPUT));
    }

    #[test]
    fn guidance_moves_the_prediction_and_leaves_variances() {
        let mut output = OUTPUT;
        guide(&mut output, &[1.0; 6], 2.0, [3, 6]);
        assert_eq!(output, [-1.0, 1.0, 3.0, -1.0, -2.0, -3.0, 19.0, 21.0, 23.0, -4.0, -5.0, -6.0]);
        let mut output = [3.0, 5.0];
        guide(&mut output, &[1.0, 2.0], 0.5, [1, 1]);
        assert_eq!(output, [2.0, 3.5]);
    }
}
