//! The figures of `log.txt` follow from published arrays alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dpsyn::internals::images::NpzReader;

/// Computes the figures of a population from its lineage and from the votes above the threshold,
/// in the words of the log.
fn figures(folder: &Path, population: u32) -> String {
    let file = |name: &str| folder.join(population.to_string()).join(name);
    let mut samples = NpzReader::open(&file("samples.npz")).unwrap();
    let (_, parents) = samples.i64s("parent").unwrap();
    let (_, ancestors) = samples.i64s("ancestor").unwrap();
    let mut children = BTreeMap::<i64, f64>::new();
    for parent in parents {
        *children.entry(parent).or_default() += 1.0;
    }
    let sum: f64 = children.values().sum();
    let squares: f64 = children.values().map(|count| count * count).sum();
    let mut votes = NpzReader::open(&file("votes.npz")).unwrap();
    let (_, votes) = votes.f64s("votes").unwrap();
    let above = votes.iter().filter(|votes| **votes > 0.0).count();
    format!(
        "{:.1} effective parents, {} ancestors in population 0; {:.1} % of population {} above the \
         threshold",
        sum * sum / squares,
        ancestors.iter().collect::<BTreeSet<_>>().len(),
        100.0 * above as f64 / votes.len() as f64,
        population - 1
    )
}

/// Compares the figures of all populations in a log with those of the files beside it.
pub fn assert_figures_follow(folder: &Path, log: &str) {
    let mut found = 0;
    for line in log.lines() {
        let Some((head, shown)) = line.split_once(" samples; ") else {
            continue;
        };
        let number = head.strip_prefix("population ").unwrap();
        let (number, _) = number.split_once(": ").unwrap();
        assert_eq!(shown, figures(folder, number.parse().unwrap()), "{line}");
        found += 1;
    }
    let releases = log.matches("released a noisy histogram").count();
    assert!(found > 0 && found == releases, "{log}");
}
