//! What a server answers: images, or an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// One image of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The file itself.
    Bytes(Vec<u8>),
    /// Where to fetch it.
    Url(String),
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    b64_json: Option<String>,
    url: Option<String>,
}

/// The images of an answer in its order; what is wrong with one stands in its place.
///
/// # Errors
/// What is wrong with the whole answer.
pub(super) fn images(body: &[u8]) -> Result<Vec<Result<Item, String>>, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| format!("the answer is not the protocol's JSON ({})", place(&error)))?;
    Ok(answer.data.into_iter().map(item).collect())
}

fn item(entry: Entry) -> Result<Item, String> {
    match (entry.b64_json, entry.url) {
        (Some(text), _) => STANDARD
            .decode(text.as_bytes())
            .map(Item::Bytes)
            .map_err(|_| "an image is no base64".to_owned()),
        (None, Some(url)) => Ok(Item::Url(url)),
        (None, None) => Err("an entry has neither `b64_json` nor `url`".to_owned()),
    }
}

/// Where JSON broke. The parser's own words may repeat the text.
fn place(error: &serde_json::Error) -> String {
    format!("line {}, column {}", error.line(), error.column())
}

/// An error body's message and code.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The message, or the start of a body that is not the protocol's.
    pub(super) message: String,
    /// `error.code`, or else `error.type`.
    pub(super) code: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    message: Option<String>,
    // A string with the vendor, a number with some servers.
    code: Option<serde_json::Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Reads an error body, whatever it is.
pub(super) fn complaint(body: &[u8]) -> Complaint {
    let Ok(ErrorBody { error }) = serde_json::from_slice(body) else {
        let text = String::from_utf8_lossy(body);
        let message = if text.trim().is_empty() {
            "no message".to_owned()
        } else {
            text.into_owned()
        };
        return Complaint {
            message,
            code: String::new(),
        };
    };
    let code = match error.code {
        Some(serde_json::Value::String(code)) => code,
        _ => error.kind.unwrap_or_default(),
    };
    let message = error.message.unwrap_or_else(|| "no message".to_owned());
    Complaint { message, code }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn images_come_in_both_forms() {
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
    fn every_error_body_says_something() {
        let body = br#"{"error":{"message":"slow down","type":"requests","code":"rate_limit"}}"#;
        let expected = |message: &str, code: &str| Complaint {
            message: message.to_owned(),
            code: code.to_owned(),
        };
        assert_eq!(complaint(body), expected("slow down", "rate_limit"));
        let body = br#"{"error":{"message":null,"type":"t","code":5}}"#;
        assert_eq!(complaint(body), expected("no message", "t"));
        assert_eq!(complaint(b"<html>502"), expected("<html>502", ""));
        assert_eq!(complaint(b" \n"), expected("no message", ""));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = images(&body);
            let _ = complaint(&body);
        }

        #[test]
        fn no_near_json_panics(body in "[\\[\\]{}\"a-e:,_64jsondturl0-9 ]{0,80}") {
            let _ = images(body.as_bytes());
            let _ = complaint(body.as_bytes());
        }
    }
}
