//! The split of a population into classes.

use std::collections::BTreeMap;
use std::ops::Range;

/// The number of samples of each class; class `c` has the contiguous range `ranges()[c]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassLayout {
    counts: Vec<u64>,
}

impl ClassLayout {
    /// Splits `num_samples` among `classes`, the share of each class a multiple of `fold`.
    ///
    /// Without `shares`, all classes get the same number, which must divide evenly. With
    /// `shares`, the method of largest remainders decides (as in the newer Python library).
    ///
    /// # Errors
    /// A message about the number that does not divide, or the class without samples.
    pub fn new(
        num_samples: u64,
        classes: &[String],
        shares: Option<&BTreeMap<String, f64>>,
        fold: u64,
    ) -> Result<Self, String> {
        let fold = fold.max(1);
        let k = classes.len() as u64;
        if k == 0 {
            return Err("there is no class".to_owned());
        }
        if !num_samples.is_multiple_of(fold) {
            return Err(format!(
                "{num_samples} samples do not divide by {fold}, the images of each parent"
            ));
        }
        let parents = num_samples / fold;
        let counts = match shares {
            None => {
                if !num_samples.is_multiple_of(k) {
                    return Err(format!(
                        "{num_samples} samples do not divide by the {k} classes"
                    ));
                }
                if !parents.is_multiple_of(k) {
                    return Err(format!(
                        "{num_samples} samples do not divide by {k} classes of {fold} images per parent"
                    ));
                }
                vec![parents / k; classes.len()]
            }
            Some(shares) => by_shares(parents, classes, shares)?,
        };
        if let Some((class, _)) = classes.iter().zip(&counts).find(|(_, n)| **n == 0) {
            return Err(format!(
                "class `{class}` gets none of {num_samples} samples"
            ));
        }
        Ok(Self {
            counts: counts.into_iter().map(|n| n * fold).collect(),
        })
    }

    /// Makes a layout from the number of samples of each class.
    #[must_use]
    pub fn of_counts(counts: Vec<u64>) -> Self {
        Self { counts }
    }

    /// Returns the number of all samples.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the number of samples of each class.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the sample indices of each class.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        self.counts
            .iter()
            .map(|count| {
                let range = start..start + *count as usize;
                start = range.end;
                range
            })
            .collect()
    }

    /// Returns the class index of each sample.
    #[must_use]
    pub fn labels(&self) -> Vec<i64> {
        self.counts
            .iter()
            .enumerate()
            .flat_map(|(class, count)| std::iter::repeat_n(class as i64, *count as usize))
            .collect()
    }
}

fn by_shares(
    parents: u64,
    classes: &[String],
    shares: &BTreeMap<String, f64>,
) -> Result<Vec<u64>, String> {
    if let Some(unknown) = shares.keys().find(|name| !classes.contains(name)) {
        return Err(format!(
            "`{unknown}` is not a class of the data; the classes are {}",
            classes.join(", ")
        ));
    }
    let weights: Vec<f64> = classes
        .iter()
        .map(|class| {
            shares
                .get(class)
                .copied()
                .filter(|share| share.is_finite() && *share > 0.0)
                .ok_or_else(|| format!("class `{class}` needs a share above 0"))
        })
        .collect::<Result<_, _>>()?;
    let total: f64 = weights.iter().sum();
    if !total.is_finite() {
        return Err("the shares are too large to be added".to_owned());
    }
    let targets: Vec<f64> = weights
        .iter()
        .map(|share| share / total * parents as f64)
        .collect();
    let mut counts: Vec<u64> = targets.iter().map(|t| t.floor() as u64).collect();
    let mut order: Vec<usize> = (0..classes.len()).collect();
    // On a tie the higher index wins, as in that library.
    order.sort_by(|a, b| {
        let (a, b) = ((targets[*a].fract(), a), (targets[*b].fract(), b));
        b.0.total_cmp(&a.0).then(b.1.cmp(a.1))
    });
    let left = parents.saturating_sub(counts.iter().sum());
    for class in order.into_iter().take(left as usize) {
        counts[class] += 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("c{i}")).collect()
    }

    #[test]
    fn equal_shares_must_come_out_even() {
        let layout = ClassLayout::new(12, &names(3), None, 2).unwrap();
        assert_eq!(layout.ranges(), [0..4, 4..8, 8..12]);
        assert_eq!(layout.labels()[3..5], [0, 1]);
        for (n, fold, message) in [(10, 1, "3 classes"), (12, 5, "by 5"), (9, 9, "9 images")] {
            let error = ClassLayout::new(n, &names(3), None, fold).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn declared_shares_use_largest_remainders() {
        let shares = BTreeMap::from([("c0".into(), 1.0), ("c1".into(), 2.0)]);
        let layout = ClassLayout::new(10, &names(2), Some(&shares), 1).unwrap();
        assert_eq!(layout.counts(), [3, 7]);
        let layout = ClassLayout::new(20, &names(2), Some(&shares), 2).unwrap();
        assert_eq!(layout.counts(), [6, 14]);
        let tiny = BTreeMap::from([("c0".into(), 1e-9), ("c1".into(), 2.0)]);
        assert!(ClassLayout::new(10, &names(2), Some(&tiny), 1).is_err());
        let unknown = BTreeMap::from([("x".into(), 1.0)]);
        assert!(ClassLayout::new(10, &names(2), Some(&unknown), 1).is_err());
        let missing = BTreeMap::from([("c0".into(), 1.0)]);
        assert!(ClassLayout::new(10, &names(2), Some(&missing), 1).is_err());
    }
}
