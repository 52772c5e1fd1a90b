//! Hosted models behind the OpenAI images protocol as a foundation model, used as DPSDA uses
//! DALL-E 2 (`apis/dalle_api.py`): `POST /images/generations` for random images,
//! `/images/variations` or `/images/edits` for variations.
//!
//! The vendor retired DALL-E 2 in 2026. Its successors and self-hosted servers support the same
//! protocol; the successors edit an image where DALL-E 2 varied it.
//!
//! The protocol is implemented here on top of `ureq`, without a client library: a run must record
//! each request before it is sent and store each response before it is used, and must keep the
//! access key out of every message.
//!
//! # Transmitted data
//!
//! Requests contain prompts, which are public, and images of a population, which the model itself
//! generated (or which the user supplied as `initial_samples`). They cannot contain private images:
//! [`Generator`] takes [`Generated`] images, and everything derived from private images is
//! [`Sensitive`](crate::privacy::Sensitive), which does not convert to it.
//!
//! ```compile_fail,E0308
//! use dpsyn::{Generated, Generator, SampleRequest, Sensitive, Variation};
//!
//! fn send(model: &dyn Generator, private: &Sensitive<Generated>, draws: &[SampleRequest]) {
//!     let _ = model.vary(private, draws, Variation::new(0.0, 1));
//! }
//! ```
//!
//! # Costs
//!
//! Every request is recorded in `requests.jsonl` before it is sent, and every response is stored
//! before its thread sends the next request. A resumed run uses the stored responses. The protocol
//! has no idempotency keys: if the connection breaks after the server has generated the images and
//! before the response arrives, the images must be requested, and possibly paid for, again. The
//! journal counts such requests as paid.

mod address;
pub(crate) mod answer;
mod batching;
mod client;
mod config;
mod cost;
mod error;
mod executor;
mod journal;
mod key;
mod multipart;
mod picture;
mod response_cache;

pub use config::Config;
use config::Endpoint;
pub use error::ServiceError;

use std::sync::{Mutex, OnceLock};

use candle_core::Device;

use self::address::Address;
use self::batching::{BatchedRequest, RequestBatcher};
use self::client::Client;
use self::executor::RequestExecutor;
use self::journal::{Journal, SpendingLimits};
use self::key::ApiKey;
use self::picture::{Sizes, upload};
use self::response_cache::{CacheKey, ResponseCache};
use super::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, GeneratorSection,
    OpenedGenerator, Operation, PlannedWork, Prompts, RunPaths, SampleRequest, Variation,
    check_pairs,
};
use crate::hub::Requirement;
use crate::images::ImageBatch;
use crate::privacy::sha256_hex;
use crate::progress::Observer;
use crate::sections::{InvalidKey, Section};
use crate::streams::{Phase, RngKey};

/// A hosted model.
pub struct OpenAiImages {
    config: Config,
    prompts: Prompts,
    address: Address,
    sizes: Sizes,
    attached: OnceLock<Attached>,
}

/// State that exists only after [`Generator::begin_run`].
struct Attached {
    client: Client,
    cache: ResponseCache,
    journal: Mutex<Journal>,
    lookahead_degrees: Vec<u32>,
}

impl Attached {
    /// Returns the number of lookahead variations of each sample in an iteration.
    fn lookahead_degree(&self, iteration: u32) -> u32 {
        let index = (iteration as usize).checked_sub(1);
        let degree = index.and_then(|index| self.lookahead_degrees.get(index));
        degree.copied().unwrap_or(0)
    }
}

impl OpenAiImages {
    /// Checks the configuration. The access key and the network are not used before
    /// [`Generator::begin_run`].
    ///
    /// # Errors
    /// [`GeneratorError::Config`] with the first key that is out of range.
    pub fn new(config: &Config) -> Result<Self, GeneratorError> {
        config.validate()?;
        Ok(Self {
            prompts: Prompts::new(&config.prompts)?,
            address: config.address()?,
            sizes: Sizes {
                requested: config.requested()?,
                resized: config.image_size(),
            },
            config: config.clone(),
            attached: OnceLock::new(),
        })
    }

