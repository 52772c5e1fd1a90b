//! The `[model]` section of a run on a hosted model, and everything that follows from it without a call.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::Address;
use crate::generators::{GeneratorError, Operation, PlannedWork, PromptsConfig};
use crate::sections::InvalidKey;

/// A model behind the OpenAI images protocol: the vendor's own, or a server that speaks it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The model's name, as the server knows it: `"gpt-image-1"`.
    pub model: String,
    /// What images are asked for; see [`PromptsConfig`].
    pub prompts: PromptsConfig,
    /// Where the server is, up to and with the version.
    #[serde(default = "defaults::base_url")]
    pub base_url: String,
    /// The environment variable that holds the key; `""` sends none.
    #[serde(default = "defaults::api_key_env")]
    pub api_key_env: String,
    /// Columns and rows of the images that are asked for, two equal numbers: `"512x512"`.
    #[serde(default = "defaults::size")]
    pub size: String,
    /// Rows and columns that they are brought to; by default `size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// How an image is varied.
    #[serde(default)]
    pub variation: Variation,
    /// With `variation = "edits"`: the words that ask for a variation; `{prompt}` stands for the image's own
    /// prompt.
    #[serde(default = "defaults::edit_prompt")]
    pub edit_prompt: String,
    /// How the server hands images over; by default inside its answer, and not said to models that know no
    /// other way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// The server's word for the quality; by default not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
    /// Images that one request may ask for, 1 to 10.
    #[serde(default = "defaults::max_images_per_call")]
    pub max_images_per_call: usize,
    /// Requests under way at once.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// Images that make a unit of work; requests are put together within it.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    /// Seconds for one request, from its first byte to the answer's last.
    #[serde(default = "defaults::timeout")]
    pub timeout: f64,
    /// Failures in a row after which a request is given up.
    #[serde(default = "defaults::max_attempts")]
    pub max_attempts: u32,
    /// Seconds of the first wait between attempts, on average half of it; it doubles each time.
    #[serde(default = "defaults::backoff")]
    pub backoff: f64,
    /// The longest wait between attempts in seconds, but for one that the server asks for.
    #[serde(default = "defaults::max_backoff")]
    pub max_backoff: f64,
    /// The longest wait in seconds that the server may ask for (`Retry-After`).
    #[serde(default = "defaults::max_retry_after")]
    pub max_retry_after: f64,
    /// Requests that this run may send in all, failed ones counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    /// What an image costs, in any currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_image: Option<f64>,
    /// What this run may spend in all, in the same currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<f64>,
}

/// How an image is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variation {
    /// `POST /images/variations`: the image alone, as DALL-E 2 had it.
    #[default]
    Variations,
    /// `POST /images/edits`: the image with words, for models without variations.
    Edits,
}

/// How the server hands images over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFormat {
    /// As addresses to fetch them from.
    Url,
    /// Inside the answer.
    B64Json,
}

impl ResponseFormat {
    /// The protocol's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::B64Json => "b64_json",
        }
    }
}

mod defaults {
    pub(super) fn base_url() -> String {
        "https://api.openai.com/v1".to_owned()
    }
    pub(super) fn api_key_env() -> String {
        "OPENAI_API_KEY".to_owned()
    }
    pub(super) fn size() -> String {
        "1024x1024".to_owned()
    }
    pub(super) fn edit_prompt() -> String {
        "Another image like this one, different in its details. {prompt}".to_owned()
    }
    pub(super) fn max_images_per_call() -> usize {
        10
    }
    pub(super) fn concurrency() -> usize {
        4
    }
    pub(super) fn batch_size() -> usize {
        40
    }
    pub(super) fn timeout() -> f64 {
        300.0
    }
    // The original's: 15 attempts, waits of 1 to 60 seconds.
    pub(super) fn max_attempts() -> u32 {
        15
    }
    pub(super) fn backoff() -> f64 {
        1.0
    }
    pub(super) fn max_backoff() -> f64 {
        60.0
    }
    pub(super) fn max_retry_after() -> f64 {
        600.0
    }
}

/// The protocol's limit on `n`.
const MAX_N: usize = 10;
/// Above this a side is mistyped.
const MAX_SIDE: usize = 8192;
/// Above this a number of seconds is mistyped.
const MAX_SECONDS: f64 = 86_400.0;

