//! Bodies of type `multipart/form-data` (RFC 7578), with a boundary that the content does not
//! contain.

use std::fmt::Write as _;

/// A form under construction.
pub(super) struct Form {
    parts: Vec<Part>,
}

struct Part {
    head: String,
    body: Vec<u8>,
}

impl Form {
    /// Creates an empty form.
    pub(super) fn new() -> Self {
        Self { parts: Vec::new() }
    }

    /// Adds a text field.
    pub(super) fn text(mut self, name: &str, value: &str) -> Self {
        self.parts.push(Part {
            head: format!("Content-Disposition: form-data; name=\"{name}\"\r\n"),
            body: value.as_bytes().to_vec(),
        });
        self
    }

    /// Adds a PNG file.
    pub(super) fn png(mut self, name: &str, bytes: &[u8]) -> Self {
        self.parts.push(Part {
            head: format!(
                "Content-Disposition: form-data; name=\"{name}\"; filename=\"image.png\"\r\n\
                 Content-Type: image/png\r\n"
            ),
            body: bytes.to_vec(),
        });
        self
    }

    /// Returns the `Content-Type` and the body.
    pub(super) fn finish(self) -> (String, Vec<u8>) {
        let boundary = self.boundary();
        let mut body = Vec::new();
        for part in &self.parts {
            body.extend_from_slice(format!("--{boundary}\r\n{}\r\n", part.head).as_bytes());
            body.extend_from_slice(&part.body);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        (format!("multipart/form-data; boundary={boundary}"), body)
    }

    /// Returns the first numbered boundary that no part contains. Unlike a random one, it gives
    /// equal forms equal bytes.
    fn boundary(&self) -> String {
        let mut number = 0_u64;
        loop {
            let mut boundary = String::from("dpsyn-form-boundary-");
            // Writing to a String cannot fail.
            let _ = write!(boundary, "{number:016x}");
            let contains = |part: &Part| {
                part.body
                    .windows(boundary.len())
                    .any(|window| window == boundary.as_bytes())
            };
            if !self.parts.iter().any(contains) {
                return boundary;
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_the_format_of_the_standard() {
        let (kind, body) = Form::new().png("image", b"\x89PNG").text("n", "2").finish();
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let expected = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"image.png\"\r\n\
             Content-Type: image/png\r\n\r\nPNG!\r\n--{boundary}\r\n\
             Content-Disposition: form-data; name=\"n\"\r\n\r\n2\r\n--{boundary}--\r\n"
        );
        let expected = expected.replace("PNG!", "\u{0}PNG").into_bytes();
        let expected: Vec<u8> = expected
            .into_iter()
            .map(|byte| if byte == 0 { 0x89 } else { byte })
            .collect();
        assert_eq!(body, expected);
    }

    #[test]
    fn no_part_contains_the_boundary() {
        let (first, _) = Form::new().text("a", "x").finish();
        let boundary = first.split('=').nth(1).unwrap().to_owned();
        let (second, _) = Form::new().text("a", &format!("--{boundary}--")).finish();
        assert_ne!(first, second);
    }
}
