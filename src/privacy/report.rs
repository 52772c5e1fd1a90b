//! [`Report`]: the table that `dpsyn privacy` prints, of ε per iteration or of σ for a target ε.

use std::fmt;

use super::accountant::{self, Adjacency};
use super::error::PrivacyError;
use super::rounding::round_up;
use super::settings::{PrivacyConfig, check_length, value_of};
use super::unit::Unit;
use crate::schedule::Schedule;

/// One row: σ of an iteration, and ε after it under both adjacencies, rounded up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReportRow {
    /// Number of iterations, each with one release.
    pub iteration: u32,
    /// σ of the last of them, if it changes.
    pub noise_multiplier: Option<f64>,
    /// ε under [`Adjacency::AddRemove`].
    pub add_remove: f64,
    /// ε under [`Adjacency::ReplaceOne`].
    pub replace_one: f64,
}

/// The cost of a number of releases with the noise of a `[privacy]` table. [`fmt::Display`] formats
/// it as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// σ, as given, or as required by the target under the declared adjacency.
    pub noise_multiplier: Schedule<f64>,
    /// δ.
    pub delta: f64,
    /// The declared adjacency.
    pub adjacency: Adjacency,
    /// The unit whose participation is protected.
    pub unit: Unit,
    /// True if nothing is claimed under add-remove adjacency.
    pub only_replace_one: bool,
    /// One row per iteration.
    pub rows: Vec<ReportRow>,
    /// The target ε, if one was given, and the smallest σ that reaches it under add-remove and
    /// under replace-one.
    pub target: Option<(f64, [f64; 2])>,
}

/// The maximum number of rows: a bound of the time for a mistyped number, far above any real plan.
const MAX_ITERATIONS: u32 = 100_000;

impl Report {
    /// Computes the table. Unlike [`PrivacyConfig::resolve`], it accepts any noise multiplier,
    /// because it serves planning only.
    ///
    /// # Errors
    /// Returns [`PrivacyError::Config`] if both or neither of `noise_multiplier` and `epsilon` are
    /// given, if a list has another number of entries than `iterations`, or if a value is out of
    /// range.
    pub fn new(config: &PrivacyConfig, iterations: u32) -> Result<Self, PrivacyError> {
        if iterations > MAX_ITERATIONS {
            return Err(PrivacyError::config(
                "iterations",
                format!("expected at most {MAX_ITERATIONS}, found {iterations}"),
            ));
        }
        let sigma = |target, adjacency| {
            accountant::noise_multiplier(target, iterations, config.delta, adjacency)
        };
        let (noise_multiplier, target) = match (&config.noise_multiplier, config.epsilon) {
            (Some(noise_multiplier), None) => (noise_multiplier.clone(), None),
            (None, Some(target)) => {
                let both = [
                    sigma(target, Adjacency::AddRemove)?,
                    sigma(target, Adjacency::ReplaceOne)?,
                ];
                (
                    sigma(target, config.adjacency)?.into(),
                    Some((target, both)),
                )
            }
            _ => {
                return Err(PrivacyError::config(
                    "noise_multiplier",
                    "expected either noise_multiplier or epsilon, and not both",
                ));
            }
        };
        check_length("noise_multiplier", &noise_multiplier, iterations)?;
        let epsilon = |iteration, adjacency| {
            accountant::epsilon_of(&noise_multiplier, iteration, config.delta, adjacency)
        };
        let list = Some(&noise_multiplier).filter(|noise| noise.len().is_some());
        let rows = (1..=iterations)
            .map(|iteration| {
                Ok(ReportRow {
                    iteration,
                    noise_multiplier: list.and_then(|list| value_of(list, iteration)),
                    add_remove: epsilon(iteration, Adjacency::AddRemove)?,
                    replace_one: epsilon(iteration, Adjacency::ReplaceOne)?,
                })
            })
            .collect::<Result<_, PrivacyError>>()?;
        Ok(Self {
            noise_multiplier,
            delta: config.delta,
            adjacency: config.adjacency,
            unit: config.unit,
            only_replace_one: false,
            rows,
            target,
        })
    }
}

impl Report {
    /// Leaves out the figures under add-remove adjacency, for a configuration that uses the first
    /// images of its source only (`data.num_samples`).
    #[must_use]
    pub fn for_truncated_source(self) -> Self {
        Self {
            only_replace_one: true,
            ..self
        }
    }