    fn attached(&self) -> Result<&Attached, ServiceError> {
        self.attached.get().ok_or(ServiceError::NotBegun)
    }

    fn executor<'a>(&'a self, attached: &'a Attached) -> RequestExecutor<'a> {
        RequestExecutor {
            config: &self.config,
            client: &attached.client,
            cache: &attached.cache,
            journal: &attached.journal,
            sizes: self.sizes,
        }
    }

    fn prompt(&self, condition: Condition) -> Result<&str, GeneratorError> {
        self.prompts.text(condition).ok_or_else(|| {
            GeneratorError::Input(format!(
                "prompt {} does not exist: there are {} prompts",
                condition.0,
                self.prompts.texts().len()
            ))
        })
    }

    /// Returns the digest of everything that an image is made from, so that a cached image is never
    /// used for another input.
    fn input_digest(&self, prompt: &str, image: &[u8]) -> String {
        let config = &self.config;
        // Squares have one number, as in caches of earlier versions.
        let resized = match self.sizes.resized {
            size if size.is_square() => format!("{:?}", size.height),
            size => format!("{:?}", size.pair()),
        };
        let head = format!(
            "({:?}, {:?}, {:?}, {resized}, {prompt:?})",
            config.model, config.size, config.quality
        );
        sha256_hex(&[head.as_bytes(), image].concat())
    }

    /// Executes `requests` and reads the image of each of `keys` from the cache.
    fn execute(
        &self,
        requests: &[BatchedRequest],
        keys: &[CacheKey],
    ) -> Result<ImageBatch, GeneratorError> {
        let attached = self.attached()?;
        self.executor(attached).execute_all(requests)?;
        let size = self.sizes.resized;
        let mut images = ImageBatch::empty(size.height, size.width);
        for key in keys {
            images.extend(&attached.cache.read_image(key, size)?)?;
        }
        Ok(images)
    }

    /// Returns the prompt of an edit.
    fn edit_prompt(&self, prompt: &str) -> String {
        self.config.edit_prompt.replace("{prompt}", prompt)
    }
}

impl Section for Config {
    const NON_IDENTITY_KEYS: &'static [&'static str] = &[
        "api_key_env",
        "backoff",
        "batch_size",
        "concurrency",
        "max_attempts",
        "max_backoff",
        "max_cost",
        "max_images_per_call",
        "max_requests",
        "max_retry_after",
        "price_per_image",
        "response_format",
        "timeout",
    ];
}

impl GeneratorSection for Config {
    fn validate(&self) -> Result<(), InvalidKey> {
        Self::validate(self)
    }

    fn image_size(&self) -> (usize, usize) {
        Self::image_size(self).pair()
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        self.evaluations(operation).map(drop)
    }

    fn classes(&self) -> Option<(&'static str, Vec<&str>)> {
        self.prompts.classes()
    }

    fn requirements(&self) -> Vec<Requirement> {
        Vec::new()
    }

    fn is_hosted(&self) -> bool {
        true
    }

    fn open(&self, _: &[Device], _: &dyn Observer) -> Result<OpenedGenerator, GeneratorError> {
        Ok(OpenedGenerator {
            generator: Box::new(OpenAiImages::new(self)?),
            weights_digest: None,
            warnings: Vec::new(),
        })
    }
}

