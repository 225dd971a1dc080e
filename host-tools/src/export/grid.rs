//! Rows of weights on the grid on which a blob keeps them: how they come onto it, and how it is found again from their values.

use picodream::blob::WeightFormat;

use super::nibbles::{HIGH, LOW, MULTIPLIER_MAX, multipliers};
use super::quantise::{Rules, SUM_LIMIT, WEIGHT_MAX};

/// Share of [`SUM_LIMIT`] that rows are given, so that weights which grow in training stay below it.
const SUM_SHARE: f32 = 0.97;

/// The grid of a row: each weight is a whole multiple of `scale` · the multiplier of its group.
#[derive(Clone, Debug, PartialEq)]
pub struct RowGrid {
    /// Step of the row.
    pub scale: f32,
    /// Steps that the weights of each group are whole multiples of; empty on the grid of 8 bits, where they are of one.
    pub multipliers: Vec<u8>,
}

impl RowGrid {
    /// The grid that suits a row; `groups` says which weights share a multiplier on the grid of 4 bits. With 8 bits the largest
    /// weight is 127 steps, or fewer where sums of inputs of 10 bits would leave [`SUM_LIMIT`].
    #[must_use]
    pub fn suited(row: &[f32], format: WeightFormat, groups: &[usize]) -> Self {
        let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        if absmax == 0.0 {
            let count = groups.iter().max().map_or(0, |last| last + 1);
            let multipliers = if format == WeightFormat::Int4 { vec![1; count] } else { Vec::new() };
            return Self { scale: 1.0, multipliers };
        }
        if format == WeightFormat::Int4 {
            let scale = absmax / (HIGH * f32::from(MULTIPLIER_MAX));
            return Self { scale, multipliers: multipliers(row, &vec![1.0; row.len()], groups, scale) };
        }
        let sum: f32 = row.iter().map(|w| w.abs()).sum::<f32>() * (f32::from(Rules::default().qmax) + 1.0);
        Self { scale: (absmax / WEIGHT_MAX).max(sum / (SUM_SHARE * SUM_LIMIT as f32)), multipliers: Vec::new() }
    }

    /// The value of the grid nearest to weight `w` of group `group`.
    #[must_use]
    pub fn nearest(&self, w: f32, group: usize) -> f32 {
        match self.multipliers.get(group) {
            Some(&multiplier) => {
                let multiplier = f32::from(multiplier);
                (w / self.scale / multiplier).round_ties_even().clamp(LOW, HIGH) * multiplier * self.scale
            }
            None => (w / self.scale).round_ties_even().clamp(-WEIGHT_MAX, WEIGHT_MAX) * self.scale,
        }
    }

    /// The grid on which the weights of a row stand, the coarsest if there are several, and what they are in its steps.
    #[must_use]
    pub fn of(row: &[f32], format: WeightFormat, groups: &[usize]) -> Option<(Self, Vec<i8>)> {
        let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        (1..=WEIGHT_MAX as i8).find_map(|steps| {
            let scale = if absmax > 0.0 { absmax / f32::from(steps) } else { 1.0 };
            let exact = |w: &f32| {
                let integer = (w / scale).round();
                // Real numbers stand off by a quarter of a step on average, f32 by a few parts in 10⁷ of up to 127 steps.
                ((w / scale - integer).abs() < 1e-3).then_some(integer as i8)
            };
            let weight = row.iter().map(exact).collect::<Option<Vec<i8>>>()?;
            let count = if format == WeightFormat::Int4 { groups.iter().max().map_or(0, |last| last + 1) } else { 0 };
            let of_group = |group| weight.iter().zip(groups).filter(move |(_, g)| **g == group).map(|(w, _)| *w);
            let multipliers = (0..count).map(|group| common_factor(of_group(group))).collect::<Option<_>>()?;
            Some((Self { scale, multipliers }, weight))
        })
    }
}

/// The smallest multiplier of which all are multiples in reach.
fn common_factor(members: impl Iterator<Item = i8> + Clone) -> Option<u8> {
    let fits = |w: i8, m: i8| w % m == 0 && (LOW as i8..=HIGH as i8).contains(&(w / m));
    (1..=MULTIPLIER_MAX).find(|&m| members.clone().all(|w| fits(w, m as i8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use picodream::rng::NoiseStream;

    fn gaussian(seed: u64, len: usize) -> Vec<f32> {
        let mut row = vec![0.0; len];
        NoiseStream::new(seed, 0).fill_gaussian(&mut row);
        row
    }

    /// What the exporter does with what the trainer wrote: the grid of values alone, with the values unchanged.
    #[test]
    fn a_grid_is_found_again() {
        let groups: Vec<usize> = (0..150).map(|i| i / 32).collect();
        for (seed, format) in (0..50).flat_map(|seed| [(seed, WeightFormat::Int8), (seed, WeightFormat::Int4)]) {
            let mut row = gaussian(seed, groups.len());
            assert!(seed > 3 || RowGrid::of(&row, format, &groups).is_none(), "real weights stand on no grid");
            // Groups of their own size, and one of zeros.
            row.iter_mut().zip(&groups).for_each(|(w, &g)| *w *= [1.0, 0.3, 0.05, 0.0, 0.6][g]);
            let grid = RowGrid::suited(&row, format, &groups);
            let near: Vec<f32> = row.iter().zip(&groups).map(|(w, &g)| grid.nearest(*w, g)).collect();
            let (found, weight) = RowGrid::of(&near, format, &groups).unwrap();
            for ((&q, near), &group) in weight.iter().zip(&near).zip(&groups) {
                assert!((f32::from(q) * found.scale - near).abs() <= 1e-5 * near.abs(), "{q} {near}");
                if format == WeightFormat::Int4 {
                    let m = found.multipliers[group] as i8;
                    assert!(q % m == 0 && (-8..=7).contains(&(q / m)), "{q} {m}");
                }
            }
            // With the multiplier 15 no weight stands off by more than 7.5 steps, and a chosen one is better still.
            let most = if format == WeightFormat::Int4 { 7.51 } else { 0.51 } * grid.scale;
            for group in 0..5 {
                let members = || (0..150).filter(|&i| groups[i] == group);
                let squares: f32 = members().map(|i| (row[i] - near[i]).powi(2)).sum();
                assert!(squares <= members().count() as f32 * most.powi(2));
            }
        }
    }

    #[test]
    fn zeros_have_a_grid_and_long_rows_keep_their_sums_below_the_limit() {
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let (found, weight) = RowGrid::of(&[0.0; 9], format, &[0; 9]).unwrap();
            assert!(weight == [0; 9] && found.scale == 1.0);
            assert_eq!(RowGrid::suited(&[0.0; 9], format, &[0; 9]), found);
        }
        // 900 equal weights of 127 steps with inputs of 512 make 58 million.
        let row = vec![0.25; 900];
        let grid = RowGrid::suited(&row, WeightFormat::Int8, &[0; 900]);
        let steps = i64::from((grid.nearest(0.25, 0) / grid.scale) as i32);
        assert!((17..=18).contains(&steps) && steps * 900 * 512 < SUM_LIMIT, "{steps}");
    }
}
