//! `privacy.json` and `log.txt`: what a run says about itself.
//!
//! Both are published, so only public facts come here: the plan, the ledger, released histograms.

use std::fmt::Write as _;

use super::fit::few_samples;
use super::{PeError, Run};
use crate::artifacts::{
    ClassLayout, Population, ReleasedVotes, RunStore, distinct_ancestors, effective_parents,
};
use crate::privacy::{
    ClassConditions, EmbeddingDevice, Ledger, PublicInputs, Statement, UniformFallback, round_up,
};

/// Writes the privacy statement and the log of one run.
pub(super) struct Disclosure<'a> {
    run: &'a Run<'a>,
    store: &'a RunStore<'a>,
    /// Classes whose parents were drawn uniformly, in the order of iterations.
    fallbacks: Vec<UniformFallback>,
}

impl<'a> Disclosure<'a> {
    /// Writes the statement as the ledger has it and begins the log.
    ///
    /// # Errors
    /// [`PeError`] when a file cannot be read or written.
    pub(super) fn begin(
        run: &'a Run<'a>,
        store: &'a RunStore<'a>,
        ledger: &Ledger,
    ) -> Result<Self, PeError> {
        let mut disclosure = Self {
            run,
            store,
            fallbacks: Vec::new(),
        };
        // Fallbacks follow from released histograms, so they are not stored but derived again.
        for iteration in 1..=ledger.charged() {
            if let Some(released) = store.stored_votes(iteration)? {
                let fallbacks = disclosure.fallbacks_of(iteration, &released)?;
                disclosure.fallbacks.extend(fallbacks);
            }
        }
        disclosure.log(&format!(
            "dpsyn {}: run {}",
            env!("CARGO_PKG_VERSION"),
            ledger.run_id()
        ))?;
        for earlier in run.plan.privacy.earlier() {
            disclosure.log(&format!("epsilon includes {earlier}"))?;
        }
        if let Some(reason) = run.plan.privacy.non_private() {
            disclosure.log(&format!("NOT PRIVATE: {reason}"))?;
        }
        disclosure.log(&format!(
            "private images are embedded on {}",
            run.private_device
        ))?;
        disclosure.write_statement(ledger)?;
        Ok(disclosure)
    }

    /// Writes a line to the log and shows it. Public facts only.
    pub(super) fn log(&self, line: &str) -> Result<(), PeError> {
        self.store.dir.log(line)?;
        self.run.observer.message(line);
        Ok(())
    }

    /// Discloses that an iteration is charged; `resumed` if an earlier process charged it.
    pub(super) fn charged(
        &self,
        iteration: u32,
        resumed: bool,
        ledger: &Ledger,
    ) -> Result<(), PeError> {
        if resumed {
            self.log(&format!(
                "iteration {iteration}: charged before the run was interrupted, not charged again"
            ))?;
        }
        self.write_statement(ledger)?;
        Ok(())
    }

    /// Discloses that the histogram of an iteration is released.
    pub(super) fn released(
        &self,
        iteration: u32,
        released: &ReleasedVotes,
        ledger: &Ledger,
    ) -> Result<(), PeError> {
        if released.is_read_back() {
            self.write_statement(ledger)?;
            return Ok(());
        }
        let privacy = &self.run.plan.privacy;
        let epsilon = privacy.epsilon_after(iteration, privacy.adjacency());
        self.log(&format!(
            "iteration {iteration}: released a noisy histogram; epsilon so far {} at delta {:e} \
             (one {}, {})",
            round_up(epsilon, 3),
            privacy.delta(),
            privacy.unit(),
            privacy.adjacency(),
        ))
    }

    /// Discloses the classes without a vote above the threshold, whose parents are drawn uniformly.
    pub(super) fn fallbacks(
        &mut self,
        iteration: u32,
        released: &ReleasedVotes,
        ledger: &Ledger,
    ) -> Result<(), PeError> {
        for fallback in self.fallbacks_of(iteration, released)? {
            // A resumed run derived those of earlier processes at its start.
            if self.fallbacks.contains(&fallback) {
                continue;
            }
            let class = fallback.class.clone();
            self.fallbacks.push(fallback);
            self.write_statement(ledger)?;
            let of_class = class.map_or(String::new(), |name| format!(" of class {name}"));
            self.log(&format!(
                "iteration {iteration}: no noisy count{of_class} exceeds the threshold; parents are \
                 drawn uniformly (a lower evolution.threshold avoids this)"
            ))?;
        }
        Ok(())
    }

