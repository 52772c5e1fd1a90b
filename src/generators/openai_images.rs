//! Hosted models behind the OpenAI images protocol as a foundation model, the way DPSDA drives DALL-E 2
//! (`apis/dalle_api.py`): `POST /images/generations` for random images, `/images/variations` or
//! `/images/edits` for variations.
//!
//! DALL-E 2 itself was retired by its vendor in 2026. The protocol lives on in its successors, which edit an
//! image where DALL-E 2 varied it, and in servers to run oneself.
//!
//! # What is sent
//!
//! Prompts, which are public, and images of a population, which the model made itself (or which the user gave
//! as `initial_samples`). Nothing private can be: [`Generator`] takes an [`ImageBatch`], and what comes of
//! private images is a [`Sensitive`](crate::privacy::Sensitive) one, which does not turn into it.
//!
//! ```compile_fail,E0308
//! use dpsyn::generators::{SampleRequest, Generator};
//! use dpsyn::images::ImageBatch;
//! use dpsyn::privacy::Sensitive;
//!
//! fn send(model: &dyn Generator, private: &Sensitive<ImageBatch>, draws: &[SampleRequest]) {
//!     let _ = model.vary(private, draws, 0.0);
//! }
//! ```
//!
//! # What is paid
//!
//! Every request is in `requests.jsonl` before it is sent, every answer is on disk before the next request of
//! its thread is sent, and a resumed run takes from disk what was bought. The protocol knows no
//! idempotency: when a connection breaks after the server has worked and before its answer is here, the
//! images have to be asked for, and perhaps paid, once more. The journal counts such requests as paid.

mod address;
mod answer;
mod client;
mod config;
mod desk;
mod error;
mod journal;
mod key;
mod multipart;
mod picture;
mod spool;

pub use config::{Config, ResponseFormat, Variation};
pub use error::ServiceError;

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use self::address::Address;
use self::client::Client;
use self::desk::{Desk, Order};
use self::journal::{Caps, Journal};
use self::key::ApiKey;
use self::picture::{Sides, upload};
use self::spool::{Spool, Ticket};
use super::{
    Condition, ConditionRequest, Generator, GeneratorError, GeneratorSection, OpenedGenerator,
    Operation, PlannedWork, Prompts, RunPaths, SampleRequest, check_pairs,
};
use crate::hub::Requirement;
use crate::images::ImageBatch;
use crate::privacy::sha256_hex;
use crate::progress::Progress;
use crate::sections::{InvalidKey, Section};
use crate::streams::Phase;
use candle_core::Device;

/// A hosted model.
pub struct OpenAiImages {
    config: Config,
    prompts: Prompts,
    address: Address,
    sides: Sides,
    office: OnceLock<Office>,
}

/// What there is once a run has begun.
struct Office {
    client: Client,
    spool: Spool,
    journal: Mutex<Journal>,
    lookahead_degree: u32,
}

impl OpenAiImages {
    /// Checks the configuration. Neither the key nor the network is touched before
    /// [`Generator::begin_run`].
    ///
    /// # Errors
    /// [`GeneratorError::Config`] naming the key that is out of range.
    pub fn new(config: &Config) -> Result<Self, GeneratorError> {
        config.validate()?;
        Ok(Self {
            prompts: Prompts::new(&config.prompts)?,
            address: config.address()?,
            sides: Sides {
                asked: config.side()?,
                wanted: config.image_size(),
            },
            config: config.clone(),
            office: OnceLock::new(),
        })
    }

    fn office(&self) -> Result<&Office, ServiceError> {
        self.office.get().ok_or(ServiceError::Unattached)
    }

    fn desk<'a>(&'a self, office: &'a Office) -> Desk<'a> {
        Desk {
            config: &self.config,
            client: &office.client,
            spool: &office.spool,
            journal: &office.journal,
            sides: self.sides,
        }
    }

