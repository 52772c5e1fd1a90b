//! Strict parsing of `multipart/form-data`.

/// A part of a form.
pub(super) struct Part {
    pub name: String,
    pub filename: Option<String>,
    pub content_type: Option<String>,
    pub body: Vec<u8>,
}

/// Parses a form and rejects any deviation from RFC 7578.
pub(super) fn read_form(content_type: &str, body: &[u8]) -> Result<Vec<Part>, String> {
    let boundary = content_type
        .strip_prefix("multipart/form-data; boundary=")
        .ok_or(format!("content type {content_type}"))?;
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_'".contains(c);
    if boundary.is_empty() || boundary.len() > 70 || !boundary.chars().all(valid) {
        return Err(format!("boundary {boundary}"));
    }
    let first = format!("--{boundary}\r\n");
    let between = format!("\r\n--{boundary}");
    let mut rest = body
        .strip_prefix(first.as_bytes())
        .ok_or("a form that does not begin with its boundary")?;
    let mut parts = Vec::new();
    loop {
        let find = |text: &[u8], pattern: &[u8]| {
            text.windows(pattern.len())
                .position(|window| window == pattern)
        };
        let end = find(rest, between.as_bytes()).ok_or("a part without an end")?;
        parts.push(read_part(&rest[..end])?);
        rest = &rest[end + between.len()..];
        if rest == b"--\r\n" {
            return Ok(parts);
        }
        rest = rest
            .strip_prefix(b"\r\n")
            .ok_or("unexpected bytes after a boundary")?;
    }
}

fn read_part(part: &[u8]) -> Result<Part, String> {
    let end = part
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or("a part without a body")?;
    let head = std::str::from_utf8(&part[..end]).map_err(|_| "a part's head is no UTF-8")?;
    let mut found = Part {
        name: String::new(),
        filename: None,
        content_type: None,
        body: part[end + 4..].to_vec(),
    };
    for line in head.split("\r\n") {
        let (name, value) = line
            .split_once(": ")
            .ok_or(format!("part header {line:?}"))?;
        match name.to_ascii_lowercase().as_str() {
            "content-disposition" => {
                let mut words = value.split("; ");
                if words.next() != Some("form-data") {
                    return Err(format!("disposition {value}"));
                }
                for word in words {
                    let (key, value) = word.split_once('=').ok_or(format!("{word:?}"))?;
                    let value = value
                        .strip_prefix('"')
                        .and_then(|value| value.strip_suffix('"'))
                        .ok_or(format!("{word:?} is not quoted"))?;
                    match key {
                        "name" => found.name = value.to_owned(),
                        "filename" => found.filename = Some(value.to_owned()),
                        _ => return Err(format!("{word:?}")),
                    }
                }
            }
            "content-type" => found.content_type = Some(value.to_owned()),
            _ => return Err(format!("part header {name}")),
        }
    }
    Ok(found)
}