impl Generator for OpenAiImages {
    fn image_size(&self) -> (usize, usize) {
        self.sizes.resized.pair()
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    fn initial_conditions(
        &self,
        requests: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        Ok(self.prompts.assign(requests)?)
    }

    fn num_conditions(&self) -> u32 {
        self.prompts.count()
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        self.prompts.describe(class)
    }

    fn prompts(&self) -> &[String] {
        self.prompts.texts()
    }

    fn preflight(&self, work: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        let mut lines = self.config.estimate_cost(work)?;
        if self.address.exposes_key() && !self.config.api_key_env.is_empty() {
            lines.push(format!(
                "warning: the access key is sent unencrypted to {} (http)",
                self.address.host()
            ));
        }
        Ok(lines)
    }

    fn begin_run(&self, paths: &RunPaths) -> Result<(), GeneratorError> {
        let key = ApiKey::read(&self.config.api_key_env)?;
        let timeout = Config::seconds(self.config.timeout);
        let limits = SpendingLimits {
            max_requests: self.config.max_requests,
            price_per_image: self.config.price_per_image,
            max_cost: self.config.max_cost,
        };
        let journal = Journal::open(&paths.root.join("requests.jsonl"), limits)?;
        let attached = Attached {
            client: Client::new(self.address.clone(), key, timeout)?,
            cache: ResponseCache::new(paths.work.clone()),
            journal: Mutex::new(journal),
            lookahead_degrees: paths.lookahead_degrees.clone(),
        };
        self.executor(&attached).recover()?;
        self.attached
            .set(attached)
            .map_err(|_| GeneratorError::Input("begin_run was called twice".to_owned()))
    }

    fn random(&self, requests: &[SampleRequest]) -> Result<Generated, GeneratorError> {
        let cache = &self.attached()?.cache;
        let mut batcher = RequestBatcher::default();
        let mut keys = Vec::with_capacity(requests.len());
        for request in requests {
            let prompt = self.prompt(request.condition)?;
            let input = self.input_digest(prompt, &[]);
            let key = CacheKey::new(&request.rng_key, &input);
            if !cache.contains(&key) {
                batcher.add(&input, [key.clone()], || Ok((prompt.to_owned(), None)))?;
            }
            keys.push(key);
        }
        let calls = batcher.into_requests(self.config.max_images_per_call);
        Ok(self.execute(&calls, &keys)?.into())
    }

    fn vary(
        &self,
        parents: &Generated,
        requests: &[SampleRequest],
        variation: Variation,
    ) -> Result<Generated, GeneratorError> {
        self.evaluations(Operation::Vary(variation))?;
        check_pairs(parents, requests)?;
        let images = &parents.images;
        if (images.height(), images.width()) != self.image_size() {
            return Err(GeneratorError::Input(format!(
                "images of {}x{} pixels, expected {}",
                images.height(),
                images.width(),
                self.sizes.resized
            )));
        }
        let attached = self.attached()?;
        let mut batcher = RequestBatcher::default();
        let mut keys = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            let pixels = images.get(index).unwrap_or_default();
            // `/images/variations` has no prompt.
            let prompt = match self.config.variation {
                Endpoint::Variations => String::new(),
                Endpoint::Edits => self.edit_prompt(self.prompt(request.condition)?),
            };
            let input = self.input_digest(&prompt, pixels);
            let rng_key = request.rng_key;
            // The lookahead requests further variations of this image later: one call gets all.
            let repeats = match rng_key.phase {
                Phase::Lookahead => {
                    rng_key.repeat
                        ..attached
                            .lookahead_degree(rng_key.iteration)
                            .max(rng_key.repeat + 1)
                }
                _ => rng_key.repeat..rng_key.repeat + 1,
            };
            let missing: Vec<CacheKey> = repeats
                .map(|repeat| CacheKey::new(&RngKey { repeat, ..rng_key }, &input))
                .filter(|key| !attached.cache.contains(key))
                .collect();
            if !missing.is_empty() {
                let image = images.slice(index..index + 1);
                let limit = self.config.max_upload();
                batcher.add(&input, missing, || {
                    Ok((prompt, Some(upload(&image, limit)?)))
                })?;
            }
            keys.push(CacheKey::new(&rng_key, &input));
        }
        let calls = batcher.into_requests(self.config.max_images_per_call);
        Ok(self.execute(&calls, &keys)?.into())
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        self.config.evaluations(operation)
    }
}
