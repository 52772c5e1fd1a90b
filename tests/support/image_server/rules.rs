//! Checks of requests against the reference of the OpenAI images protocol.

use std::collections::HashMap;

use dpsyn::internals::images::{DecodeOptions, decode};

use super::form::read_form;
use super::http::Request;

/// The requests that the server accepts.
#[derive(Clone)]
pub struct Rules {
    /// The access key; `None` if requests must not contain one.
    pub key: Option<&'static str>,
    /// The name of the model.
    pub model: &'static str,
    /// Sides of the images that the server can generate.
    pub sides: Vec<usize>,
    /// The required `response_format`; `None` if requests must not contain one.
    pub format: Option<&'static str>,
    /// Behaves like the newer models of the vendor: `quality` and `output_format` are supported,
    /// variations are not.
    pub newer: bool,
}

impl Rules {
    /// Returns the rules of a self-hosted server of small images.
    pub fn small(side: usize) -> Self {
        Self {
            key: None,
            model: "house-model",
            sides: vec![side],
            format: Some("b64_json"),
            newer: false,
        }
    }
}

/// The content of a valid request.
pub(super) struct ImageRequest {
    pub n: usize,
    pub side: usize,
    pub prompt: String,
    /// The pixels of the image to vary.
    pub upload: Option<Vec<u8>>,
}

impl Rules {
    /// Checks the parameters against the reference of the protocol; returns `n` and the side.
    fn check(
        &self,
        fields: &HashMap<String, String>,
        known: &[&str],
    ) -> Result<(usize, usize), String> {
        for name in fields.keys() {
            let newer = ["output_format", "quality"].contains(&name.as_str());
            if !known.contains(&name.as_str()) || newer && !self.newer {
                return Err(format!("unknown parameter {name}"));
            }
        }
        let field = |name: &str| fields.get(name).map(String::as_str);
        if field("model") != Some(self.model) {
            return Err(format!("model {:?}", field("model")));
        }
        let n = field("n").unwrap_or("1");
        let n: usize = n.parse().map_err(|_| format!("n {n}"))?;
        if !(1..=10).contains(&n) {
            return Err(format!("n {n}"));
        }
        let size = field("size").unwrap_or_default();
        let side = self
            .sides
            .iter()
            .find(|side| size == format!("{side}x{side}"));
        let side = *side.ok_or(format!("size {size}"))?;
        if field("response_format") != self.format {
            return Err(format!("response_format {:?}", field("response_format")));
        }
        if field("output_format").is_some_and(|format| format != "png") {
            return Err("output_format".to_owned());
        }
        let qualities = ["low", "medium", "high", "auto"];
        if field("quality").is_some_and(|quality| !qualities.contains(&quality)) {
            return Err("quality".to_owned());
        }
        Ok((n, side))
    }

    pub(super) fn generation(&self, request: &Request) -> Result<ImageRequest, String> {
        if request.header("content-type") != Some("application/json") {
            return Err("content type".to_owned());
        }
        let body: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&request.body).map_err(|error| error.to_string())?;
        let mut fields = HashMap::new();
        for (name, value) in body {
            let text = match (name.as_str(), &value) {
                ("n", serde_json::Value::Number(n)) if n.is_u64() => n.to_string(),
                ("n", _) => return Err(format!("n {value}")),
                (_, serde_json::Value::String(text)) => text.clone(),
                _ => return Err(format!("{name} {value}")),
            };
            fields.insert(name, text);
        }
        let known = [
            "model",
            "n",
            "output_format",
            "prompt",
            "quality",
            "response_format",
            "size",
            "user",
        ];
        let (n, side) = self.check(&fields, &known)?;
        let prompt = fields.remove("prompt").unwrap_or_default();
        if prompt.trim().is_empty() || prompt.chars().count() > 1000 {
            return Err(format!("prompt {prompt:?}"));
        }
        Ok(ImageRequest {
            n,
            side,
            prompt,
            upload: None,
        })
    }

    pub(super) fn upload(&self, request: &Request, edit: bool) -> Result<ImageRequest, String> {
        if !edit && self.newer {
            return Err("this model has no variations".to_owned());
        }
        let content_type = request.header("content-type").unwrap_or_default();
        let (mut fields, mut upload) = (HashMap::new(), None);
        for part in read_form(content_type, &request.body)? {
            let is_image = part.name == "image" || edit && part.name == "image[]";
            if is_image {
                if part.content_type.as_deref() != Some("image/png") || part.filename.is_none() {
                    return Err("the image is not sent as a PNG file".to_owned());
                }
                if upload.replace(part.body).is_some() {
                    return Err("image twice".to_owned());
                }
                continue;
            }
            if part.filename.is_some() {
                return Err(format!("{} as a file", part.name));
            }
            let text = String::from_utf8(part.body).map_err(|_| part.name.clone())?;
            if fields.insert(part.name.clone(), text).is_some() {
                return Err(format!("{} twice", part.name));
            }
        }
        let known: &[&str] = if edit {
            &[
                "model",
                "n",
                "output_format",
                "prompt",
                "quality",
                "response_format",
                "size",
                "user",
            ]
        } else {
            &["model", "n", "response_format", "size", "user"]
        };
        let (n, side) = self.check(&fields, known)?;
        let prompt = fields.remove("prompt").unwrap_or_default();
        if edit && prompt.trim().is_empty() {
            return Err("an edit without a prompt".to_owned());
        }
        let upload = upload.ok_or("no image")?;
        if upload.len() >= 4_000_000 || !upload.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Err("the image is no PNG of less than 4 MB".to_owned());
        }
        let image = decode(&upload, &DecodeOptions::default())
            .map_err(|error| error.to_string())?
            .image;
        if image.width != image.height {
            return Err(format!("an image of {}x{}", image.width, image.height));
        }
        Ok(ImageRequest {
            n,
            side,
            prompt,
            upload: Some(image.pixels),
        })
    }
}
