//! Private Evolution: Algorithm 1 (PE) and Algorithm 2 (DP_NN_HISTOGRAM) of arXiv 2305.15560.
//!
//! The symbols are the paper's: S_priv are the private images, S_t is the population after
//! iteration t, N_syn its size, σ the noise multiplier, H the threshold, d the distance in the
//! embedding space E. Populations are counted from S_0, the random images; S_T is the result.
//!
//! Every result goes through [`RunStore`], which reads it back if an earlier process stored it and
//! calls the closure that computes it otherwise. This file therefore knows nothing about resuming.
//!
//! Differences from the two algorithms: classes vote and are resampled separately,
//! which is one release for all of them (see [`crate::privacy::release`]); a sample is
//! represented by the mean embedding of several variations (the paper's lookahead); votes may be
//! weighed by the classes of near samples before the selection (class_agreement); an image may
//! vote for its k nearest samples, with noise σ·√k; and the population sizes may change from
//! iteration to iteration.

use std::cell::OnceCell;

use super::agreement::{Space, weigh};
use super::config::IterationRules;
use super::disclosure::Disclosure;
use super::initial::random_images;
use super::lookahead::Lookahead;
use super::offspring::{Offspring, derivations};
use super::{PeError, Run};
use crate::artifacts::{GeneratedImages, Population, ReleasedVotes, RunStore, WorkPhase};
use crate::dataset::PrivateData;
use crate::embedders::Embeddings;
use crate::evaluation::{Evaluator, RunImages, VoteEmbeddings};
use crate::kill_point::{KillPoint, reach};
use crate::privacy::{Ledger, Padding, SystemClock, release};
use crate::streams::{self, RngKey};
use crate::voting::{SampleEmbeddings, SearchOptions, nn_histogram, select};

/// Runs Algorithm 1. Every population is stored when this returns; the last one is the result.
///
/// # Errors
/// See [`PeError`]. Results that were finished before are on disk.
pub(super) fn private_evolution(
    run: &Run<'_>,
    store: &RunStore<'_>,
    data: &mut PrivateData<'_>,
    ledger: &mut Ledger,
    disclosure: &mut Disclosure<'_>,
    evaluator: &mut Option<Evaluator<'_>>,
) -> Result<(), PeError> {
    // S_0 ← RANDOM_API(N_syn)
    let mut samples = store.population(0, || random_images(run, store))?;
    report(run, store, data, disclosure, evaluator, 0, &samples)?;

    // for t ← 1, …, T
    for t in 1..=run.plan.iterations() {
        // histogram_t ← DP_NN_HISTOGRAM(S_priv, S_{t−1}, σ, H)
        let mut candidates = Candidates::new(run, store, t, &samples)?;
        let histogram = dp_nn_histogram(&candidates, data, ledger, disclosure)?;
        if candidates.rules.class_agreement == 0.0 {
            // Not needed again, and they may take gigabytes.
            candidates.embeddings.take();
        }
        disclosure.fallbacks(t, &histogram, ledger)?;

        let next = store.population(t, || {
            // P_t ← histogram_t / sum(histogram_t)
            // S'_t ← N_syn draws with replacement from P_t
            let parents = select_parents(&candidates, &histogram)?;
            drop(candidates);
            // S_t ← VARIATION_API(S'_t)
            variations(run, store, t, &samples, &parents)
        })?;

        // Not in the paper: pictures and metrics, which nothing above reads.
        store.vote_pictures(t, &samples, &histogram)?;
        samples = next;
        report(run, store, data, disclosure, evaluator, t, &samples)?;
        reach(KillPoint::IterationFinished);
    }
    // return S_T
    Ok(())
}

/// The samples that iteration `t` votes on, S_{t−1}.
struct Candidates<'a> {
    run: &'a Run<'a>,
    store: &'a RunStore<'a>,
    t: u32,
    rules: IterationRules,
    samples: &'a Population,
    embeddings: OnceCell<Embeddings>,
}

impl<'a> Candidates<'a> {
    fn new(
        run: &'a Run<'a>,
        store: &'a RunStore<'a>,
        t: u32,
        samples: &'a Population,
    ) -> Result<Self, PeError> {
        Ok(Self {
            run,
            store,
            t,
            rules: run.plan.rules(t)?,
            samples,
            embeddings: OnceCell::new(),
        })
    }

    /// Returns E(z_j) for z_j ∈ S, the mean over the variations of z_j, which is computed once.
    fn embeddings(&self) -> Result<&Embeddings, PeError> {
        if let Some(embeddings) = self.embeddings.get() {
            return Ok(embeddings);
        }
        let lookahead = Lookahead::new(self.run, self.t, self.rules.lookahead_degree);
        let shards = self.store.shards(self.t, WorkPhase::Lookahead)?;
        let embeddings = lookahead.embed(self.samples, shards)?;
        Ok(self.embeddings.get_or_init(|| embeddings))
    }
}

