//! Voting: neighbors, counts, noise, thresholds, selection probabilities.
//!
//! Keys `<L2|IP>_k<k>.*` and `packing<p>_…` follow the original (counts unnormalised, noise σ·√k);
//! keys `pe_<mode>_k<k>_sample.*` the newer library (both divided by √k). Votes by client are not a
//! feature.

use candle_core::Device;
use dpsyn::internals::embedders::Embeddings;
use dpsyn::internals::progress::Silent;
use dpsyn::internals::voting::{
    Metric, SearchOptions, SelectionMode, nearest_neighbors, select, threshold,
};

use super::{Case, Outcome, Tolerance};
use dpsyn::internals::streams::{Phase, RngKey};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const EXACT: Tolerance = Tolerance::absolute(0.0);
/// The newer library normalizes votes in float32.
const ROUNDED: Tolerance = Tolerance {
    absolute: 1e-5,
    relative: 1e-6,
};

fn embeddings(case: &Case, tensor: &str) -> Result<Embeddings> {
    let (values, shape) = case.f64s(tensor)?;
    let values = values.into_iter().map(|v| v as f32).collect();
    Embeddings::new(values, shape[1]).ok_or_else(|| format!("`{tensor}` is no matrix").into())
}

pub fn check(case: &Case) -> Outcome {
    let public = embeddings(case, "public")?;
    let private = embeddings(case, "private")?;
    let (noise, _) = case.f64s("standard_normal_noise")?;
    let sigma = case
        .value("/noise_multiplier")?
        .as_f64()
        .ok_or("`noise_multiplier` is no number")?;
    let mut groups: Vec<&str> = case
        .names()
        .into_iter()
        .filter_map(|name| name.split_once('.').map(|(group, _)| group))
        .collect();
    groups.dedup();
    let mut checked = 0;
    for group in groups {
        let Some(vote) = Vote::parse(group) else {
            if group.ends_with("_client") {
                continue;
            }
            return Err(format!("`{group}` is of no known form").into());
        };
        let options = SearchOptions {
            k: vote.k,
            metric: vote.metric,
            device: &Device::Cpu,
            cancellation: &Silent,
        };
        let ids = nearest_neighbors(&private, &public, &options)?;
        let bins = public.len() / vote.packing;
        let mut counts = vec![0.0f64; bins];
        for id in &ids {
            counts[*id as usize % bins] += 1.0;
        }
        for name in case.names() {
            let Some(key) = name.strip_prefix(group).and_then(|s| s.strip_prefix('.')) else {
                continue;
            };
            check_key(case, &vote, name, key, &ids, &counts, &noise, sigma)?;
            checked += 1;
        }
        check_distances(case, &vote, group, &public, &private, &ids)?;
    }
    if checked == 0 {
        return Err("nothing to check".into());
    }
    Ok(())
}

struct Vote {
    metric: Metric,
    k: usize,
    packing: usize,
    newer: bool,
}

impl Vote {
    fn parse(group: &str) -> Option<Self> {
        let mut vote = Self {
            metric: Metric::L2,
            k: 1,
            packing: 1,
            newer: false,
        };
        let mut rest = group;
        if let Some(inner) = rest
            .strip_prefix("pe_")
            .and_then(|r| r.strip_suffix("_sample"))
        {
            vote.newer = true;
            rest = inner;
        } else if let Some((packing, inner)) =
            rest.strip_prefix("packing").and_then(|r| r.split_once('_'))
        {
            vote.packing = packing.parse().ok()?;
            rest = inner;
        }
        let (mode, k) = rest.rsplit_once("_k")?;
        vote.k = k.parse().ok()?;
        vote.metric = match mode.to_ascii_lowercase().as_str() {
            "l2" => Metric::L2,
            "ip" => Metric::InnerProduct,
            "cos_sim" => Metric::Cosine,
            _ => return None,
        };
        Some(vote)
    }
}

