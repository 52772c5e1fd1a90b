//! Strict parsing of HTTP requests, and responses.

use std::io::Read;

/// A parsed HTTP request.
pub(super) struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the value of the header `name`, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads one request and rejects any deviation from HTTP/1.1; `Ok(None)` if the client closed the
/// connection before it sent a byte.
pub(super) fn read_request(stream: &mut impl Read) -> Result<Option<Request>, String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) | Err(_) if head.is_empty() => return Ok(None),
            Ok(1) => head.push(byte[0]),
            other => return Err(format!("the head broke off: {other:?}")),
        }
        if head.len() > 1 << 16 {
            return Err("a head of more than 64 kB".to_owned());
        }
    }
    let head = String::from_utf8(head).map_err(|_| "a head that is no UTF-8".to_owned())?;
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, "HTTP/1.1"] = words[..] else {
        return Err(format!("request line {words:?}"));
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(format!("header {line:?}"))?;
        let token = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(token) || line.contains(['\r', '\n']) {
            return Err(format!("header {line:?}"));
        }
        let name = name.to_ascii_lowercase();
        if headers.iter().any(|(n, _)| *n == name) {
            return Err(format!("header {name} twice"));
        }
        headers.push((name, value.trim().to_owned()));
    }
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers,
        body: Vec::new(),
    };
    if request.header("transfer-encoding").is_some() {
        return Err("a body in chunks".to_owned());
    }
    if let Some(length) = request.header("content-length") {
        let length: usize = length.parse().map_err(|_| format!("length {length}"))?;
        request.body = vec![0; length];
        stream
            .read_exact(&mut request.body)
            .map_err(|error| format!("a body shorter than its {length} bytes: {error}"))?;
    } else if request.method == "POST" {
        return Err("a POST without Content-Length".to_owned());
    }
    Ok(Some(request))
}

/// Returns a response with these headers.
pub(super) fn response(status: u16, headers: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Returns an error response of the protocol.
pub(super) fn error(
    status: u16,
    headers: &[(&'static str, String)],
    message: &str,
    code: &str,
) -> Vec<u8> {
    let body = serde_json::json!({
        "error": { "message": message, "type": "some_error", "param": null, "code": code }
    });
    let mut all = vec![("Content-Type", "application/json".to_owned())];
    all.extend_from_slice(headers);
    response(status, &all, body.to_string().as_bytes())
}
