//! Values as text: rows of `metrics.csv` and lines for a terminal. Each describes the compared
//! sets.

use super::{MetricValue, ReferenceCount};
use crate::privacy::sha256_hex;

/// First line of `metrics.csv`.
pub const HEADER: &str = "population,figure,value,low,high,samples,reference_images,reference,\
                          embedder,resolution,dtype,details,settings";

/// Feature space of a comparison.
#[derive(Debug, Clone)]
pub struct FeatureSpace {
    /// Name of the embedder, with the first digits of its weights' digest.
    pub embedder: String,
    /// Rows and columns to which images are resized before embedding.
    pub resolution: usize,
    /// Number type of the embedder's computation.
    pub dtype: &'static str,
    /// Digest of everything that the vector of an image depends on.
    pub digest: String,
}

/// Description of a comparison.
pub struct Comparison<'a> {
    /// Number of the population, or file of the samples.
    pub population: String,
    /// Name of the reference.
    pub reference: &'a str,
    /// Feature space.
    pub space: &'a FeatureSpace,
    /// Digest of the settings, see [`settings_key`].
    pub settings: String,
}

/// Returns a short digest of the settings that a value depends on.
#[must_use]
pub fn settings_key(parts: &serde_json::Value) -> String {
    let mut digest = sha256_hex(parts.to_string().as_bytes());
    digest.truncate(16);
    digest
}

impl MetricValue {
    /// Returns the row of `metrics.csv`, without the line break.
    #[must_use]
    pub fn row(&self, of: &Comparison<'_>) -> String {
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        let reference_images = match self.reference {
            ReferenceCount::Unused => "0".to_owned(),
            ReferenceCount::Unknown => "unknown".to_owned(),
            ReferenceCount::Images(count) => count.to_string(),
        };
        let fields = [
            of.population.clone(),
            self.name.to_owned(),
            number(Some(self.value)),
            number(self.interval.map(|interval| interval.low)),
            number(self.interval.map(|interval| interval.high)),
            self.samples.to_string(),
            reference_images,
            self.reference_name(of).to_owned(),
            of.space.embedder.clone(),
            of.space.resolution.to_string(),
            of.space.dtype.to_owned(),
            self.details.clone(),
            of.settings.clone(),
        ];
        fields.map(|field| quoted(&field)).join(",")
    }

    /// Returns the line for a terminal.
    #[must_use]
    pub fn line(&self, of: &Comparison<'_>) -> String {
        let interval = self.interval.map_or(String::new(), |interval| {
            format!(" [{:.6}, {:.6}]", interval.low, interval.high)
        });
        let against = match self.reference {
            ReferenceCount::Unused => String::new(),
            ReferenceCount::Images(count) => format!(" against {count} images of {}", of.reference),
            ReferenceCount::Unknown => format!(" against {}", of.reference),
        };
        let details = if self.details.is_empty() {
            String::new()
        } else {
            format!("; {}", self.details)
        };
        format!(
            "{}: {} {:.6}{interval}: {} samples{against}; {}, resolution {}, {}{details}",
            of.population,
            self.name,
            self.value,
            self.samples,
            of.space.embedder,
            of.space.resolution,
            of.space.dtype,
        )
    }

    fn reference_name<'a>(&self, of: &Comparison<'a>) -> &'a str {
        if self.reference == ReferenceCount::Unused {
            "none"
        } else {
            of.reference
        }
    }
}

/// Quotes a field of a CSV file where it needs quotes (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Merges rows of a `metrics.csv`: without duplicates, in the order of the populations.
#[must_use]
pub fn merged(mut rows: Vec<String>, more: Vec<String>) -> Vec<String> {
    for row in more {
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let population = |row: &String| {
        let number = row.split(',').next().and_then(|n| n.parse::<u32>().ok());
        number.unwrap_or(0)
    };
    rows.sort_by_key(population);
    rows
}

/// Returns the rows of a `metrics.csv`, without its header.
#[must_use]
pub fn rows_of(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| !line.is_empty());
    rows.filter(|line| *line != HEADER)
        .map(str::to_owned)
        .collect()
}

/// Returns the text of a `metrics.csv` of these rows.
#[must_use]
pub fn csv(rows: &[String]) -> String {
    let mut text = format!("{HEADER}\n");
    for row in rows {
        text.push_str(row);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::kid::Interval;
    use super::*;

    fn space() -> FeatureSpace {
        FeatureSpace {
            embedder: "pixels".to_owned(),
            resolution: 8,
            dtype: "f32",
            digest: "d".to_owned(),
        }
    }

    #[test]
    fn rows_match_the_header_and_lines_name_both_sets() {
        let value = MetricValue {
            name: "kid",
            value: 0.125,
            interval: Some(Interval {
                low: 0.0625,
                high: 0.1875,
            }),
            samples: 16,
            reference: ReferenceCount::Images(24),
            details: "mean; of \"5\"".to_owned(),
        };
        let space = space();
        let of = Comparison {
            population: "3".to_owned(),
            reference: "a,b",
            space: &space,
            settings: "key".to_owned(),
        };
        let row = value.row(&of);
        assert_eq!(
            row,
            "3,kid,0.125,0.0625,0.1875,16,24,\"a,b\",pixels,8,f32,\"mean; of \"\"5\"\"\",key"
        );
        assert_eq!(HEADER.split(',').count(), 13);
        let line = value.line(&of);
        assert!(
            line.contains("16 samples against 24 images of a,b"),
            "{line}"
        );
        assert!(line.contains("resolution 8, f32"), "{line}");
    }

    #[test]
    fn rows_are_kept_once_and_in_order() {
        let text = csv(&merged(
            rows_of(&csv(&["10,fid".into(), "2,fid".into()])),
            vec!["2,fid".into(), "0,fid".into(), "2,kid".into()],
        ));
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            ["0,fid", "2,fid", "2,kid", "10,fid"]
        );
    }
}
