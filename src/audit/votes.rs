//! The real mechanism under audit: images on disk, embeddings, vote and release, as in a run.
//!
//! Only the generator is missing: the candidates of every iteration are the same public images. The
//! adversary of the guarantee may choose the candidates, and these give each release the full
//! sensitivity. Images, embeddings and counts of a world are computed once; each trial draws the
//! noise of T releases.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Device;
use serde_json::{Value, json};

use super::error::AuditError;
use super::images::Clusters;
use super::mechanism::{LinearScore, Mechanism, Observation, Transcript, Votes, World};
use crate::dataset::PrivateImages;
use crate::embedders::{Embedder, Embeddings, embed_all};
use crate::images::{ClientsConfig, DataConfig, ImageBatch, png};
use crate::privacy::{
    Adjacency, ClassConditions, EmbeddingDevice, Fingerprint, Ledger, PrivateFolder,
    PublicCanaries, PublicInputs, ResolvedPrivacy, Sensitive, Statement, Trial, Unit, VoteCounts,
    sha256_hex,
};
use crate::progress::Observer;
use crate::sections::InvalidKey;
use crate::voting::{Metric, SampleEmbeddings, SearchOptions, nearest_neighbors, nn_histogram};

/// The mechanism of a run, as far as an audit needs it.
pub struct Subject<'a> {
    /// Noise, number of releases, and the claim.
    pub privacy: ResolvedPrivacy,
    /// The space of the vote.
    pub embedder: &'a dyn Embedder,
    /// The name of the embedder in the report.
    pub embedder_name: String,
    /// Distance in that space.
    pub metric: Metric,
    /// The classes of private images; empty for an unconditional run.
    pub classes: Vec<String>,
    /// Rows and columns of all images.
    pub image_size: usize,
    /// The threshold H of a run, `None` if it is automatic. The histogram before it is published,
    /// too, so it is reported only.
    pub threshold: Option<f64>,
}

/// The smallest number of bins.
const BINS: usize = 64;
/// Public images in each cluster of a class that has any.
const BACKGROUND: u32 = 2;
/// The class of all images of an unconditional run.
const ALL: &str = "all";

/// A private image: class, by index, and pixels.
type Image = (usize, Vec<u8>);

/// The images of one unit of privacy.
type UnitImages = Vec<Image>;

/// The data sets of an audit, voted, and the auditor's knowledge about them.
pub struct Worlds {
    pub(super) with: PreparedWorld,
    pub(super) without: PreparedWorld,
    pub(super) coins: Option<PreparedWorld>,
    /// The score that distinguishes the world with the canary from that without it.
    pub score: LinearScore,
    /// For each canary of the world of coins, its score, and its coin.
    pub canaries: Vec<(LinearScore, bool)>,
    /// Bins of the pair of worlds.
    pub bins: usize,
    /// Units in the world with the canary and in that without it.
    pub units: [usize; 2],
}

/// One data set after its vote.
pub(super) struct PreparedWorld {
    pub(super) counts: Sensitive<VoteCounts>,
    pub(super) transcript: Arc<Transcript>,
}