/// What is known of the vendor's models by their names. Others are taken at their word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    DallE2,
    DallE3,
    GptImage,
    Other,
}

impl Config {
    fn family(&self) -> Family {
        match self.model.as_str() {
            "dall-e-2" => Family::DallE2,
            "dall-e-3" => Family::DallE3,
            name if name.starts_with("gpt-image") || name == "chatgpt-image-latest" => {
                Family::GptImage
            }
            _ => Family::Other,
        }
    }

    /// Checks every key as far as this is possible without the model's files.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn validate(&self) -> Result<(), InvalidKey> {
        if self.model.trim().is_empty() {
            return Err(InvalidKey::new(
                "model",
                "is empty: expected a model's name",
            ));
        }
        self.address()?;
        self.validate_prompts()?;
        self.validate_key_name()?;
        self.validate_sizes()?;
        self.validate_family()?;
        self.validate_numbers()
    }

    /// Where the server is.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `base_url`.
    pub(super) fn address(&self) -> Result<Address, InvalidKey> {
        Address::parse(&self.base_url).map_err(|message| InvalidKey::new("base_url", message))
    }

    fn validate_prompts(&self) -> Result<(), InvalidKey> {
        let limit = match self.family() {
            Family::DallE2 => 1_000,
            Family::DallE3 => 4_000,
            Family::GptImage => 32_000,
            Family::Other => usize::MAX,
        };
        let prompts = crate::generators::Prompts::new(&self.prompts)?;
        for prompt in prompts.texts() {
            let characters = prompt.chars().count();
            if characters > limit {
                let message = format!(
                    "has a prompt of {characters} characters: {} takes at most {limit}",
                    self.model
                );
                return Err(InvalidKey::new("prompts", message));
            }
        }
        if self.variation == Variation::Edits && self.edit_prompt.trim().is_empty() {
            return Err(InvalidKey::new("edit_prompt", "is empty: expected words"));
        }
        Ok(())
    }

    fn validate_key_name(&self) -> Result<(), InvalidKey> {
        let name = &self.api_key_env;
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.chars().all(fine) && !name.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(());
        }
        // Whoever wrote the key itself here must not see it in a log.
        Err(InvalidKey::new(
            "api_key_env",
            "is not the name of an environment variable: expected one such as \"OPENAI_API_KEY\", never the key itself",
        ))
    }

    fn validate_sizes(&self) -> Result<(), InvalidKey> {
        let side = self.side()?;
        if let Some(size) = self.image_size
            && !(1..=side).contains(&size)
        {
            let message = format!("is {size}: expected 1 to {side}, the side of `size`");
            return Err(InvalidKey::new("image_size", message));
        }
        Ok(())
    }

    fn validate_family(&self) -> Result<(), InvalidKey> {
        let family = self.family();
        let model = &self.model;
        let sides: &[usize] = match family {
            Family::DallE2 => &[256, 512, 1024],
            Family::DallE3 => &[1024],
            Family::GptImage | Family::Other => &[],
        };
        let side = self.side()?;
        if !sides.is_empty() && !sides.contains(&side) {
            let sizes: Vec<String> = sides.iter().map(|side| format!("{side}x{side}")).collect();
            let message = format!("is \"{}\": {model} makes {}", self.size, sizes.join(", "));
            return Err(InvalidKey::new("size", message));
        }
        match (family, self.variation) {
            (Family::DallE2, Variation::Edits) => Err(InvalidKey::new(
                "variation",
                "is \"edits\": dall-e-2 needs a mask for it and has \"variations\"",
            )),
            (Family::DallE3, _) => Err(InvalidKey::new(
                "model",
                "is \"dall-e-3\", which can neither vary nor edit an image",
            )),
            (Family::GptImage, Variation::Variations) => Err(InvalidKey::new(
                "variation",
                format!("is \"variations\": {model} has \"edits\" only"),
            )),
            (Family::GptImage, _) if self.response_format.is_some() => Err(InvalidKey::new(
                "response_format",
                format!("is given: {model} takes none and always sends the images themselves"),
            )),
            _ => Ok(()),
        }
    }

    fn validate_numbers(&self) -> Result<(), InvalidKey> {
        if !(1..=MAX_N).contains(&self.max_images_per_call) {
            let message = format!(
                "is {}: expected 1 to {MAX_N}, the protocol's limit",
                self.max_images_per_call
            );
            return Err(InvalidKey::new("max_images_per_call", message));
        }
        for (key, count, most) in [
            ("concurrency", self.concurrency, 256),
            ("batch_size", self.batch_size, 100_000),
            ("max_attempts", self.max_attempts as usize, 1_000),
        ] {
            if !(1..=most).contains(&count) {
                return Err(InvalidKey::new(
                    key,
                    format!("is {count}: expected 1 to {most}"),
                ));
            }
        }
        for (key, seconds, least) in [
            ("timeout", self.timeout, 1e-3),
            ("backoff", self.backoff, 0.0),
            ("max_backoff", self.max_backoff, 0.0),
            ("max_retry_after", self.max_retry_after, 0.0),
        ] {
            // Also refuses NaN.
            if !(least..=MAX_SECONDS).contains(&seconds) {
                let message = format!("is {seconds}: expected {least} to {MAX_SECONDS} seconds");
                return Err(InvalidKey::new(key, message));
            }
        }
        for (key, money) in [
            ("price_per_image", self.price_per_image),
            ("max_cost", self.max_cost),
        ] {
            if money.is_some_and(|money| !(money.is_finite() && money >= 0.0)) {
                return Err(InvalidKey::new(key, "expected a number of at least 0"));
            }
        }
        if self.max_cost.is_some() && self.price_per_image.is_none() {
            return Err(InvalidKey::new(
                "max_cost",
                "needs price_per_image to count with",
            ));
        }
        Ok(())
    }

    /// The side of the images that are asked for.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `size`.
    pub(super) fn side(&self) -> Result<usize, InvalidKey> {
        let parsed = self.size.split_once('x').and_then(|(width, height)| {
            let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            let side = |text: &str| digits(text).then(|| text.parse::<usize>().ok()).flatten();
            Some((side(width)?, side(height)?))
        });
        match parsed {
            Some((width, height)) if width == height && (1..=MAX_SIDE).contains(&width) => {
                Ok(width)
            }
            _ => Err(InvalidKey::new(
                "size",
                format!(
                    "is \"{}\": expected two equal numbers such as \"512x512\" (the private images are square)",
                    self.size
                ),
            )),
        }
    }

    /// Returns the height and width of the generated images; 0 if [`Config::validate`] refuses
    /// `size`.
    #[must_use]
    pub fn image_size(&self) -> usize {
        self.image_size.unwrap_or(self.side().unwrap_or(0))
    }

    /// What is said to the server; `None` to models that take no such word.
    pub(super) fn spoken_format(&self) -> Option<ResponseFormat> {
        match self.family() {
            Family::GptImage => None,
            _ => Some(self.response_format.unwrap_or(ResponseFormat::B64Json)),
        }
    }

    /// `png` where the server has to be told.
    pub(super) fn output_format(&self) -> Option<&'static str> {
        (self.family() == Family::GptImage).then_some("png")
    }

    /// Bytes that an upload may have.
    pub(super) fn max_upload(&self) -> usize {
        match (self.family(), self.variation) {
            (Family::GptImage, _) => 25_000_000,
            (_, Variation::Variations) => 4_000_000,
            (_, Variation::Edits) => 50_000_000,
        }
    }

    /// Images that the server is asked for to get one.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] for a degree that is no number.
    pub fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        match operation {
            Operation::Vary(degree) if !degree.is_finite() => Err(GeneratorError::Degree {
                degree,
                expected: "any number: a hosted model ignores it".to_owned(),
            }),
            Operation::Random | Operation::Vary(_) => Ok(1),
        }
    }

    /// Images, and requests at most if none fails.
    pub(super) fn requests(&self, work: &[PlannedWork]) -> (u64, u64) {
        let (mut images, mut requests) = (0_u64, 0_u64);
        let per_call = self.max_images_per_call.max(1) as u64;
        let prompts = crate::generators::Prompts::new(&self.prompts);
        let prompts = prompts.map_or(1, |prompts| prompts.texts().len() as u64);
        for demand in work {
            let all = demand.images * u64::from(demand.each);
            images += all;
            requests += match demand.operation {
                // A unit's images of one prompt share requests.
                Operation::Random => {
                    let unit = self.batch_size.max(1) as u64;
                    let calls = |images: u64| {
                        images.min(images.div_ceil(per_call) + prompts.min(images) - 1)
                    };
                    let rest = all % unit;
                    all / unit * calls(unit) + if rest == 0 { 0 } else { calls(rest) }
                }
                // Several variations of one image do.
                Operation::Vary(_) => demand.images * u64::from(demand.each).div_ceil(per_call),
            };
        }
        (images, requests)
    }

    /// Checks the plan against the caps and says what it costs.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `max_requests` or `max_cost`.
    pub(super) fn bill(&self, work: &[PlannedWork]) -> Result<Vec<String>, InvalidKey> {
        let (images, requests) = self.requests(work);
        let mut lines = vec![format!(
            "hosted model {}: {images} images by at most {requests} requests if none fails{}",
            self.model,
            self.max_requests
                .map(|most| format!(" (max_requests {most})"))
                .unwrap_or_default()
        )];
        if let Some(price) = self.price_per_image {
            let cost = images as f64 * price;
            lines.push(format!(
                "price: {cost:.2} at {price} an image{}",
                self.max_cost
                    .map(|most| format!(" (max_cost {most})"))
                    .unwrap_or_default()
            ));
            if let Some(most) = self.max_cost
                && cost > most
            {
                let message = format!("is {most}, but the plan costs {cost:.2}");
                return Err(InvalidKey::new("max_cost", message));
            }
        } else {
            lines.push("price: unknown (price_per_image is not set)".to_owned());
        }
        if let Some(most) = self.max_requests
            && requests > most
        {
            let message = format!("is {most}, but the plan needs up to {requests}");
            return Err(InvalidKey::new("max_requests", message));
        }
        lines.push(format!(
            "disk: up to {:.1} MB more while it runs, for what was bought",
            self.spool_bytes(work) as f64 / 1e6
        ));
        if work
            .iter()
            .any(|demand| matches!(demand.operation, Operation::Vary(_)))
        {
            lines.push("variation_degree is ignored: the protocol has no such notion".to_owned());
        }
        Ok(lines)
    }

    /// Bytes that bought images take at most until their iteration is complete: its lookahead and its
    /// variations, as PNGs that are hardly larger than the pixels.
    fn spool_bytes(&self, work: &[PlannedWork]) -> u64 {
        let images = |demand: &PlannedWork| demand.images * u64::from(demand.each);
        let pairs = work.windows(2).map(|pair| pair.iter().map(images).sum());
        let most: u64 = pairs.chain(work.iter().map(images)).max().unwrap_or(0);
        let side = self.image_size() as u64;
        most * (side * side * 3 + 4096)
    }

    /// A number of seconds that [`Config::validate`] has passed.
    pub(super) fn seconds(value: f64) -> Duration {
        Duration::try_from_secs_f64(value).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(&format!("prompts = \"a cat\"\n{text}"))
    }

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        let config = parse("model = \"dall-e-2\"").unwrap();
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(config.image_size(), 1024);
        assert_eq!(config.spoken_format(), Some(ResponseFormat::B64Json));
        assert_eq!(config.output_format(), None);
    }

    #[test]
    fn gpt_image_is_not_told_what_it_does_not_know() {
        let config = parse("model = \"gpt-image-1\"\nvariation = \"edits\"").unwrap();
        config.validate().unwrap();
        assert_eq!(config.spoken_format(), None);
        assert_eq!(config.output_format(), Some("png"));
    }

    #[test]
    fn every_range_error_names_its_key() {
        let long = "x".repeat(1001);
        for (text, key) in [
            ("model = \" \"", "model"),
            ("model = \"dall-e-3\"", "model"),
            ("model = \"dall-e-2\"\nsize = \"640x640\"", "size"),
            ("model = \"m\"\nsize = \"512\"", "size"),
            ("model = \"m\"\nsize = \"512x256\"", "size"),
            ("model = \"m\"\nsize = \"+12x+12\"", "size"),
            ("model = \"m\"\nsize = \"0x0\"", "size"),
            ("model = \"m\"\nsize = \"99999x99999\"", "size"),
            (
                "model = \"m\"\nsize = \"64x64\"\nimage_size = 65",
                "image_size",
            ),
            ("model = \"m\"\nimage_size = 0", "image_size"),
            ("model = \"dall-e-2\"\nvariation = \"edits\"", "variation"),
            ("model = \"gpt-image-1\"", "variation"),
            (
                "model = \"gpt-image-1\"\nvariation = \"edits\"\nresponse_format = \"url\"",
                "response_format",
            ),
            (
                "model = \"m\"\nvariation = \"edits\"\nedit_prompt = \"\"",
                "edit_prompt",
            ),
            ("model = \"m\"\nbase_url = \"ftp://x\"", "base_url"),
            ("model = \"m\"\nbase_url = \"https://a:b@x/v1\"", "base_url"),
            (
                "model = \"m\"\nbase_url = \"https://x/v1?key=1\"",
                "base_url",
            ),
            ("model = \"m\"\napi_key_env = \"sk-abc\"", "api_key_env"),
            (
                "model = \"m\"\nmax_images_per_call = 11",
                "max_images_per_call",
            ),
            (
                "model = \"m\"\nmax_images_per_call = 0",
                "max_images_per_call",
            ),
            ("model = \"m\"\nconcurrency = 0", "concurrency"),
            ("model = \"m\"\nbatch_size = 0", "batch_size"),
            ("model = \"m\"\nmax_attempts = 0", "max_attempts"),
            ("model = \"m\"\ntimeout = 0", "timeout"),
            ("model = \"m\"\ntimeout = nan", "timeout"),
            ("model = \"m\"\nbackoff = -1", "backoff"),
            ("model = \"m\"\nmax_backoff = inf", "max_backoff"),
            ("model = \"m\"\nmax_retry_after = -1", "max_retry_after"),
            ("model = \"m\"\nprice_per_image = -1", "price_per_image"),
            ("model = \"m\"\nmax_cost = 1", "max_cost"),
        ] {
            match parse(text).unwrap().validate() {
                Err(InvalidKey { key: found, .. }) => assert_eq!(found, key, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let config: Config =
            toml::from_str(&format!("model = \"dall-e-2\"\nprompts = \"{long}\"")).unwrap();
        assert!(config.validate().unwrap_err().to_string().contains("1001"));
    }

    #[test]
    fn the_bill_counts_images_and_bounds_requests() {
        let work = [
            PlannedWork {
                operation: Operation::Random,
                images: 100,
                each: 1,
            },
            PlannedWork {
                operation: Operation::Vary(1.0),
                images: 100,
                each: 8,
            },
            PlannedWork {
                operation: Operation::Vary(1.0),
                images: 100,
                each: 1,
            },
        ];
        let mut config = parse("model = \"m\"\nbatch_size = 40").unwrap();
        // Units of 40, 40, 20 of one prompt; 100 lookaheads of 8; 100 single variations.
        assert_eq!(config.requests(&work), (1000, 4 + 4 + 2 + 100 + 100));
        config.prompts = PromptsConfig::List(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(config.requests(&work), (1000, 5 + 5 + 3 + 100 + 100));
        config.max_images_per_call = 3;
        assert_eq!(config.requests(&work).1, 15 + 15 + 8 + 300 + 100);
        config.price_per_image = Some(0.02);
        let lines = config.bill(&work).unwrap().join("\n");
        assert!(
            lines.contains("1000 images") && lines.contains("price: 20.00"),
            "{lines}"
        );
        assert!(lines.contains("variation_degree is ignored"), "{lines}");
        // 800 + 100 images of 1024².
        assert!(lines.contains("disk: up to 2834.8 MB"), "{lines}");
        config.max_cost = Some(19.99);
        let error = config.bill(&work).unwrap_err().to_string();
        assert!(error.starts_with("max_cost: "), "{error}");
        config.max_cost = Some(20.0);
        config.max_requests = Some(437);
        let error = config.bill(&work).unwrap_err().to_string();
        assert!(error.starts_with("max_requests: "), "{error}");
        config.max_requests = Some(438);
        config.bill(&work).unwrap();
        assert_eq!(config.requests(&[]), (0, 0));
    }

    #[test]
    fn any_degree_is_accepted_if_it_is_a_number() {
        let config = parse("model = \"m\"").unwrap();
        assert_eq!(config.evaluations(Operation::Random).unwrap(), 1);
        assert_eq!(config.evaluations(Operation::Vary(0.98)).unwrap(), 1);
        assert!(config.evaluations(Operation::Vary(f64::NAN)).is_err());
    }
}
