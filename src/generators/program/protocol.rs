//! The messages between dpsyn and a program, version 1; `docs/program-protocol.md` describes them.
//!
//! Both sides write one JSON object in a line, and after some of the lines a number of bytes that
//! the line states.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::generators::{GeneratorError, Parameters, SampleRequest, Variation};
use crate::images::{DecodeOptions, FileFormat, ImageBatch, decode_as, png, shown_text};

/// Version of the protocol.
pub(super) const VERSION: u32 = 1;
/// Longest parameters of an image in bytes, as JSON without spaces.
pub(super) const MAX_PARAMETERS: usize = 1 << 16;
/// Longest message of an error that is kept, in characters.
const MAX_MESSAGE: usize = 1000;
/// Characters of an invalid line that a message shows.
const MAX_EXCERPT: usize = 120;
/// Seeds are below this number, so that every language reads them exactly from JSON.
const SEEDS: u64 = 1 << 53;

/// Height and width of all images, with the bounds that follow from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Frame {
    /// Returns the bytes of one image, `[height, width, 3]`.
    pub(super) const fn bytes(self) -> usize {
        3 * self.height * self.width
    }

    /// Returns the largest accepted PNG file in bytes: 16-bit RGBA without compression, and 64 KiB
    /// of metadata.
    pub(super) const fn max_png(self) -> usize {
        8 * self.height * self.width + self.height + (1 << 16)
    }

    /// Returns the longest accepted line in bytes: a PNG in base64, parameters with every character
    /// escaped, and 4 KiB.
    pub(super) const fn max_line(self) -> usize {
        4 * self.max_png().div_ceil(3) + 6 * MAX_PARAMETERS + (1 << 12)
    }
}

/// Form in which a program takes the pixels of a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PixelForm {
    /// The key `png`: a PNG file in base64.
    Png,
    /// The key `raw`, and that number of bytes after the line.
    Raw,
}

/// A line of a program.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    /// The answer to the first message.
    Hello {
        version: u32,
        #[serde(default)]
        pixels: Option<PixelForm>,
        #[serde(default)]
        degrees: Option<[f64; 2]>,
    },
    /// An image.
    Image {
        id: u64,
        #[serde(default)]
        parameters: Value,
        #[serde(default)]
        png: Option<String>,
        #[serde(default)]
        raw: Option<u64>,
    },
    /// The program cannot answer.
    Error { id: u64, message: String },
}

/// The properties of a program, by its answer to the first message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hello {
    /// Form of a parent's pixels; `None`: it takes none.
    pub(super) pixels: Option<PixelForm>,
    /// Smallest and largest variation degree; `None`: every number.
    pub(super) degrees: Option<[f64; 2]>,
}

/// A message of a program, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    /// The answer to the first message.
    Hello(Hello),
    /// An image.
    Image { id: u64, answer: Answer },
    /// The program cannot answer the request.
    Error { id: u64, message: String },
}

/// A generated image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// `uint8 [height, width, 3]`.
    pub(super) pixels: Vec<u8>,
    /// The parameters that it was made from.
    pub(super) parameters: Parameters,
}

/// A line of a program, before the bytes that follow it.
pub(super) enum Parsed {
    /// A complete message.
    Complete(Message),
    /// An image whose pixels are the next [`Frame::bytes`] bytes.
    Raw { id: u64, parameters: Parameters },
}

/// Reads one line without its line feed.
///
/// # Errors
/// Returns a description of the violation and of what was expected.
pub(super) fn parse(line: &[u8], frame: Frame) -> Result<Parsed, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        format!(
            "wrote {:?} to standard output ({error}): expected one message of the protocol in one \
             line of JSON; text for people belongs on standard error",
            excerpt(line)
        )
    })?;
    match line {
        Line::Hello {
            version,
            pixels,
            degrees,
        } => {
            if version != VERSION {
                return Err(format!(
                    "speaks version {version} of the protocol: expected {VERSION}"
                ));
            }
            if let Some([low, high]) = degrees
                && low > high
            {
                return Err(format!(
                    "states the degrees {low} to {high}: expected the smallest and the largest"
                ));
            }
            let hello = Hello { pixels, degrees };
            Ok(Parsed::Complete(Message::Hello(hello)))
        }
        Line::Error { id, message } => {
            let message = shown_text(&message.chars().take(MAX_MESSAGE).collect::<String>());
            Ok(Parsed::Complete(Message::Error { id, message }))
        }
        Line::Image {
            id,
            parameters,
            png,
            raw,
        } => {
            let parameters = checked_parameters(id, &parameters)?;
            match (png, raw) {
                (Some(text), None) => {
                    let pixels = decode(&text, frame)
                        .map_err(|problem| format!("answered request {id} with {problem}"))?;
                    let answer = Answer { pixels, parameters };
                    Ok(Parsed::Complete(Message::Image { id, answer }))
                }
                (None, Some(bytes)) if usize::try_from(bytes) == Ok(frame.bytes()) => {
                    Ok(Parsed::Raw { id, parameters })
                }
                (None, Some(bytes)) => Err(format!(
                    "answered request {id} with {bytes} raw bytes: expected {}, 3 x {} x {}",
                    frame.bytes(),
                    frame.height,
                    frame.width
                )),
                _ => Err(format!(
                    "answered request {id} without an image or with two: expected either the key \
                     `png` or the key `raw`"
                )),
            }
        }
    }
}

