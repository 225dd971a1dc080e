//! How sure the figures are: the same evaluation with other seeds, as a mean and the half-width of its 95 % interval.

use serde::Serialize;

use super::{ClassAccuracy, EvalReport, Neighbours};

/// Half-widths of the 95 % confidence intervals of the means (Student's t); absent where the figure is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confidence {
    /// Evaluations, each with its own seeds.
    pub repeats: usize,
    /// Of the Fréchet distance.
    pub fd: f64,
    /// Of the class accuracy.
    pub class_accuracy: Option<f64>,
    /// Of the share of unbroken images.
    pub intact: Option<f64>,
    /// Of the density.
    pub density: Option<f64>,
    /// Of the coverage.
    pub coverage: Option<f64>,
    /// Of the share of images near a training image.
    pub near_training: Option<f64>,
}

/// The mean report, and how sure it is when there are two reports or more. There must be one at least.
#[must_use]
pub fn summarise(reports: &[EvalReport]) -> (EvalReport, Option<Confidence>) {
    let first = &reports[0];
    let all = |f: &dyn Fn(&EvalReport) -> f64| reports.iter().map(f).collect::<Vec<_>>();
    let some = |f: &dyn Fn(&EvalReport) -> Option<f64>| reports.iter().map(f).collect::<Option<Vec<_>>>();
    let near = |f: fn(&Neighbours) -> f64| some(&|r| r.neighbours.as_ref().map(f));
    let per_class = |i: usize| ClassAccuracy {
        accuracy: mean(&all(&|r| r.per_class[i].accuracy)),
        samples: reports.iter().map(|r| r.per_class[i].samples).sum(),
        ..first.per_class[i].clone()
    };
    let average = EvalReport {
        fd: mean(&all(&|r| r.fd)),
        fd_floor: first.fd_floor,
        class_accuracy: some(&|r| r.class_accuracy).map(|v| mean(&v)),
        intact: some(&|r| r.intact).map(|v| mean(&v)),
        samples: first.samples,
        per_class: (0..first.per_class.len()).map(per_class).collect(),
        neighbours: first.neighbours.as_ref().map(|_| {
            let of = |f: fn(&Neighbours) -> f64| near(f).map_or(f64::NAN, |v| mean(&v));
            Neighbours {
                density: of(|n| n.density),
                coverage: of(|n| n.coverage),
                coverage_floor: of(|n| n.coverage_floor),
                train_distance: of(|n| n.train_distance),
                train_distance_test: of(|n| n.train_distance_test),
                near_training: of(|n| n.near_training),
            }
        }),
    };
    let width = |values: Option<Vec<f64>>| values.and_then(|v| half_width(&v));
    let confidence = half_width(&all(&|r| r.fd)).map(|fd| Confidence {
        repeats: reports.len(),
        fd,
        class_accuracy: width(some(&|r| r.class_accuracy)),
        intact: width(some(&|r| r.intact)),
        density: width(near(|n| n.density)),
        coverage: width(near(|n| n.coverage)),
        near_training: width(near(|n| n.near_training)),
    });
    (average, confidence)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// t·s/√n with the 97.5 % point of Student's t for n − 1 degrees of freedom; nothing for less than two values.
fn half_width(values: &[f64]) -> Option<f64> {
    const T: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    let degrees = values.len().checked_sub(1).filter(|n| *n > 0)?;
    let centre = mean(values);
    let variance = values.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / degrees as f64;
    // Beyond the table the normal point with Cornish and Fisher's first correction, within 0.2 %.
    let n = degrees as f64;
    let t = T.get(degrees - 1).copied().unwrap_or(1.96 + (1.96f64.powi(3) + 1.96) / (4.0 * n));
    Some(t * (variance / values.len() as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fd: f64) -> EvalReport {
        let class = ClassAccuracy { class: "a".into(), accuracy: fd / 10.0, samples: 5 };
        EvalReport {
            fd,
            fd_floor: 0.1,
            class_accuracy: Some(0.5),
            intact: None,
            samples: 5,
            per_class: vec![class],
            neighbours: None,
        }
    }

    #[test]
    fn mean_and_interval_of_three_known_values() {
        let (average, confidence) = summarise(&[report(1.0), report(2.0), report(3.0)]);
        let confidence = confidence.unwrap();
        assert!((average.fd - 2.0).abs() < 1e-12 && (average.per_class[0].accuracy - 0.2).abs() < 1e-12);
        assert_eq!((average.per_class[0].samples, confidence.repeats), (15, 3));
        // s = 1, t(2) = 4.303: 4.303/√3.
        assert!((confidence.fd - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!((confidence.class_accuracy, confidence.intact, confidence.density), (Some(0.0), None, None));
    }

    #[test]
    fn one_report_has_no_interval_and_many_approach_the_normal() {
        assert_eq!(summarise(&[report(1.0)]), (report(1.0), None));
        // 31 values, s² = 1: t(30) = 2.042 in every table.
        let values: Vec<f64> = [0.0].into_iter().chain((0..30).map(|i| f64::from(2 * (i % 2) - 1))).collect();
        assert!((half_width(&values).unwrap() * 31f64.sqrt() - 2.042).abs() < 0.002 * 2.042);
    }
}
