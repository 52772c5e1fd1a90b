//! The `[model]` section of a hosted model and its checks, which send no request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::Address;
use crate::generators::{GeneratorError, Operation, PromptsConfig};
use crate::images::ImageSize;
use crate::sections::InvalidKey;

/// A model behind the OpenAI images protocol, hosted by the vendor or by another server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server's name of the model, such as `"gpt-image-1"`.
    pub model: String,
    /// The prompts of the images; see [`PromptsConfig`].
    pub prompts: PromptsConfig,
    /// Base address of the server, including the version.
    #[serde(default = "defaults::base_url")]
    pub base_url: String,
    /// The environment variable that holds the access key; `""` for a server without keys.
    #[serde(default = "defaults::api_key_env")]
    pub api_key_env: String,
    /// Width and height of the requested images, in the order of the protocol: `"512x512"`.
    #[serde(default = "defaults::size")]
    pub size: String,
    /// Size to which received images are resized, a number or `[height, width]` in the aspect ratio
    /// of `size`; by default that of `size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<ImageSize>,
    /// The endpoint for variations.
    #[serde(default)]
    pub variation: Endpoint,
    /// With `variation = "edits"`, the prompt of an edit; `{prompt}` is replaced by the prompt of
    /// the image.
    #[serde(default = "defaults::edit_prompt")]
    pub edit_prompt: String,
    /// The form in which the server returns images; by default inside the response. It is not sent
    /// to models that support one form only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// The server's `quality` parameter; not sent by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
    /// Maximum number of images per request, 1 to 10.
    #[serde(default = "defaults::max_images_per_call")]
    pub max_images_per_call: usize,
    /// Maximum number of concurrent requests.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// Number of images per shard; images of one shard can share requests.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    /// Time limit of one request in seconds, from its first byte to the last one of the response.
    #[serde(default = "defaults::timeout")]
    pub timeout: f64,
    /// Number of consecutive failures after which the run stops.
    #[serde(default = "defaults::max_attempts")]
    pub max_attempts: u32,
    /// First back-off between attempts in seconds; it is doubled after each attempt, and half of it
    /// is used on average (full jitter).
    #[serde(default = "defaults::backoff")]
    pub backoff: f64,
    /// Maximum back-off between attempts in seconds. A `Retry-After` of the server may be longer.
    #[serde(default = "defaults::max_backoff")]
    pub max_backoff: f64,
    /// Maximum `Retry-After` of the server, in seconds, that the run waits for.
    #[serde(default = "defaults::max_retry_after")]
    pub max_retry_after: f64,
    /// Maximum number of requests of the run, including failed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u64>,
    /// Price of one image, in any currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_image: Option<f64>,
    /// Maximum cost of the run, in the same currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<f64>,
}

/// The endpoint that varies images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// `POST /images/variations`, which takes the image alone (DALL-E 2).
    #[default]
    Variations,
    /// `POST /images/edits`, which takes the image and a prompt.
    Edits,
}

/// The form in which the server returns images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Addresses to download the images from.
    Url,
    /// Base64 inside the response.
    B64Json,
}

impl ResponseFormat {
    /// Returns the value of the protocol's parameter `response_format`.
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
    // Those of DPSDA (`apis/dalle_api.py`): 15 attempts, waits of 1 to 60 seconds.
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

/// The protocol's maximum of `n`, the number of images of a request.
const MAX_N: usize = 10;
/// Larger image sides are treated as typing errors.
const MAX_SIDE: usize = 8192;
/// Longer times, in seconds, are treated as typing errors: one day.
const MAX_SECONDS: f64 = 86_400.0;

/// Models of the vendor, whose limits are known from their names. No limits are assumed for others.
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

