//! Parsing of responses: images, or an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// One image of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The content of the file.
    Bytes(Vec<u8>),
    /// The address of the file.
    Url(String),
}

#[derive(Deserialize)]
struct Response {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    b64_json: Option<String>,
    url: Option<String>,
}

/// Returns the images of a response in their order; an unusable entry is an `Err` in its place.
///
/// # Errors
/// A description of the problem if the body as a whole cannot be parsed.
pub(super) fn images(body: &[u8]) -> Result<Vec<Result<Item, String>>, String> {
    let response: Response = serde_json::from_slice(body).map_err(|error| {
        format!(
            "the response is not the JSON of the protocol ({})",
            place(&error)
        )
    })?;
    Ok(response.data.into_iter().map(item).collect())
}

fn item(entry: Entry) -> Result<Item, String> {
    match (entry.b64_json, entry.url) {
        (Some(text), _) => STANDARD
            .decode(text.as_bytes())
            .map(Item::Bytes)
            .map_err(|_| "an image is not valid base64".to_owned()),
        (None, Some(url)) => Ok(Item::Url(url)),
        (None, None) => Err("an entry has neither `b64_json` nor `url`".to_owned()),
    }
}

/// Returns the position of a JSON error. The parser's own message may repeat the content.
fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

/// The message and the code of an error response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorInfo {
    /// The message, or the body if it is not the JSON of the protocol.
    pub(super) message: String,
    /// `error.code`, or `error.type` if there is no code.
    pub(super) code: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    message: Option<String>,
    // A string in responses of the vendor, a number in those of some other servers.
    code: Option<serde_json::Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Parses the body of an error response; any body gives a result.
pub(super) fn error_detail(body: &[u8]) -> ErrorInfo {
    let Ok(ErrorBody { error }) = serde_json::from_slice(body) else {
        let text = String::from_utf8_lossy(body);
        let message = if text.trim().is_empty() {
            "no message".to_owned()
        } else {
            text.into_owned()
        };
        return ErrorInfo {
            message,
            code: String::new(),
        };
    };
    let code = match error.code {
        Some(serde_json::Value::String(code)) => code,
        _ => error.kind.unwrap_or_default(),
    };
    let message = error.message.unwrap_or_else(|| "no message".to_owned());
    ErrorInfo { message, code }
}

/// Parses `body` as an answer and as an error, for the fuzz targets.
pub(crate) fn parse_any(body: &[u8]) {
    let _ = images(body);
    let _ = error_detail(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_images_are_parsed() {
        let body = br#"{"created":1,"data":[{"b64_json":"AQI="},{"url":"https://h/a"},{"b64_json":"!"},{}]}"#;
        let found = images(body).unwrap();
        assert_eq!(found[0], Ok(Item::Bytes(vec![1, 2])));
        assert_eq!(found[1], Ok(Item::Url("https://h/a".to_owned())));
        assert!(found[2].is_err() && found[3].is_err());
        assert_eq!(images(br#"{"data":[]}"#).unwrap().len(), 0);
        let error = images(br#"{"data":"secret"}"#).unwrap_err();
        assert!(
            error.contains("line 1") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn every_error_body_gives_a_message() {
        let body = br#"{"error":{"message":"slow down","type":"requests","code":"rate_limit"}}"#;
        let expected = |message: &str, code: &str| ErrorInfo {
            message: message.to_owned(),
            code: code.to_owned(),
        };
        assert_eq!(error_detail(body), expected("slow down", "rate_limit"));
        let body = br#"{"error":{"message":null,"type":"t","code":5}}"#;
        assert_eq!(error_detail(body), expected("no message", "t"));
        assert_eq!(error_detail(b"<html>502"), expected("<html>502", ""));
        assert_eq!(error_detail(b" \n"), expected("no message", ""));
    }
}