/// Algorithm 2: DP_NN_HISTOGRAM(S_priv, S, σ, H) with S = S_{t−1}.
///
/// The order is the guarantee: count, charge, draw, store. What can fail is done before the
/// charge, so a vote that fails costs nothing. Noise is drawn only against a charge that is on
/// disk, and the drawn histogram can be read only once it is on disk itself.
///
/// The two parts that depend on private images, embedding them and voting, can be padded to a
/// public time ([`Padding`]); between them, the lookahead uses public data only.
fn dp_nn_histogram(
    candidates: &Candidates<'_>,
    data: &mut PrivateData<'_>,
    ledger: &mut Ledger,
    disclosure: &Disclosure<'_>,
) -> Result<ReleasedVotes, PeError> {
    let Candidates {
        run,
        store,
        t,
        rules,
        samples,
        ..
    } = *candidates;
    let classes = store.layout(t - 1)?.ranges();
    let folder = data.folder();
    let clock = SystemClock::start();
    let padding = Padding::new(run.pad_release_to, &clock);
    let released = store.released_votes(t, ledger, folder, |ledger| {
        // E(x) for x ∈ S_priv. First, because an unreadable image must not cost the lookahead.
        let embedding = (!data.is_embedded()).then(|| padding.begin());
        data.embeddings(run.private_embedder, run.observer)?;
        if let Some(span) = embedding {
            // With a hosted model, the lookahead sends requests.
            span.end("reading the private images", run.observer)?;
        }

        let embedded = candidates.embeddings()?;

        // for x ∈ S_priv: i ← argmin_j d(x, z_j); histogram[i] ← histogram[i] + 1
        let voted_on = SampleEmbeddings {
            embeddings: embedded,
            class_ranges: &classes,
        };
        let options = SearchOptions {
            k: rules.nearest_neighbors as usize,
            metric: run.plan.evolution.metric,
            device: run.device,
            cancellation: run.observer,
        };
        let voting = padding.begin();
        let private = data.embeddings(run.private_embedder, run.observer)?;
        let counts = nn_histogram(&voted_on, private, &options, run.observer)?;
        // Before the charge, because the ledger is public, and its growth shows the time.
        voting.end("the vote", run.observer)?;
        reach(KillPoint::Counted);

        let charge = ledger.charge(t, &samples.sha256()?)?;
        reach(KillPoint::Charged);
        disclosure.charged(t, charge.is_resumed(), ledger)?;

        // histogram ← histogram + N(0, σ²·k·I)
        Ok::<_, PeError>(release(counts, charge)?)
    })?;
    // histogram ← max(histogram − H, 0) is `released.votes()`.
    disclosure.released(t, &released, ledger)?;
    Ok(released)
}

/// Draws the parents S'_t of each class in proportion to its votes, as indices into S_{t−1}.
///
/// This is post-processing of the release: its random numbers come from the generation seed.
fn select_parents(
    candidates: &Candidates<'_>,
    released: &ReleasedVotes,
) -> Result<Vec<Vec<usize>>, PeError> {
    let Candidates {
        run,
        store,
        t,
        rules,
        ..
    } = *candidates;
    let evolution = &run.plan.evolution;
    let (before, after) = (store.layout(t - 1)?, store.layout(t)?);
    let weighed = match rules.class_agreement {
        0.0 => None,
        exponent => {
            let space = Space {
                embeddings: candidates.embeddings()?,
                classes: &before.ranges(),
                metric: evolution.metric,
                device: run.device,
                cancellation: run.observer,
            };
            Some(weigh(released.votes(), exponent, space)?)
        }
    };
    let votes = weighed.as_deref().unwrap_or(released.votes());
    let noisy = released.noisy();
    let most = evolution.max_selections(&rules);
    let classes = before.ranges().into_iter().zip(after.counts());
    let select_in_class = |(class, (range, count)): (usize, (std::ops::Range<usize>, &u64))| {
        let mut rng = RngKey {
            seed: evolution.seed,
            phase: streams::Phase::Select,
            iteration: t,
            repeat: 0,
            sample: class as u64,
        }
        .rng();
        let selected = select(
            votes.get(range.clone()).unwrap_or_default(),
            noisy.get(range.clone()).unwrap_or_default(),
            (count / rules.next_fold()) as usize,
            rules.selection,
            most,
            &mut rng,
        );
        // Indices within the class become indices into the population.
        let parents = selected.indices.iter().map(|index| range.start + index);
        parents.collect()
    };
    Ok(classes.enumerate().map(select_in_class).collect())
}

/// VARIATION_API(S'_t): the images of S_t.
fn variations(
    run: &Run<'_>,
    store: &RunStore<'_>,
    t: u32,
    samples: &Population,
    parents: &[Vec<usize>],
) -> Result<GeneratedImages, PeError> {
    let rules = run.plan.rules(t)?;
    let offspring = Offspring {
        run,
        iteration: t,
        derivations: derivations(parents, rules.next_variations, rules.keep_selected),
    };
    let stage = format!("population {t}");
    offspring.vary(samples, store.shards(t, WorkPhase::Vary)?, &stage)
}

/// Writes pictures and metrics of a stored population. Read-only: nothing that is generated,
/// released or selected depends on them.
fn report(
    run: &Run<'_>,
    store: &RunStore<'_>,
    data: &mut PrivateData<'_>,
    disclosure: &Disclosure<'_>,
    evaluator: &mut Option<Evaluator<'_>>,
    t: u32,
    samples: &Population,
) -> Result<(), PeError> {
    if store.finish(t, samples, run.plot_images)? {
        disclosure.population(t, samples)?;
    }
    if let (Some(evaluator), Some(evaluation)) = (evaluator, run.evaluation)
        && evaluation.config.is_due(t, run.plan.iterations())
    {
        let (images, fingerprint, folder) = data.for_evaluation();
        let images = RunImages {
            images,
            fingerprint,
            // In the space of the vote, the private images need not be embedded again.
            vote: evaluation.shares_vote.then_some(VoteEmbeddings {
                folder,
                embedder: run.private_embedder,
            }),
        };
        let clock = SystemClock::start();
        let padding = Padding::new(run.pad_release_to, &clock);
        let span = evaluator.is_private().then(|| padding.begin());
        evaluator.population(t, samples, images)?;
        if let Some(span) = span {
            span.end("the evaluation", run.observer)?;
        }
    }
    store.dir.set_times()?;
    Ok(())
}