    fn prompt(&self, condition: Condition) -> Result<&str, GeneratorError> {
        self.prompts.text(condition).ok_or_else(|| {
            GeneratorError::Input(format!(
                "prompt {} where there are {}",
                condition.0,
                self.prompts.texts().len()
            ))
        })
    }

    /// Digest of what an image is made from, so that what is on disk is never taken for something else.
    fn origin(&self, prompt: &str, image: &[u8]) -> String {
        let config = &self.config;
        let head = format!(
            "{:?}",
            (
                &config.model,
                &config.size,
                &config.quality,
                self.sides.wanted,
                prompt
            )
        );
        sha256_hex(&[head.as_bytes(), image].concat())
    }

    /// Buys what is missing and reads one image for each of `tickets`.
    fn gather(&self, tickets: &[Ticket], orders: &[Order]) -> Result<ImageBatch, GeneratorError> {
        let office = self.office()?;
        self.desk(office).buy(orders)?;
        let side = self.sides.wanted;
        let mut images = ImageBatch::empty(side, side);
        for ticket in tickets {
            images.extend(&office.spool.read(ticket, side)?)?;
        }
        Ok(images)
    }

    /// The words that go with an edit.
    fn edit_prompt(&self, prompt: &str) -> String {
        self.config.edit_prompt.replace("{prompt}", prompt)
    }
}

/// Orders in the order in which they first appear; draws that the same request can serve share one.
#[derive(Default)]
struct Orders {
    orders: Vec<Order>,
    places: HashMap<String, usize>,
}

impl Orders {
    /// Adds tickets to the order of `origin`, which `make` makes if there is none yet.
    fn add(
        &mut self,
        origin: &str,
        tickets: impl IntoIterator<Item = Ticket>,
        make: impl FnOnce() -> Result<(String, Option<Vec<u8>>), ServiceError>,
    ) -> Result<(), ServiceError> {
        let place = match self.places.get(origin) {
            Some(place) => *place,
            None => {
                let (prompt, upload) = make()?;
                self.orders.push(Order {
                    prompt,
                    upload,
                    tickets: Vec::new(),
                });
                let place = self.orders.len() - 1;
                self.places.insert(origin.to_owned(), place);
                place
            }
        };
        if let Some(order) = self.orders.get_mut(place) {
            order.tickets.extend(tickets);
        }
        Ok(())
    }