impl Worlds {
    /// Makes, writes, reads, embeds and votes the images of all worlds, with `canaries` canaries in
    /// the world of coins, which is omitted if there are none.
    ///
    /// The canary is the only image of its class if there are several: nothing that is published
    /// may depend on whether a class has an image. Under replace-one adjacency it is exchanged for
    /// an image of another class. A client as the canary has two equal images and a third one, if
    /// possible of another class, so that its votes have to be scaled down, across classes.
    ///
    /// # Errors
    /// Returns [`AuditError`] if a file, the embedder or the vote fails.
    pub fn prepare(
        subject: &Subject<'_>,
        canaries: usize,
        seed: u64,
        observer: &dyn Observer,
    ) -> Result<Self, AuditError> {
        let exchanged = subject.privacy.adjacency() == Adjacency::ReplaceOne;
        let classes = subject.class_names().len();
        let k = votes_of_an_image(&subject.privacy)? as usize;
        let factors = factors(&subject.privacy);
        let clusters = Clusters {
            size: subject.image_size,
            seed,
        };

        let per_class = BINS.div_ceil(k * classes).max(3);
        let population = Population::new(subject, clusters, per_class)?;
        let first = usize::from(classes > 1);
        let background: Vec<UnitImages> = (first * per_class..classes * per_class)
            .flat_map(|cluster| (1..=BACKGROUND).map(move |member| (cluster, member)))
            // Members 1 to k are candidates.
            .map(|(cluster, member)| {
                let image = clusters.member(cluster, k as u32 + member);
                vec![(cluster / per_class, image)]
            })
            .collect();
        let image = |cluster: usize| (cluster / per_class, clusters.center(cluster));
        // The first clusters of the next class, or, in a single class, those after the first.
        let other = if classes > 1 { per_class } else { 1 };
        let (canary, exchange) = match subject.privacy.unit() {
            Unit::Image => (vec![image(0)], vec![image(other)]),
            Unit::Client => (
                vec![image(0), image(0), image(other + 1)],
                vec![image(other); 3],
            ),
        };
        let exchange = exchanged.then_some(exchange);
        let score = LinearScore::new(
            &population.votes(&canary)?,
            &population.votes(exchange.as_deref().unwrap_or_default())?,
            &Votes::new(),
        )
        .with_factors(Arc::clone(&factors));
        let world = |unit: Option<UnitImages>| background.iter().cloned().chain(unit).collect();
        let (with, without): (Vec<_>, Vec<_>) = (world(Some(canary)), world(exchange));
        let units = [with.len(), without.len()];
        let with = population.vote(&with, observer)?;
        let without = population.vote(&without, observer)?;
        let mut worlds = Self {
            with,
            without,
            coins: None,
            score,
            canaries: Vec::new(),
            bins: population.candidates.len(),
            units,
        };
        if canaries > 0 {
            worlds.add_coins(subject, clusters, canaries, observer)?;
        }
        Ok(worlds)
    }

    /// Adds the world of coins: canary i is the center of cluster i or, under replace-one adjacency
    /// and with the coin false, that of cluster m + i.
    fn add_coins(
        &mut self,
        subject: &Subject<'_>,
        clusters: Clusters,
        canaries: usize,
        observer: &dyn Observer,
    ) -> Result<(), AuditError> {
        let exchanged = subject.privacy.adjacency() == Adjacency::ReplaceOne;
        let classes = subject.class_names().len();
        let total = if exchanged { 2 * canaries } else { canaries };
        let per_class = total.div_ceil(classes).max(2);
        let population = Population::new(subject, clusters, per_class)?;
        let unit = |cluster: usize| vec![(cluster / per_class, clusters.center(cluster))];
        let factors = factors(&subject.privacy);
        let k = population.k;
        let mut units: Vec<UnitImages> = (0..classes)
            .map(|class| vec![(class, clusters.member(class * per_class, k + 1))])
            .collect();
        let mut expected = Votes::new();
        for background in &units {
            for (bin, votes) in population.votes(background)? {
                *expected.entry(bin).or_default() += votes;
            }
        }
        for (canary, coin) in clusters.coins(canaries).into_iter().enumerate() {
            let cast = unit(canary);
            let instead = exchanged.then(|| unit(canaries + canary));
            let votes = population.votes(instead.as_deref().unwrap_or_default())?;
            let score = LinearScore::new(&population.votes(&cast)?, &votes, &expected);
            let score = score.with_factors(Arc::clone(&factors));
            self.canaries.push((score, coin));
            units.extend(if coin { Some(cast) } else { instead });
        }
        self.coins = Some(population.vote(&units, observer)?);
        Ok(())
    }
}

/// Returns k, the same in all releases: the images of an audit are voted once, and each release
/// adds its noise to these counts.
///
/// # Errors
/// Returns [`InvalidKey`] if k changes.
pub fn votes_of_an_image(privacy: &ResolvedPrivacy) -> Result<u32, InvalidKey> {
    let all = privacy.nearest_neighbors().values();
    match all.first() {
        Some(first) if all.iter().all(|k| k == first) => Ok(*first),
        _ => {
            let message = "changes from iteration to iteration, and an audit has one vote for all \
                           of them: choose a number by --set evolution.nearest_neighbors=K (epsilon \
                           does not depend on it)";
            Err(InvalidKey::new("evolution.nearest_neighbors", message))
        }
    }
}

/// Returns the factors of the most powerful score, 1/σ_t² as a multiple of the largest; none if σ
/// is the same in all releases.
fn factors(privacy: &ResolvedPrivacy) -> Arc<[f64]> {
    let sigmas = privacy.noise_multiplier().values();
    let smallest = sigmas.iter().copied().fold(f64::INFINITY, f64::min);
    if sigmas.iter().all(|sigma| *sigma == smallest) {
        return Arc::default();
    }
    sigmas
        .iter()
        .map(|sigma| (smallest / sigma).powi(2))
        .collect()
}

