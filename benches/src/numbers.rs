//! Samples and their statistics.

use serde_json::{Value, json};

/// Median and extremes of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Median: half of the samples are not above it.
    pub median: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
}

impl Spread {
    /// Statistics of `samples`. `None` if there are none. Failed samples (NaN) are left out.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted: Vec<_> = samples.iter().copied().filter(|sample| !sample.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }

    /// Statistics of the ratios between samples of the same round.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let pairs = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs != 0.0);
        Self::of(&pairs.map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }

    /// Formats the median, and the extremes in parentheses.
    pub fn text(self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }

    /// Formats a ratio in the same way.
    pub fn times(self) -> String {
        let Self { median, min, max } = self;
        format!("{median:.2}× ({min:.2}–{max:.2})")
    }

    /// The statistics as JSON.
    pub fn to_json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        let median = |samples: &[f64]| Spread::of(samples).unwrap().median;
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(median(&[f64::NAN, 5.0]), 5.0);
    }

    #[test]
    fn ratios_are_of_pairs_not_of_medians() {
        let ratios = Spread::of_ratios(&[2.0, 9.0, 4.0], &[1.0, 3.0, 4.0]).unwrap();
        assert_eq!(
            ratios,
            Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            }
        );
    }
}
