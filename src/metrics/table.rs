//! Figures as text: rows of `metrics.csv`, and lines for a terminal. Each says what it compared.

use super::MetricValue;
use crate::privacy::sha256_hex;

/// The first line of `metrics.csv`.
pub const HEADER: &str = "population,figure,value,low,high,samples,reference_images,reference,\
                          embedder,resolution,dtype,details,settings";

/// The space that a comparison is made in.
#[derive(Debug, Clone)]
pub struct FeatureSpace {
    /// The embedder, with the beginning of its weights' digest.
    pub embedder: String,
    /// Rows and columns that images are brought to first.
    pub resolution: usize,
    /// The number type that the embedder computes in.
    pub dtype: &'static str,
    /// Digest of everything that an image's vector depends on.
    pub digest: String,
}

/// What was compared, beside the figure's own numbers.
pub struct Comparison<'a> {
    /// The population's number, or the samples' file.
    pub population: String,
    /// What it was compared with.
    pub reference: &'a str,
    /// In which space.
    pub space: &'a FeatureSpace,
    /// Tells rows of other settings apart.
    pub settings: String,
}

/// A short digest of what a figure depends on, beside the images.
#[must_use]
pub fn settings_key(parts: &serde_json::Value) -> String {
    let mut digest = sha256_hex(parts.to_string().as_bytes());
    digest.truncate(16);
    digest
}

impl MetricValue {
    /// A row of `metrics.csv`, without the line's end.
    #[must_use]
    pub fn row(&self, of: &Comparison<'_>) -> String {
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        let count = |value: Option<usize>| value.map_or("unknown".to_owned(), |v| v.to_string());
        let fields = [
            of.population.clone(),
            self.name.to_owned(),
            number(Some(self.value)),
            number(self.interval.map(|i| i.0)),
            number(self.interval.map(|i| i.1)),
            self.samples.to_string(),
            count(self.reference),
            self.against(of).to_owned(),
            of.space.embedder.clone(),
            of.space.resolution.to_string(),
            of.space.dtype.to_owned(),
            self.details.clone(),
            of.settings.clone(),
        ];
        fields.map(|field| quoted(&field)).join(",")
    }

    /// A line for people.
    #[must_use]
    pub fn line(&self, of: &Comparison<'_>) -> String {
        let interval = self.interval.map_or(String::new(), |(low, high)| {
            format!(" [{low:.6}, {high:.6}]")
        });
        let against = match self.reference {
            Some(0) => String::new(),
            Some(count) => format!(" against {count} images of {}", self.against(of)),
            None => format!(" against {}", self.against(of)),
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

    fn against<'a>(&self, of: &Comparison<'a>) -> &'a str {
        if self.reference == Some(0) {
            "none"
        } else {
            of.reference
        }
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Adds rows to those of a `metrics.csv`, none twice, in the populations' order.
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

/// The rows of a `metrics.csv`.
#[must_use]
pub fn rows_of(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| !line.is_empty());
    rows.filter(|line| *line != HEADER)
        .map(str::to_owned)
        .collect()
}

/// A `metrics.csv` of these rows.
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
    fn a_row_has_as_many_fields_as_the_header_and_a_line_says_what_was_compared() {
        let figure = MetricValue {
            name: "kid",
            value: 0.125,
            interval: Some((0.0625, 0.1875)),
            samples: 16,
            reference: Some(24),
            details: "mean; of \"5\"".to_owned(),
        };
        let space = space();
        let of = Comparison {
            population: "3".to_owned(),
            reference: "a,b",
            space: &space,
            settings: "key".to_owned(),
        };
        let row = figure.row(&of);
        assert_eq!(
            row,
            "3,kid,0.125,0.0625,0.1875,16,24,\"a,b\",pixels,8,f32,\"mean; of \"\"5\"\"\",key"
        );
        assert_eq!(HEADER.split(',').count(), 13);
        let line = figure.line(&of);
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