impl Subject<'_> {
    fn class_names(&self) -> Vec<String> {
        if self.classes.is_empty() {
            vec![ALL.to_owned()]
        } else {
            self.classes.clone()
        }
    }
}

/// The candidates for which the private images of one or more worlds vote, by class.
struct Population<'a> {
    subject: &'a Subject<'a>,
    names: Vec<String>,
    /// All bins, the classes one after the other.
    candidates: Embeddings,
    /// Bins of each class.
    per_class: usize,
    /// Votes of each image.
    k: u32,
}

impl<'a> Population<'a> {
    /// Makes and embeds k candidates for each of `clusters_per_class` clusters of each class.
    fn new(
        subject: &'a Subject<'a>,
        clusters: Clusters,
        clusters_per_class: usize,
    ) -> Result<Self, AuditError> {
        let names = subject.class_names();
        let k = votes_of_an_image(&subject.privacy)?;
        let mut pixels = Vec::new();
        for cluster in 0..names.len() * clusters_per_class {
            for member in 1..=k {
                pixels.extend(clusters.member(cluster, member));
            }
        }
        let per_class = clusters_per_class * k as usize;
        let size = subject.image_size;
        let images = ImageBatch::new(pixels, names.len() * per_class, size, size)?;
        Ok(Self {
            subject,
            candidates: embed_all(subject.embedder, &images)?,
            names,
            per_class,
            k,
        })
    }

    fn range(&self, class: usize) -> Range<usize> {
        class * self.per_class..(class + 1) * self.per_class
    }