    /// Cut into what one request can ask for, so that requests of one order can go out at once.
    fn cut(self, most: usize) -> Vec<Order> {
        let mut cut = Vec::new();
        for order in self.orders {
            for tickets in order.tickets.chunks(most.max(1)) {
                cut.push(Order {
                    prompt: order.prompt.clone(),
                    upload: order.upload.clone(),
                    tickets: tickets.to_vec(),
                });
            }
        }
        cut
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

    fn image_size(&self) -> usize {
        Self::image_size(self)
    }

    fn check_operation(&self, operation: Operation) -> Result<(), GeneratorError> {
        self.evaluations(operation).map(drop)
    }

    fn requirements(&self) -> Vec<Requirement> {
        Vec::new()
    }

    fn is_hosted(&self) -> bool {
        true
    }

    fn open(&self, _: &[Device], _: &dyn Progress) -> Result<OpenedGenerator, GeneratorError> {
        Ok(OpenedGenerator {
            generator: Box::new(OpenAiImages::new(self)?),
            weights_digest: None,
            warnings: Vec::new(),
        })
    }
}

impl Generator for OpenAiImages {
    fn image_size(&self) -> (usize, usize) {
        (self.sides.wanted, self.sides.wanted)
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    fn initial_conditions(
        &self,
        slots: &[ConditionRequest<'_>],
    ) -> Result<Vec<Condition>, GeneratorError> {
        Ok(self.prompts.assign(slots)?)
    }

    fn supports_condition(&self, condition: Condition) -> bool {
        self.prompts.text(condition).is_some()
    }

    fn describe_conditions(&self, class: Option<&str>) -> Vec<String> {
        self.prompts.describe(class)
    }

    fn prompts(&self) -> &[String] {
        self.prompts.texts()
    }

    fn preflight(&self, work: &[PlannedWork]) -> Result<Vec<String>, GeneratorError> {
        let mut lines = self.config.bill(work)?;
        if self.address.exposes_key() && !self.config.api_key_env.is_empty() {
            lines.push(format!(
                "warning: the key travels unencrypted to {} (http)",
                self.address.host()
            ));
        }
        Ok(lines)
    }

    fn begin_run(&self, workplace: &RunPaths) -> Result<(), GeneratorError> {
        let key = ApiKey::read(&self.config.api_key_env)?;
        let timeout = Config::seconds(self.config.timeout);
        let caps = Caps {
            max_requests: self.config.max_requests,
            price_per_image: self.config.price_per_image,
            max_cost: self.config.max_cost,
        };
        let journal = Journal::open(&workplace.root.join("requests.jsonl"), caps)?;
        let office = Office {
            client: Client::new(self.address.clone(), key, timeout)?,
            spool: Spool::new(workplace.work.clone()),
            journal: Mutex::new(journal),
            lookahead_degree: workplace.lookahead_degree,
        };
        self.desk(&office).recover()?;
        self.office
            .set(office)
            .map_err(|_| GeneratorError::Input("attached twice".to_owned()))
    }

    fn random(&self, draws: &[SampleRequest]) -> Result<ImageBatch, GeneratorError> {
        let spool = &self.office()?.spool;
        let mut orders = Orders::default();
        let mut tickets = Vec::with_capacity(draws.len());
        for draw in draws {
            let prompt = self.prompt(draw.condition)?;
            let origin = self.origin(prompt, &[]);
            let ticket = Ticket::new(&draw.rng_key, &origin);
            if !spool.has(&ticket) {
                orders.add(&origin, [ticket.clone()], || Ok((prompt.to_owned(), None)))?;
            }
            tickets.push(ticket);
        }
        self.gather(&tickets, &orders.cut(self.config.max_images_per_call))
    }

    fn vary(
        &self,
        images: &ImageBatch,
        draws: &[SampleRequest],
        degree: f64,
    ) -> Result<ImageBatch, GeneratorError> {
        self.evaluations(Operation::Vary(degree))?;
        check_pairs(images, draws)?;
        if (images.height(), images.width()) != self.image_size() {
            return Err(GeneratorError::Input(format!(
                "images of {}x{} where {side}x{side} was expected",
                images.height(),
                images.width(),
                side = self.sides.wanted
            )));
        }
        let office = self.office()?;
        let mut orders = Orders::default();
        let mut tickets = Vec::with_capacity(draws.len());
        for (index, draw) in draws.iter().enumerate() {
            let pixels = images.get(index).unwrap_or_default();
            // Variations are made without words, edits with them.
            let words = match self.config.variation {
                Variation::Variations => String::new(),
                Variation::Edits => self.edit_prompt(self.prompt(draw.condition)?),
            };
            let origin = self.origin(&words, pixels);
            // The lookahead will ask for further variations of this image: one request gets them all.
            let repeats = match draw.rng_key.phase {
                Phase::Lookahead => {
                    draw.rng_key.repeat..office.lookahead_degree.max(draw.rng_key.repeat + 1)
                }
                _ => draw.rng_key.repeat..draw.rng_key.repeat + 1,
            };
            let wanted = repeats.map(|repeat| {
                let mut stream = draw.rng_key;
                stream.repeat = repeat;
                Ticket::new(&stream, &origin)
            });
            let missing: Vec<Ticket> = wanted.filter(|ticket| !office.spool.has(ticket)).collect();
            if !missing.is_empty() {
                let image = images.slice(index..index + 1);
                let limit = self.config.max_upload();
                orders.add(&origin, missing, || {
                    Ok((words, Some(upload(&image, limit)?)))
                })?;
            }
            tickets.push(Ticket::new(&draw.rng_key, &origin));
        }
        self.gather(&tickets, &orders.cut(self.config.max_images_per_call))
    }

    fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        self.config.evaluations(operation)
    }
}