    /// Parses the base address of the server.
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
                    "has a prompt of {characters} characters: {} accepts at most {limit}",
                    self.model
                );
                return Err(InvalidKey::new("prompts", message));
            }
        }
        if self.variation == Endpoint::Edits && self.edit_prompt.trim().is_empty() {
            return Err(InvalidKey::new(
                "edit_prompt",
                "is empty: expected a prompt",
            ));
        }
        Ok(())
    }

    fn validate_key_name(&self) -> Result<(), InvalidKey> {
        let name = &self.api_key_env;
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.chars().all(valid) && !name.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(());
        }
        // The value may be the key itself, so the message must not repeat it.
        Err(InvalidKey::new(
            "api_key_env",
            "is not the name of an environment variable: expected one such as \"OPENAI_API_KEY\", not the key itself",
        ))
    }

    fn validate_sizes(&self) -> Result<(), InvalidKey> {
        let requested = self.requested()?;
        let Some(size) = self.image_size else {
            return Ok(());
        };
        let fits = (1..=requested.height).contains(&size.height)
            && (1..=requested.width).contains(&size.width);
        if !fits {
            let message = format!(
                "is {size}: expected at least 1 and at most {requested}, the height and width of \
                 `size`"
            );
            return Err(InvalidKey::new("image_size", message));
        }
        // Both sides are scaled by one factor, up to a pixel of rounding.
        let scaled = (size.height * requested.width).abs_diff(size.width * requested.height);
        if scaled > requested.height.max(requested.width) {
            let message = format!("is {size}: expected the aspect ratio of `size`, {requested}");
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
        let requested = self.requested()?;
        let known = requested.is_square() && sides.contains(&requested.height);
        if !sides.is_empty() && !known {
            let sizes: Vec<String> = sides.iter().map(|side| format!("{side}x{side}")).collect();
            let message = format!(
                "is \"{}\": {model} supports {}",
                self.size,
                sizes.join(", ")
            );
            return Err(InvalidKey::new("size", message));
        }
        match (family, self.variation) {
            (Family::DallE2, Endpoint::Edits) => Err(InvalidKey::new(
                "variation",
                "is \"edits\", for which dall-e-2 needs a mask: expected \"variations\"",
            )),
            (Family::DallE3, _) => Err(InvalidKey::new(
                "model",
                "is \"dall-e-3\", which supports neither variations nor edits of an image",
            )),
            (Family::GptImage, Endpoint::Variations) => Err(InvalidKey::new(
                "variation",
                format!("is \"variations\", which {model} does not support: expected \"edits\""),
            )),
            (Family::GptImage, _) if self.response_format.is_some() => Err(InvalidKey::new(
                "response_format",
                format!("is set, but {model} does not support it: remove the key"),
            )),
            _ => Ok(()),
        }
    }

    fn validate_numbers(&self) -> Result<(), InvalidKey> {
        if !(1..=MAX_N).contains(&self.max_images_per_call) {
            let message = format!("is {}: expected 1 to {MAX_N}", self.max_images_per_call);
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
            return Err(InvalidKey::new("max_cost", "needs price_per_image"));
        }
        Ok(())
    }

    /// Returns the size of the requested images.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `size`.
    pub(super) fn requested(&self) -> Result<ImageSize, InvalidKey> {
        let parsed = self.size.split_once('x').and_then(|(width, height)| {
            let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            let side = |text: &str| digits(text).then(|| text.parse::<usize>().ok()).flatten();
            Some((side(width)?, side(height)?))
        });
        match parsed {
            Some((width, height))
                if [width, height]
                    .iter()
                    .all(|side| (1..=MAX_SIDE).contains(side)) =>
            {
                Ok(ImageSize { height, width })
            }
            _ => Err(InvalidKey::new(
                "size",
                format!(
                    "is \"{}\": expected width and height such as \"512x512\"",
                    self.size
                ),
            )),
        }
    }

    /// Returns the height and width of the generated images; 0 if [`Config::validate`] refuses
    /// `size`.
    #[must_use]
    pub fn image_size(&self) -> ImageSize {
        let requested = || self.requested().unwrap_or(ImageSize::square(0));
        self.image_size.unwrap_or_else(requested)
    }

    /// Returns the `response_format` to send; `None` for models without this parameter.
    pub(super) fn sent_format(&self) -> Option<ResponseFormat> {
        match self.family() {
            Family::GptImage => None,
            _ => Some(self.response_format.unwrap_or(ResponseFormat::B64Json)),
        }
    }

    /// Returns the `output_format` to send; `None` for models without this parameter.
    pub(super) fn output_format(&self) -> Option<&'static str> {
        (self.family() == Family::GptImage).then_some("png")
    }

    /// Returns the maximum size of an uploaded file in bytes.
    pub(super) fn max_upload(&self) -> usize {
        match (self.family(), self.variation) {
            (Family::GptImage, _) => 25_000_000,
            (_, Endpoint::Variations) => 4_000_000,
            (_, Endpoint::Edits) => 50_000_000,
        }
    }

    /// Returns the number of images that are requested for each image of a population.
    ///
    /// # Errors
    /// [`GeneratorError::Degree`] for a degree that is not finite.
    pub fn evaluations(&self, operation: Operation) -> Result<u64, GeneratorError> {
        match operation {
            Operation::Vary(variation) if !variation.degree.is_finite() => {
                Err(GeneratorError::Degree {
                    degree: variation.degree,
                    expected: "a finite number, which a hosted model ignores".to_owned(),
                })
            }
            Operation::Random | Operation::Vary(_) => Ok(1),
        }
    }

    /// Converts a number of seconds that [`Config::validate`] has accepted.
    pub(super) fn seconds(value: f64) -> Duration {
        Duration::try_from_secs_f64(value).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::Variation;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(&format!("prompts = \"a cat\"\n{text}"))
    }

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip() {
        let config = parse("model = \"dall-e-2\"").unwrap();
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        assert_eq!(config.image_size(), ImageSize::square(1024));
        assert_eq!(config.sent_format(), Some(ResponseFormat::B64Json));
        assert_eq!(config.output_format(), None);
    }

    #[test]
    fn gpt_image_gets_only_the_parameters_that_it_supports() {
        let config = parse("model = \"gpt-image-1\"\nvariation = \"edits\"").unwrap();
        config.validate().unwrap();
        assert_eq!(config.sent_format(), None);
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
            ("model = \"m\"\nsize = \"512x\"", "size"),
            (
                "model = \"m\"\nsize = \"512x256\"\nimage_size = 64",
                "image_size",
            ),
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
    fn any_degree_is_accepted_if_it_is_a_number() {
        let config = parse("model = \"m\"").unwrap();
        assert_eq!(config.evaluations(Operation::Random).unwrap(), 1);
        assert_eq!(
            config
                .evaluations(Operation::Vary(Variation::new(0.98, 1)))
                .unwrap(),
            1
        );
        assert!(
            config
                .evaluations(Operation::Vary(Variation::new(f64::NAN, 1)))
                .is_err()
        );
    }
}