    fn options<'b>(&self, cancellation: &'b dyn Observer) -> SearchOptions<'b> {
        SearchOptions {
            k: self.k as usize,
            metric: self.subject.metric,
            device: &Device::Cpu,
            cancellation,
        }
    }

    /// Returns the votes that the auditor expects of a unit with these images; none if there are no
    /// images.
    fn votes(&self, images: &[Image]) -> Result<Votes, AuditError> {
        let mut votes = Votes::new();
        for image in images {
            for bin in self.nearest(image)? {
                *votes.entry(bin).or_default() += 1.0;
            }
        }
        if self.subject.privacy.unit() == Unit::Client {
            let norm = votes
                .values()
                .map(|votes| votes * votes)
                .sum::<f64>()
                .sqrt();
            votes.values_mut().for_each(|votes| *votes /= norm);
        }
        Ok(votes)
    }

    /// Returns the bins that are nearest to an image.
    fn nearest(&self, (class, pixels): &Image) -> Result<Vec<usize>, AuditError> {
        let size = self.subject.image_size;
        let image = ImageBatch::new(pixels.clone(), 1, size, size)?;
        let query = embed_all(self.subject.embedder, &image)?;
        let range = self.range(*class);
        let rows = self.candidates.rows(range.clone()).to_vec();
        let candidates = Embeddings::new(rows, query.dimension())
            .unwrap_or_else(|| Embeddings::empty(query.dimension()));
        let options = self.options(&crate::progress::Silent);
        let nearest = nearest_neighbors(&query, &candidates, &options)?;
        Ok(nearest
            .into_iter()
            .map(|bin| range.start + bin as usize)
            .collect())
    }

    /// Writes the images of a world to a temporary folder and treats it as a run treats its private
    /// images, up to the clean counts. The bins are those of the classes that
    /// [`PrivateImages::classes`] returns, as in a run.
    fn vote(
        &self,
        units: &[UnitImages],
        observer: &dyn Observer,
    ) -> Result<PreparedWorld, AuditError> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let size = self.subject.image_size;
        for (unit, images) in units.iter().enumerate() {
            observer.check()?;
            for (index, (class, pixels)) in images.iter().enumerate() {
                let name = self.names.get(*class).map_or(ALL, String::as_str);
                let image = ImageBatch::new(pixels.clone(), 1, size, size)?;
                let path = data.join(format!("{name}_{unit:07}_{index}.png"));
                std::fs::write(path, png(&image)?)?;
            }
        }
        let mut config = DataConfig::new(data, size);
        if !self.subject.classes.is_empty() {
            config.class_conditional = true;
            config.classes = Some(self.names.clone());
        }
        if self.subject.privacy.unit() == Unit::Client {
            config.clients = Some(ClientsConfig {
                pattern: Some("_([0-9]+)_".to_owned()),
                ..ClientsConfig::default()
            });
        }
        let private = PrivateFolder::create(folder.path().join("private"))?;
        let mut private_images = PrivateImages::open(&config)?;
        let fingerprint = private_images.check(observer)?.fingerprint;
        let embedded = private_images.embeddings_by_class(
            self.subject.embedder,
            &private,
            &fingerprint,
            observer,
        )?;
        let mut rows = Vec::new();
        let mut ranges = Vec::new();
        for name in private_images.classes() {
            if let Some(class) = self.names.iter().position(|known| known == name) {
                rows.extend_from_slice(self.candidates.rows(self.range(class)));
                ranges.push(ranges.len() * self.per_class..(ranges.len() + 1) * self.per_class);
            }
        }
        let dimension = self.candidates.dimension();
        let samples = SampleEmbeddings {
            embeddings: &Embeddings::new(rows, dimension)
                .unwrap_or_else(|| Embeddings::empty(dimension)),
            class_ranges: &ranges,
        };
        let counts = nn_histogram(&samples, &embedded, &self.options(observer), observer)?;
        let inputs = self.public_inputs(&config, &private_images, samples.embeddings.len());
        let statement = self.statement(folder.path(), inputs, &private, &fingerprint)?;
        let transcript = Transcript::new(json!({
            "class_names": private_images.classes(),
            "bins": samples.embeddings.len(),
            "statement": statement,
        }));
        Ok(PreparedWorld { counts, transcript })
    }

    /// Returns what a run states about its private images. The model has no part in an audit.
    fn public_inputs(
        &self,
        config: &DataConfig,
        images: &PrivateImages,
        samples: usize,
    ) -> PublicInputs {
        let classes = images.classes().to_vec();
        let conditional = !self.subject.classes.is_empty();
        PublicInputs {
            declared_size: config.declared_size,
            declared_clients: None,
            image_size: [self.subject.image_size; 2],
            samples,
            class_shares: vec![1.0 / classes.len().max(1) as f64; classes.len()],
            conditions: classes
                .iter()
                .map(|name| ClassConditions {
                    class: conditional.then(|| name.clone()),
                    conditions: Vec::new(),
                })
                .collect(),
            class_names: if conditional { classes } else { Vec::new() },
            prompts: Vec::new(),
            selection: config.selection(),
            num_samples: config.num_samples,
            model_weights_sha256: None,
            embedder_weights_sha256: None,
            initial_samples_sha256: None,
        }
    }

    /// Returns `privacy.json` of a run on these images before its first release, without the ids of
    /// the run.
    fn statement(
        &self,
        folder: &std::path::Path,
        inputs: PublicInputs,
        private: &PrivateFolder,
        fingerprint: &Sensitive<Fingerprint>,
    ) -> Result<Value, AuditError> {
        let privacy = &self.subject.privacy;
        let config = sha256_hex(b"dpsyn audit");
        let ledger = Ledger::open(folder, privacy, &config, private, fingerprint)?;
        let device = EmbeddingDevice {
            name: "cpu",
            is_checked: false,
        };
        let statement = Statement::new(&ledger, inputs, Vec::new(), device);
        let mut value = serde_json::to_value(&statement).map_err(std::io::Error::from)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("run_id");
            fields.remove("config_sha256");
        }
        Ok(value)
    }
}

/// The real mechanism on the worlds of an audit.
pub struct VoteMechanism<'a> {
    worlds: &'a Worlds,
    privacy: &'a ResolvedPrivacy,
}

impl<'a> VoteMechanism<'a> {
    /// Joins the worlds with the noise of a run.
    #[must_use]
    pub fn new(worlds: &'a Worlds, privacy: &'a ResolvedPrivacy) -> Self {
        Self { worlds, privacy }
    }
}

impl Worlds {
    /// Returns the data set of a world; that with the canary if there are no coins.
    pub(super) fn world(&self, world: World) -> &PreparedWorld {
        match world {
            World::WithCanary => &self.with,
            World::WithoutCanary => &self.without,
            World::Coins => self.coins.as_ref().unwrap_or(&self.with),
        }
    }
}

impl Mechanism for VoteMechanism<'_> {
    fn observe(&self, world: World, _trial: u64) -> Result<Observation, AuditError> {
        let world = self.worlds.world(world);
        // Every image was made by `Clusters`.
        let run = Trial::new(self.privacy, PublicCanaries::declared())?;
        let releases = (1..=self.privacy.releases())
            .map(|iteration| Ok(vec![run.release(&world.counts, iteration)?]))
            .collect::<Result<_, AuditError>>()?;
        Ok(Observation {
            releases,
            transcript: Arc::clone(&world.transcript),
        })
    }
}
