//! A server that speaks the OpenAI images protocol, as strictly as the vendor's reference describes it, and
//! fails as it is told to.
//!
//! Every image that it makes has a number, and holds it, its parent's and its prompt's in its first three
//! pixels: a test can follow each image from purchase to population.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::Engine as _;
use dpsyn::internals::images::{ImageBatch, decode, png};

/// What the server insists on.
#[derive(Clone)]
pub struct Rules {
    /// The key; `None`: there must be none.
    pub key: Option<&'static str>,
    pub model: &'static str,
    /// Columns and rows that it can make.
    pub sides: Vec<usize>,
    /// The `response_format` that must be asked for; `None`: it must not be spoken of.
    pub format: Option<&'static str>,
    /// The vendor's newer models: `quality` and `output_format` are known, variations are not.
    pub newer: bool,
}

impl Rules {
    /// A self-hosted server of small images.
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

/// How a request is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// As it should be.
    Good,
    /// An error: status, headers, the body's `message` and `code`.
    Error(u16, Vec<(&'static str, String)>, &'static str, &'static str),
    /// The connection closes without a word.
    Drop,
    /// The connection closes in the middle of the answer.
    DropMidBody,
    /// So many images, not more.
    Partial(usize),
    /// Images of another size.
    WrongSize,
    /// Images whose second half is missing.
    Corrupt,
    /// Addresses that answer 403.
    Expired,
    /// Addresses that redirect to themselves.
    RedirectLoop,
    /// Addresses that redirect once, to another name of this machine.
    RedirectOnce,
    /// Addresses that answer 500 so often, then well.
    FlakyFile(usize),
    /// The answer comes after so long.
    Slow(Duration),
    /// An answer far larger than it can be.
    Huge,
    /// 200, but no JSON.
    Garbage,
    /// The request itself is redirected there.
    Moved(String),
    /// Nothing, until the server is told to let go; then the connection closes.
    Hold,
}

/// A request that was understood.
#[derive(Debug, Clone)]
pub struct Seen {
    /// From 0.
    pub number: usize,
    pub endpoint: &'static str,
    pub n: usize,
    /// The number of the image to vary; 0 for random images.
    pub parent: u32,
    /// How many requests for this parent came before.
    pub attempt: usize,
    pub prompt: String,
}

/// An image that went out whole, and whether it could be used.
#[derive(Debug, Clone)]
pub struct Made {
    pub number: u32,
    pub parent: u32,
    pub prompt: u32,
    pub usable: bool,
}

#[derive(Default)]
struct Log {
    seen: Vec<Seen>,
    made: Vec<Made>,
    problems: Vec<String>,
    files: HashMap<String, File>,
    next: u32,
    holding: usize,
    release: usize,
    /// Largest number of requests that were under way at once.
    busiest: usize,
    busy: usize,
}

struct File {
    bytes: Vec<u8>,
    reply: Reply,
    asked: usize,
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

struct State {
    rules: Rules,
    script: Box<Script>,
    log: Mutex<Log>,
    changed: Condvar,
    address: SocketAddr,
    scheme: &'static str,
    stop: AtomicBool,
}

/// A running server; it ends with its owner.
pub struct ImageServer {
    state: Arc<State>,
}

impl ImageServer {
    pub fn start(rules: Rules, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(rules, script, None)
    }

    /// With TLS.
    pub fn start_tls(rules: Rules, tls: rustls::ServerConfig) -> Self {
        Self::listen(rules, |_| Reply::Good, Some(Arc::new(tls)))
    }

    fn listen(
        rules: Rules,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            rules,
            script: Box::new(script),
            log: Mutex::new(Log::default()),
            changed: Condvar::new(),
            address: listener.local_addr().unwrap(),
            scheme: if tls.is_some() { "https" } else { "http" },
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || match tls {
                    None => state.serve(stream),
                    Some(tls) => {
                        let connection = rustls::ServerConnection::new(tls).unwrap();
                        let mut stream = rustls::StreamOwned::new(connection, stream);
                        state.serve(&mut stream);
                        stream.conn.send_close_notify();
                        let _ = stream.flush();
                    }
                });
            }
        });
        Self { state }
    }

    /// What `base_url` is to be.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.state.address)
    }

    pub fn port(&self) -> u16 {
        self.state.address.port()
    }

    /// Every request that was understood, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.log.lock().unwrap().seen.clone()
    }

    /// Every image that went out whole.
    pub fn made(&self) -> Vec<Made> {
        self.state.log.lock().unwrap().made.clone()
    }

    /// Most requests that were under way at once.
    pub fn busiest(&self) -> usize {
        self.state.log.lock().unwrap().busiest
    }

    /// Fails if any request broke the protocol.
    pub fn assert_no_problems(&self) {
        let log = self.state.log.lock().unwrap();
        assert!(log.problems.is_empty(), "{:#?}", log.problems);
    }

    /// Waits until a request is held.
    pub fn wait_for_hold(&self) {
        let log = self.state.log.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (log, timeout) = self
            .state
            .changed
            .wait_timeout_while(log, limit, |log| log.holding == 0)
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "nothing was held, {} seen",
            log.seen.len()
        );
    }

    /// Lets a held request go, unanswered, and waits until it is gone.
    pub fn let_go(&self) {
        let mut log = self.state.log.lock().unwrap();
        log.release += 1;
        self.state.changed.notify_all();
        let limit = Duration::from_secs(60);
        let wait = self
            .state
            .changed
            .wait_timeout_while(log, limit, |log| log.holding > 0);
        assert!(!wait.unwrap().1.timed_out());
    }
}