fn checked_parameters(id: u64, value: &Value) -> Result<Parameters, String> {
    if value.is_null() {
        return Ok(Parameters::NONE);
    }
    let parameters = Parameters::of(value).map_err(|error| error.to_string())?;
    let length = parameters.text().len();
    if length > MAX_PARAMETERS {
        return Err(format!(
            "answered request {id} with parameters of {length} bytes: expected at most \
             {MAX_PARAMETERS}"
        ));
    }
    Ok(parameters)
}

/// Decodes a PNG file in base64 to `uint8 [height, width, 3]`.
fn decode(text: &str, frame: Frame) -> Result<Vec<u8>, String> {
    let file = STANDARD
        .decode(text)
        .map_err(|error| format!("a PNG that is not base64 ({error})"))?;
    if file.len() > frame.max_png() {
        return Err(format!(
            "a PNG of {} bytes: expected at most {}",
            file.len(),
            frame.max_png()
        ));
    }
    // A PNG begins with its size, which is checked before memory is allocated for the pixels.
    let side = |at: usize| {
        let bytes = file.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let (Some(FileFormat::Png), Some(width), Some(height)) =
        (FileFormat::of(&file), side(16), side(20))
    else {
        return Err("bytes that are not a PNG file".to_owned());
    };
    if (height, width) != (frame.height, frame.width) {
        return Err(format!(
            "an image of {height}x{width}: expected {}x{} (height and width of model.image_size)",
            frame.height, frame.width
        ));
    }
    let decoded = decode_as(FileFormat::Png, &file, &DecodeOptions::default())
        .map_err(|error| error.to_string())?;
    match decoded.image.pixels.len() == frame.bytes() {
        true => Ok(decoded.image.pixels),
        false => Err("a PNG of another size than its header has".to_owned()),
    }
}

/// Returns the beginning of a line for a message.
fn excerpt(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.get(..4 * MAX_EXCERPT).unwrap_or(line));
    let mut excerpt: String = text.chars().take(MAX_EXCERPT).collect();
    if excerpt.len() < line.len() && text.chars().count() > MAX_EXCERPT {
        excerpt.push('…');
    }
    excerpt
}

/// Writes the first message, with its line feed.
pub(super) fn hello(frame: Frame, pixels: bool) -> Vec<u8> {
    let message = serde_json::json!({
        "type": "hello",
        "version": VERSION,
        "image_size": [frame.height, frame.width],
        "pixels": pixels,
        "max_line": frame.max_line(),
    });
    format!("{message}\n").into_bytes()
}

/// A request for an image. It has public values only: a [`SampleRequest`] and what a generator made
/// before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The condition and the key of the random numbers.
    pub(super) sample: SampleRequest,
    /// The parent; `None` for a random image.
    pub(super) parent: Option<Parent<'a>>,
}

/// An image to vary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parent<'a> {
    /// `uint8 [height, width, 3]`.
    pub(super) pixels: &'a [u8],
    /// The parameters that it was made from.
    pub(super) parameters: &'a Parameters,
    /// The degree, and the population of the variation.
    pub(super) variation: Variation,
}

impl Request<'_> {
    /// Returns "a random image" or "a variation of degree 0.5", for messages.
    pub(super) fn describe(&self) -> String {
        match self.parent {
            None => "a random image".to_owned(),
            Some(parent) => format!("a variation of degree {}", parent.variation.degree),
        }
    }
}

#[derive(Serialize)]
struct RequestLine<'a> {
    r#type: &'static str,
    id: u64,
    seed: u64,
    class: &'a Value,
    remaining: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    degree: Option<f64>,
    population: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    png: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<usize>,
}

/// Writes a request with its line feed, and with the bytes that follow. `class`: the value of its
/// class; `remaining`: the number of further requests that are sent without waiting for an answer.
pub(super) fn request(
    request: &Request<'_>,
    id: u64,
    class: &Value,
    remaining: usize,
    frame: Frame,
    pixels: Option<PixelForm>,
) -> Result<Vec<u8>, GeneratorError> {
    let mut line = RequestLine {
        r#type: "random",
        id,
        seed: request.sample.rng_key.rng().below(SEEDS),
        class,
        remaining,
        degree: None,
        population: 0,
        parameters: None,
        png: None,
        raw: None,
    };
    let mut follow: &[u8] = &[];
    if let Some(parent) = request.parent {
        line.r#type = "vary";
        line.degree = Some(parent.variation.degree);
        line.population = parent.variation.population;
        let text = match parent.parameters.is_none() {
            true => "null",
            false => parent.parameters.text(),
        };
        line.parameters = Some(serde_json::from_str(text).map_err(|error| {
            GeneratorError::Input(format!("parameters {text:?} of a parent: {error}"))
        })?);
        match pixels {
            None => {}
            Some(PixelForm::Raw) => {
                line.raw = Some(parent.pixels.len());
                follow = parent.pixels;
            }
            Some(PixelForm::Png) => {
                let image = ImageBatch::new(parent.pixels.to_vec(), 1, frame.height, frame.width)?;
                let file = png(&image).map_err(|error| GeneratorError::Input(error.to_string()))?;
                line.png = Some(STANDARD.encode(file));
            }
        }
    }
    let mut bytes = serde_json::to_vec(&line).map_err(|error| {
        GeneratorError::Input(format!("a request cannot be written as JSON: {error}"))
    })?;
    bytes.push(b'\n');
    bytes.extend_from_slice(follow);
    Ok(bytes)
}
