//! The derivation of each sample: its parent, and the sample of population 0 that it comes from.

use std::collections::{HashMap, HashSet};

use crate::images::{NpzError, NpzReader};

/// The way in which a sample came into its population. The numbers are those of the array `origin`
/// of `samples.npz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// A random image of the generator.
    Random = 0,
    /// A variation of the parent.
    Variation = 1,
    /// The parent itself, which was kept.
    Kept = 2,
    /// An image of `evolution.initial_samples`.
    Initial = 3,
}

impl Origin {
    fn of(number: i64) -> Option<Self> {
        [Self::Random, Self::Variation, Self::Kept, Self::Initial]
            .into_iter()
            .find(|origin| *origin as i64 == number)
    }
}

/// The derivation of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The way in which it came into its population.
    pub origin: Origin,
    /// Index of the parent: in the previous population, or in population 0 for a variation of a
    /// random image of population 0. `None` for a sample without a parent.
    pub parent: Option<u32>,
    /// Index among the variations of one selection of the parent; 0 for samples that are none.
    pub fold: u32,
    /// Index in population 0 of the sample that this one descends from; its own index there.
    pub ancestor: u32,
}

impl Lineage {
    /// Returns the derivation of sample `index` of population 0 that has no parent.
    #[must_use]
    pub fn first(origin: Origin, index: usize) -> Self {
        Self {
            origin,
            parent: None,
            fold: 0,
            ancestor: u32::try_from(index).unwrap_or(u32::MAX),
        }
    }
}

/// Names of the arrays of derivations.
const COLUMNS: [&str; 4] = ["parent", "fold", "origin", "ancestor"];

/// Returns the arrays of derivations: name and one number for each sample. The parent of a sample
/// without one is −1.
pub(super) fn columns(lineages: &[Lineage]) -> [(&'static str, Vec<i64>); 4] {
    let column = |of: fn(&Lineage) -> i64| lineages.iter().map(of).collect();
    let [parent, fold, origin, ancestor] = COLUMNS;
    [
        (parent, column(|one| one.parent.map_or(-1, i64::from))),
        (fold, column(|one| i64::from(one.fold))),
        (origin, column(|one| one.origin as i64)),
        (ancestor, column(|one| i64::from(one.ancestor))),
    ]
}

/// Reads the arrays that [`columns`] names; returns `None` if they are not `count` derivations. In
/// a file without any of them, as version 0.1.0 wrote it, samples are their own ancestors.
///
/// # Errors
/// [`NpzError`] if an array is missing or damaged.
pub(super) fn read<R: std::io::Read + std::io::Seek>(
    arrays: &mut NpzReader<R>,
    count: usize,
) -> Result<Option<Vec<Lineage>>, NpzError> {
    if !COLUMNS.iter().any(|name| arrays.has(name)) {
        let own = |index| Lineage::first(Origin::Initial, index);
        return Ok(Some((0..count).map(own).collect()));
    }
    let mut column = |name| arrays.i64s(name).map(|(_, numbers)| numbers);
    let [parent, fold, origin, ancestor] = COLUMNS;
    let (parents, folds) = (column(parent)?, column(fold)?);
    let (origins, ancestors) = (column(origin)?, column(ancestor)?);
    let rows = parents.iter().zip(&folds).zip(&origins).zip(&ancestors);
    let lineages: Option<Vec<Lineage>> = rows
        .map(|(((parent, fold), origin), ancestor)| {
            Some(Lineage {
                origin: Origin::of(*origin)?,
                parent: match *parent {
                    -1 => None,
                    parent => Some(u32::try_from(parent).ok()?),
                },
                fold: u32::try_from(*fold).ok()?,
                ancestor: u32::try_from(*ancestor).ok()?,
            })
        })
        .collect();
    let lengths = [&parents, &folds, &origins, &ancestors].map(Vec::len);
    Ok(lineages.filter(|_| lengths == [count; 4]))
}

/// Returns the number of distinct samples of population 0 that `lineages` descend from.
#[must_use]
pub fn distinct_ancestors(lineages: &[Lineage]) -> usize {
    let distinct: HashSet<u32> = lineages.iter().map(|lineage| lineage.ancestor).collect();
    distinct.len()
}

/// Returns the effective number of parents, (Σc)² / Σc² over the numbers of children c: the number
/// of parents with equally many children that would have the same sum of squares.
#[must_use]
pub fn effective_parents(lineages: &[Lineage]) -> f64 {
    let parents = lineages.iter().filter_map(|lineage| lineage.parent);
    let mut children = HashMap::<u32, f64>::new();
    for parent in parents {
        *children.entry(parent).or_default() += 1.0;
    }
    let sum: f64 = children.values().sum();
    let squares: f64 = children.values().map(|count| count * count).sum();
    if squares > 0.0 {
        sum * sum / squares
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::images::NpzWriter;

    impl Lineage {
        fn with_fold(self, fold: u32) -> Self {
            Self { fold, ..self }
        }
    }

    fn child(parent: u32, ancestor: u32) -> Lineage {
        Lineage {
            origin: Origin::Variation,
            parent: Some(parent),
            fold: 0,
            ancestor,
        }
    }

    #[test]
    fn figures_count_parents_and_ancestors() {
        let equal = [child(0, 7), child(1, 7), child(2, 9), child(3, 9)];
        assert_eq!(effective_parents(&equal), 4.0);
        assert_eq!(distinct_ancestors(&equal), 2);
        // Three children of one parent and one of another: 16 / (9 + 1).
        let unequal = [child(5, 0), child(5, 0), child(5, 0), child(6, 1)];
        assert_eq!(effective_parents(&unequal), 1.6);
        assert_eq!(effective_parents(&[Lineage::first(Origin::Random, 3)]), 0.0);
    }

    #[test]
    fn a_file_without_lineage_begins_one_and_a_part_of_it_is_an_error() {
        let read_with = |keys: &[&str]| {
            let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
            for key in ["labels"].iter().chain(keys) {
                writer.i64s(key, &[2], &[0, 1]).unwrap();
            }
            let file = writer.finish().unwrap();
            read(&mut NpzReader::new(file).unwrap(), 2)
        };
        let expected = [0, 1].map(|index| Lineage::first(Origin::Initial, index));
        assert_eq!(read_with(&[]).unwrap().unwrap(), expected);
        assert!(read_with(&["parent"]).is_err());
        assert_eq!(
            read_with(&COLUMNS).unwrap().unwrap()[1],
            child(1, 1).with_fold(1)
        );
    }

    #[test]
    fn origins_are_their_numbers() {
        for origin in [
            Origin::Random,
            Origin::Variation,
            Origin::Kept,
            Origin::Initial,
        ] {
            assert_eq!(Origin::of(origin as i64), Some(origin));
        }
        assert_eq!(Origin::of(4), None);
        assert_eq!(Origin::of(-1), None);
    }
}
