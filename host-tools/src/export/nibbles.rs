//! The multipliers of 4-bit weights: one per group of a row, in 0..=15 steps of the row's scale.

/// Smallest and largest integer of a 4-bit weight.
pub const LOW: f32 = -8.0;
/// See [`LOW`].
pub const HIGH: f32 = 7.0;
/// The largest multiplier.
pub const MULTIPLIER_MAX: u8 = 15;

/// The multiplier of each group with the least Σ variance · error² when every weight of the group goes to the nearest
/// multiple of multiplier · `scale`.
#[must_use]
pub fn multipliers(row: &[f32], variance: &[f64], groups: &[usize], scale: f32) -> Vec<u8> {
    let count = groups.iter().max().map_or(0, |last| last + 1);
    let mut members: Vec<Vec<(f64, f64)>> = vec![Vec::new(); count];
    for ((&w, &variance), &group) in row.iter().zip(variance).zip(groups) {
        members[group].push((f64::from(w) / f64::from(scale), variance));
    }
    members.iter().map(|members| best(members)).collect()
}

fn best(members: &[(f64, f64)]) -> u8 {
    let cost = |multiplier: u8| -> f64 {
        let step = f64::from(multiplier);
        let error = |w: f64| w - (w / step).round_ties_even().clamp(LOW.into(), HIGH.into()) * step;
        members.iter().map(|&(w, variance)| variance * error(w).powi(2)).sum()
    };
    (1..=MULTIPLIER_MAX).min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_on_the_grid_get_their_multiplier() {
        // Two groups, of 3 · 0.5 and of 11 · 0.5; both hold 1, so that no multiple of the step fits as well.
        let row: Vec<f32> =
            [(-8i8, 3i8), (7, 3), (1, 3), (-3, 11), (7, 11), (1, 11)].map(|(q, m)| f32::from(q * m) * 0.5).to_vec();
        assert_eq!(multipliers(&row, &[1.0; 6], &[0, 0, 0, 1, 1, 1], 0.5), [3, 11]);
    }

    #[test]
    fn what_matters_most_is_met_best() {
        // With factors of at most 7, 13 is a multiple of 13 alone and 90 of 15 alone: the variances decide.
        let of = |variance: [f64; 2]| multipliers(&[13.0, 90.0], &variance, &[0, 0], 1.0);
        assert_eq!((of([1.0, 0.0]), of([0.0, 1.0])), (vec![13], vec![15]));
    }
}