    /// Returns a figure under add-remove adjacency as text, if there is one.
    fn under_add_remove(&self, value: f64, decimals: usize) -> String {
        match self.only_replace_one {
            true => "-".to_owned(),
            false => round_up(value, decimals),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "unit {}, declared adjacency {}, delta {}, noise multiplier {} (figures rounded up)",
            self.unit,
            self.adjacency,
            self.delta,
            match &self.noise_multiplier {
                Schedule::Constant(sigma) => round_up(*sigma, 4),
                Schedule::List(_) => "of each iteration".to_owned(),
            }
        )?;
        if let Some((target, [add_remove, replace_one])) = self.target {
            writeln!(
                f,
                "epsilon {target} after {} iterations needs a noise multiplier of {} (add-remove) \
                 or {} (replace-one)",
                self.rows.len(),
                self.under_add_remove(add_remove, 4),
                round_up(replace_one, 4)
            )?;
        }
        writeln!(f)?;
        let sigma = |text: String| match &self.noise_multiplier {
            Schedule::Constant(_) => String::new(),
            Schedule::List(_) => format!("  {text:>16}"),
        };
        writeln!(
            f,
            "{:>9}{}  {:>18}  {:>19}",
            "iteration",
            sigma("noise multiplier".to_owned()),
            "epsilon add-remove",
            "epsilon replace-one"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:>9}{}  {:>18}  {:>19}",
                row.iteration,
                sigma(
                    row.noise_multiplier
                        .map_or(String::new(), |value| value.to_string())
                ),
                self.under_add_remove(row.add_remove, 3),
                round_up(row.replace_one, 3)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(noise_multiplier: Option<f64>, epsilon: Option<f64>) -> PrivacyConfig {
        PrivacyConfig {
            noise_multiplier: noise_multiplier.map(Schedule::from),
            epsilon,
            delta: 1e-5,
            adjacency: Adjacency::AddRemove,
            unit: Unit::Image,
            budget: None,
            pad_release_to: None,
        }
    }

    #[test]
    fn the_paper_s_table() {
        let sigma = 5.0 * 2f64.sqrt();
        let report = Report::new(&config(Some(sigma), None), 20).unwrap();
        let text = report.to_string();
        assert!(text.contains("        1               0.497 "), "{text}");
        // 2.59438… and 3.84827…
        let last = text.lines().last().unwrap();
        assert_eq!(words(last), ["20", "2.595", "3.849"]);
        assert!(text.contains("unit image"), "{text}");
        let truncated = report.for_truncated_source().to_string();
        let last = truncated.lines().last().unwrap();
        assert_eq!(words(last), ["20", "-", "3.849"]);
    }

    #[test]
    fn a_list_has_a_column() {
        let list = PrivacyConfig {
            noise_multiplier: Some(Schedule::List(vec![4.0, 2.5])),
            ..config(None, None)
        };
        let report = Report::new(&list, 2).unwrap();
        let text = report.to_string();
        let rows: Vec<Vec<&str>> = text.lines().rev().take(2).map(words).collect();
        assert_eq!(rows[0][..2], ["2", "2.5"]);
        assert_eq!(rows[1][..2], ["1", "4"]);
        // 1/16 + 4/25
        let one = accountant::epsilon(0.2225f64.powf(-0.5), 1, 1e-5, Adjacency::AddRemove);
        assert!((report.rows[1].add_remove / one.unwrap() - 1.0).abs() < 1e-12);
        assert!(
            text.contains("iteration  noise multiplier  epsilon add-remove"),
            "{text}"
        );
        let error = Report::new(&list, 3).unwrap_err().to_string();
        assert!(error.contains("2 entries where 3 were expected"), "{error}");
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn a_target_is_met() {
        let report = Report::new(&config(None, Some(1.0)), 10).unwrap();
        assert!(report.rows[9].add_remove <= 1.0 && report.rows[9].add_remove > 0.999);
        let (target, [add_remove, replace_one]) = report.target.unwrap();
        assert_eq!(
            (target, add_remove),
            (1.0, *report.noise_multiplier.last().unwrap())
        );
        assert!((add_remove - 11.797_293_077_1).abs() < 1e-6);
        // The histogram changes by √2 times as much.
        assert!((replace_one / add_remove - 2f64.sqrt()).abs() < 1e-9);
        assert!(report.to_string().contains("11.7973 (add-remove)"));
    }

    #[test]
    fn one_of_the_two_is_needed() {
        assert!(Report::new(&config(None, None), 1).is_err());
        assert!(Report::new(&config(Some(1.0), Some(1.0)), 1).is_err());
        let none = Report::new(&config(Some(0.0), None), 1).unwrap();
        assert!(none.to_string().contains("infinite"));
    }
}