impl Drop for ImageServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.state.address);
    }
}

/// The number of a prompt in images.
pub fn prompt_code(prompt: &str) -> u32 {
    let mix = |code: u32, byte: u8| code.wrapping_mul(31).wrapping_add(u32::from(byte));
    prompt.bytes().fold(7, mix) & 0xff_ffff
}

/// `[side, side, 3]` with three numbers in its first pixels and a texture of its own.
pub fn picture(side: usize, number: u32, parent: u32, prompt: u32) -> Vec<u8> {
    let mut pixels: Vec<u8> = (0..side * side * 3)
        .map(|at| (number.wrapping_mul(2_654_435_761) >> (at % 3 * 8)) as u8 ^ (at / 3) as u8)
        .collect();
    for (at, value) in [number, parent, prompt].into_iter().enumerate() {
        pixels[at * 3..at * 3 + 3].copy_from_slice(&value.to_be_bytes()[1..]);
    }
    pixels
}

/// The three numbers of an image: its own, its parent's, its prompt's.
pub fn numbers(pixels: &[u8]) -> [u32; 3] {
    [0, 1, 2].map(|at| {
        let bytes = &pixels[at * 3..at * 3 + 3];
        u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])
    })
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads one request, strictly; `Ok(None)` where the client left before it said anything.
fn read_request(stream: &mut impl Read) -> Result<Option<Request>, String> {
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

/// A part of a form.
struct Part {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
    body: Vec<u8>,
}

/// Takes a form apart by RFC 7578, strictly.
fn read_form(content_type: &str, body: &[u8]) -> Result<Vec<Part>, String> {
    let boundary = content_type
        .strip_prefix("multipart/form-data; boundary=")
        .ok_or(format!("content type {content_type}"))?;
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_'".contains(c);
    if boundary.is_empty() || boundary.len() > 70 || !boundary.chars().all(fine) {
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
            .ok_or("rubbish behind a boundary")?;
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

/// What a valid request asks for.
struct Asked {
    n: usize,
    side: usize,
    prompt: String,
    upload: Option<Vec<u8>>,
}

impl Rules {
    /// `n`, `size`, `model`, `response_format`, … as the reference describes them.
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

    fn generation(&self, request: &Request) -> Result<Asked, String> {
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
        Ok(Asked {
            n,
            side,
            prompt,
            upload: None,
        })
    }

    fn upload(&self, request: &Request, edit: bool) -> Result<Asked, String> {
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
        let image = decode(&upload).map_err(|error| error.to_string())?;
        if image.width != image.height {
            return Err(format!("an image of {}x{}", image.width, image.height));
        }
        Ok(Asked {
            n,
            side,
            prompt,
            upload: Some(image.pixels),
        })
    }
}

impl State {
    fn serve(&self, mut stream: impl Read + Write) {
        let request = match read_request(&mut stream) {
            Ok(None) => return,
            Ok(Some(request)) => request,
            Err(problem) => {
                self.problem(problem);
                return;
            }
        };
        self.log_busy(1);
        let answer = match request.method.as_str() {
            "GET" => self.file(&request),
            "POST" => self.call(&request),
            other => Err(format!("method {other}")),
        };
        let answer = answer.unwrap_or_else(|problem| {
            self.problem(format!("{} {}: {problem}", request.method, request.path));
            Some(error(400, &[], &problem, "invalid_request_error"))
        });
        // Before the client can know that it may send the next one.
        self.log_busy(-1);
        if let Some(bytes) = answer {
            let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
        }
    }

    fn problem(&self, text: String) {
        self.log.lock().unwrap().problems.push(text);
    }

    fn log_busy(&self, change: isize) {
        let mut log = self.log.lock().unwrap();
        log.busy = log.busy.checked_add_signed(change).unwrap();
        log.busiest = log.busiest.max(log.busy);
    }

    fn call(&self, request: &Request) -> Result<Option<Vec<u8>>, String> {
        let expected = self.rules.key.map(|key| format!("Bearer {key}"));
        if request.header("authorization") != expected.as_deref() {
            return Err("the wrong key, or one where none belongs".to_owned());
        }
        if request.header("host").is_none() {
            return Err("no host".to_owned());
        }
        let (endpoint, asked) = match request.path.as_str() {
            "/v1/images/generations" => ("generations", self.rules.generation(request)?),
            "/v1/images/variations" => ("variations", self.rules.upload(request, false)?),
            "/v1/images/edits" => ("edits", self.rules.upload(request, true)?),
            _ => return Err("no such endpoint".to_owned()),
        };
        let parent = asked.upload.as_ref().map_or(0, |pixels| numbers(pixels)[0]);
        let seen = {
            let mut log = self.log.lock().unwrap();
            let before = log.seen.iter().filter(|seen| seen.parent == parent);
            let seen = Seen {
                number: log.seen.len(),
                endpoint,
                n: asked.n,
                parent,
                attempt: before.count(),
                prompt: asked.prompt.clone(),
            };
            log.seen.push(seen.clone());
            seen
        };
        let reply = (self.script)(&seen);
        match &reply {
            Reply::Error(status, headers, message, code) => {
                return Ok(Some(error(*status, headers, message, code)));
            }
            Reply::Drop => return Ok(None),
            Reply::Moved(to) => {
                let headers = [("Location", to.clone())];
                return Ok(Some(response(307, &headers, b"")));
            }
            Reply::Garbage => return Ok(Some(response(200, &[], b"<html>hello</html>"))),
            Reply::Huge => {
                return Ok(Some(response(200, &[], &vec![b' '; 64 << 20])));
            }
            Reply::Hold => {
                let mut log = self.log.lock().unwrap();
                log.holding += 1;
                self.changed.notify_all();
                while log.release == 0 && !self.stop.load(Ordering::SeqCst) {
                    let nap = Duration::from_millis(50);
                    log = self.changed.wait_timeout(log, nap).unwrap().0;
                }
                log.release = log.release.saturating_sub(1);
                log.holding -= 1;
                self.changed.notify_all();
                return Ok(None);
            }
            Reply::Slow(time) => std::thread::sleep(*time),
            _ => {}
        }
        Ok(Some(self.images(&asked, parent, &reply)))
    }

    /// A 200 with images, or the damaged one that `reply` wants.
    fn images(&self, asked: &Asked, parent: u32, reply: &Reply) -> Vec<u8> {
        let mut log = self.log.lock().unwrap();
        let n = match reply {
            Reply::Partial(n) => *n,
            _ => asked.n,
        };
        let mut data = Vec::new();
        for _ in 0..n {
            log.next += 1;
            let number = log.next;
            let side = match reply {
                Reply::WrongSize => asked.side + 1,
                _ => asked.side,
            };
            let prompt = prompt_code(&asked.prompt);
            let pixels = picture(side, number, parent, prompt);
            let mut bytes = png(&ImageBatch::new(pixels, 1, side, side).unwrap()).unwrap();
            if *reply == Reply::Corrupt {
                bytes.truncate(bytes.len() / 2);
            }
            let spoilt = [
                Reply::WrongSize,
                Reply::Corrupt,
                Reply::Expired,
                Reply::RedirectLoop,
            ];
            if *reply != Reply::DropMidBody {
                log.made.push(Made {
                    number,
                    parent,
                    prompt,
                    usable: !spoilt.contains(reply),
                });
            }
            data.push(if self.rules.format == Some("url") {
                let path = format!("/files/{number}.png?signature=abc");
                log.files.insert(
                    path.clone(),
                    File {
                        bytes,
                        reply: reply.clone(),
                        asked: 0,
                    },
                );
                let (scheme, address) = (self.scheme, self.address);
                serde_json::json!({ "url": format!("{scheme}://{address}{path}") })
            } else {
                let text = base64::engine::general_purpose::STANDARD.encode(bytes);
                serde_json::json!({ "b64_json": text })
            });
        }
        let body = serde_json::json!({ "created": 1_700_000_000, "data": data });
        let mut bytes = response(200, &[], body.to_string().as_bytes());
        if *reply == Reply::DropMidBody {
            bytes.truncate(bytes.len() * 2 / 3);
        }
        bytes
    }

    fn file(&self, request: &Request) -> Result<Option<Vec<u8>>, String> {
        if request.header("authorization").is_some() {
            return Err("the key went to an image's address".to_owned());
        }
        let mut log = self.log.lock().unwrap();
        let moved = request.path.strip_prefix("/moved");
        let path = moved.unwrap_or(&request.path);
        let file = log.files.get_mut(path).ok_or("no such file")?;
        file.asked += 1;
        let to = |prefix: &str| {
            let port = self.address.port();
            let headers = [("Location", format!("http://localhost:{port}{prefix}{path}"))];
            response(302, &headers, b"")
        };
        Ok(Some(match &file.reply {
            Reply::Expired => response(403, &[], b"<Error>expired</Error>"),
            Reply::RedirectLoop => to(""),
            Reply::RedirectOnce if moved.is_none() => to("/moved"),
            Reply::FlakyFile(times) if file.asked <= *times => response(500, &[], b""),
            _ => response(
                200,
                &[("Content-Type", "image/png".to_owned())],
                &file.bytes,
            ),
        }))
    }
}

fn response(status: u16, headers: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn error(status: u16, headers: &[(&'static str, String)], message: &str, code: &str) -> Vec<u8> {
    let body = serde_json::json!({
        "error": { "message": message, "type": "some_error", "param": null, "code": code }
    });
    let mut all = vec![("Content-Type", "application/json".to_owned())];
    all.extend_from_slice(headers);
    response(status, &all, body.to_string().as_bytes())
}

/// A proxy that carries every `CONNECT` to `target`, whatever host is asked for, and remembers the hosts.
pub struct Proxy {
    pub address: SocketAddr,
    hosts: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hosts = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&hosts);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), hosts) = (stream, Arc::clone(&shared)) else {
                    continue;
                };
                std::thread::spawn(move || {
                    let Ok(Some(request)) = read_request(&mut stream) else {
                        return;
                    };
                    assert_eq!(request.method, "CONNECT");
                    hosts.lock().unwrap().push(request.path);
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    let mut server = TcpStream::connect(("127.0.0.1", target)).unwrap();
                    let (mut from, mut to) =
                        (stream.try_clone().unwrap(), server.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                    let _ = std::io::copy(&mut server, &mut stream);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                });
            }
        });
        Self { address, hosts }
    }

    pub fn hosts(&self) -> Vec<String> {
        self.hosts.lock().unwrap().clone()
    }
}