#[allow(clippy::too_many_arguments)]
fn check_key(
    case: &Case,
    vote: &Vote,
    name: &str,
    key: &str,
    ids: &[u32],
    counts: &[f64],
    noise: &[f64],
    sigma: f64,
) -> Outcome {
    if key == "distances" {
        return Ok(()); // from the ids, in `check_distances`
    }
    let (expected, _) = case.f64s(name)?;
    let root = (vote.k as f64).sqrt();
    let noisy: Vec<f64> = counts
        .iter()
        .zip(noise)
        .map(|(count, z)| count + sigma * root * z)
        .collect();
    // The newer library's votes are ours over √k, and so is its threshold.
    let unit = if vote.newer { root } else { 1.0 };
    let scaled = |values: &[f64]| -> Vec<f64> { values.iter().map(|v| v / unit).collect() };
    let at = |limit: f64| scaled(&threshold(&noisy, limit * unit));
    match key.split_once('_') {
        _ if key == "ids" => {
            let ids: Vec<f64> = ids.iter().map(|id| f64::from(*id)).collect();
            EXACT.check(name, &ids, &expected)
        }
        _ if key == "clean_count" => EXACT.check(name, counts, &expected),
        _ if key == "clean" => ROUNDED.check(name, &scaled(counts), &expected),
        _ if key == "noisy_count" || key == "noisy" => {
            ROUNDED.check(name, &scaled(&noisy), &expected)
        }
        _ if key == "post_None" => ROUNDED.check(name, &scaled(&noisy), &expected),
        _ if key == "thresholded" => {
            let limit = row_threshold(case, vote)?;
            ROUNDED.check(name, &at(limit), &expected)
        }
        Some(("thresholded" | "post", limit)) => {
            ROUNDED.check(name, &at(limit.parse()?), &expected)
        }
        Some(("prob", limit)) => {
            let votes = at(limit.parse()?);
            let total: f64 = votes.iter().sum();
            let shares: Vec<f64> = votes.iter().map(|v| v / total).collect();
            ROUNDED.check(name, &shares, &expected)
        }
        _ if key.starts_with("rank_selected_") => {
            let limit = key.trim_start_matches("rank_selected_").parse()?;
            let votes = at(limit);
            let mut stream = RngKey {
                seed: 0,
                phase: Phase::Select,
                iteration: 1,
                repeat: 0,
                sample: 0,
            }
            .rng();
            let chosen = select(
                &votes,
                &votes,
                expected.len(),
                SelectionMode::Rank,
                usize::MAX,
                &mut stream,
            );
            let chosen: Vec<f64> = chosen.indices.iter().map(|i| *i as f64).collect();
            EXACT.check(name, &chosen, &expected)
        }
        _ => Err(format!("`{name}` is of no known form").into()),
    }
}

/// The threshold of a `packing` row, which its key does not carry.
fn row_threshold(case: &Case, vote: &Vote) -> Result<f64> {
    case.value("/rows")?
        .as_array()
        .and_then(|rows| {
            rows.iter().find(|row| {
                row["num_packing"].as_u64() == Some(vote.packing as u64)
                    && row["k"].as_u64() == Some(vote.k as u64)
            })
        })
        .and_then(|row| row["threshold"].as_f64())
        .ok_or_else(|| "no row gives the threshold".into())
}

/// faiss' distances (L2: squared; IP: the inner product), up to float32.
fn check_distances(
    case: &Case,
    vote: &Vote,
    group: &str,
    public: &Embeddings,
    private: &Embeddings,
    ids: &[u32],
) -> Outcome {
    let name = format!("{group}.distances");
    if !case.has(&name) {
        return Ok(());
    }
    let (expected, _) = case.f64s(&name)?;
    let d = public.dimension();
    let found: Vec<f64> = ids
        .iter()
        .enumerate()
        .map(|(i, id)| {
            let q = private.rows(i / vote.k..i / vote.k + 1);
            let p = &public.data()[*id as usize * d..(*id as usize + 1) * d];
            let pairs = q.iter().zip(p).map(|(a, b)| (f64::from(*a), f64::from(*b)));
            match vote.metric {
                Metric::L2 => pairs.map(|(a, b)| (a - b) * (a - b)).sum(),
                Metric::InnerProduct | Metric::Cosine => pairs.map(|(a, b)| a * b).sum(),
            }
        })
        .collect();
    Tolerance {
        absolute: 1e-4,
        relative: 1e-5,
    }
    .check(&name, &found, &expected)
}