    /// Discloses a finished population: its size and the diversity of its parents, which follow
    /// from the released histogram.
    pub(super) fn population(&self, t: u32, samples: &Population) -> Result<(), PeError> {
        let mut line = format!("population {t}: {} samples", samples.len());
        if t > 0 {
            let lineages = samples.lineages();
            // Writing to a String cannot fail.
            let _ = write!(
                line,
                "; {:.1} effective parents, {} ancestors in population 0",
                effective_parents(lineages),
                distinct_ancestors(lineages)
            );
        }
        if t > 0
            && let Some(released) = self.store.stored_votes(t)?
        {
            let votes = released.votes();
            let above = votes.iter().filter(|votes| **votes > 0.0).count();
            let share = 100.0 * above as f64 / votes.len().max(1) as f64;
            let _ = write!(
                line,
                "; {share:.1} % of population {} above the threshold",
                t - 1
            );
            self.log(&line)?;
            if t == self.run.plan.iterations() {
                self.fit(t, &released)?;
            }
            return Ok(());
        }
        self.log(&line)
    }

    /// Warns of classes whose last votes fall on few samples.
    fn fit(&self, t: u32, released: &ReleasedVotes) -> Result<(), PeError> {
        let plan = self.run.plan;
        let noise = plan.privacy.noise_votes();
        let Some(noise) = noise.get(t.saturating_sub(1) as usize) else {
            return Ok(());
        };
        let noisy = released.noisy();
        let ranges = self.store.layout(t.saturating_sub(1))?.ranges();
        for (range, class) in ranges.into_iter().zip(&plan.classes) {
            let noisy = noisy.get(range).unwrap_or_default();
            let Some(effective) = few_samples(noisy, *noise) else {
                continue;
            };
            let of_class = match self.run.data.class_conditional {
                true => format!(" of class {class}"),
                false => String::new(),
            };
            self.log(&format!(
                "warning: the votes{of_class} fall on few samples (effective number {effective:.1} \
                 of {}, as the noisy histogram of iteration {t} shows): the generator may not draw \
                 what the private images show",
                noisy.len()
            ))?;
        }
        Ok(())
    }

    /// Discloses the guarantee of the finished run.
    pub(super) fn finish(&self, ledger: &Ledger) -> Result<(), PeError> {
        let statement = self.write_statement(ledger)?;
        self.log(statement.summary())
    }

    fn fallbacks_of(
        &self,
        iteration: u32,
        released: &ReleasedVotes,
    ) -> Result<Vec<UniformFallback>, PeError> {
        let classes = self.store.layout(iteration.saturating_sub(1))?.ranges();
        let without_votes = |range: &std::ops::Range<usize>| {
            let votes = released.votes().get(range.clone()).unwrap_or_default();
            votes.iter().all(|votes| *votes <= 0.0)
        };
        Ok(classes
            .iter()
            .zip(&self.run.plan.classes)
            .filter(|(range, _)| without_votes(range))
            .map(|(_, name)| UniformFallback {
                iteration,
                class: self.run.data.class_conditional.then(|| name.clone()),
            })
            .collect())
    }

    /// Writes the privacy statement as the ledger has it now.
    fn write_statement(&self, ledger: &Ledger) -> Result<Statement, PeError> {
        let device = EmbeddingDevice {
            name: self.run.private_device,
            // `embedder.private_device` leaves private images to a GPU only if its check passed.
            is_checked: self.run.private_embedder.overlaps_host_work(),
        };
        let inputs = self.public_inputs();
        let statement = Statement::new(ledger, inputs, self.fallbacks.clone(), device);
        statement.write(&self.store.dir.statement())?;
        Ok(statement)
    }

    fn public_inputs(&self) -> PublicInputs {
        let (run, plan) = (self.run, self.run.plan);
        let layout = plan.layouts.last();
        let total = layout.map_or(0, ClassLayout::total);
        let counts = layout.map_or(&[][..], ClassLayout::counts);
        PublicInputs {
            declared_size: plan.declared_size,
            declared_clients: plan.declared_clients,
            image_size: [run.data.image_size.height, run.data.image_size.width],
            samples: total as usize,
            class_names: if run.data.class_conditional {
                plan.classes.clone()
            } else {
                Vec::new()
            },
            class_shares: counts
                .iter()
                .map(|count| *count as f64 / total.max(1) as f64)
                .collect(),
            conditions: self.declared_conditions(),
            prompts: run.generator.prompts().to_vec(),
            selection: run.data.selection(),
            num_samples: run.data.num_samples,
            model_weights_sha256: run.identity.model_weights.clone(),
            embedder_weights_sha256: run.identity.embedder_weights.clone(),
            initial_samples_sha256: run.identity.initial_samples.clone(),
        }
    }

    fn declared_conditions(&self) -> Vec<ClassConditions> {
        let conditions_of = |name: &String| {
            let class = self.run.data.class_conditional.then(|| name.clone());
            let conditions = match self.run.identity.initial_samples {
                Some(_) => vec!["those of the initial samples".to_owned()],
                None => self.run.generator.describe_conditions(class.as_deref()),
            };
            ClassConditions { class, conditions }
        };
        self.run.plan.classes.iter().map(conditions_of).collect()
    }
}
