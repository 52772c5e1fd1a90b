//! File server with range requests, scripted faults and the endpoints of the Hugging Face hub.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// A file that is served.
#[derive(Clone)]
pub struct Served {
    pub bytes: Vec<u8>,
    pub etag: Option<String>,
    /// Hub only: redirects to another address, as the hub does for large files.
    pub large: bool,
    /// Hub only: server that has the bytes of a large file; `None` is this server.
    pub elsewhere: Option<String>,
    /// Hub only: commit in the response; `None` is the requested commit.
    pub commit: Option<String>,
}

impl Served {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let etag = Some(format!("\"{}\"", &sha256(&bytes)[..12]));
        Self {
            bytes,
            etag,
            large: false,
            elsewhere: None,
            commit: None,
        }
    }
}

/// Scripted response.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The correct response.
    Good,
    /// An error: status, headers, body.
    Error(u16, Vec<(&'static str, String)>, &'static str),
    /// Closes the connection without a response.
    Drop,
    /// Closes the connection after this many bytes of the body.
    DropAfter(usize),
    /// The whole file, even if a range was requested.
    IgnoreRange,
    /// The requested range, with an unknown total.
    UnknownTotal,
    /// A range that starts this many bytes after the requested one.
    WrongStart(usize),
    /// A response without a length that ends after this many bytes.
    EndAfter(usize),
    /// The whole file in chunked encoding.
    Chunked,
    /// This many bytes in chunked encoding, without the final chunk.
    ChunkedUntil(usize),
    /// This many bytes of the body, then silence until the server stops.
    HoldAfter(usize),
    /// A web page.
    Page,
    /// A redirect to another path.
    Moved(String),
}

/// A received request.
// Only the hub's tests read all fields.
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// From 0.
    pub number: usize,
    pub path: String,
    /// First byte of the requested range.
    pub from: Option<usize>,
    pub if_range: Option<String>,
    pub token: Option<String>,
    /// Bytes of the file that were sent.
    pub sent: usize,
}

type Script = dyn Fn(&ReceivedRequest) -> Reply + Send + Sync;

struct State {
    script: Box<Script>,
    files: Mutex<HashMap<String, Served>>,
    log: Mutex<Vec<ReceivedRequest>>,
    changed: Condvar,
    address: SocketAddr,
    stop: AtomicBool,
}

/// A running server; dropping it stops the server.
pub struct FileServer {
    state: Arc<State>,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl FileServer {
    pub fn start(script: impl Fn(&ReceivedRequest) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            script: Box::new(script),
            files: Mutex::default(),
            log: Mutex::default(),
            changed: Condvar::new(),
            address: listener.local_addr().unwrap(),
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (state, Ok(stream)) = (Arc::clone(&shared), stream) else {
                    continue;
                };
                // A client that disconnects early does not fail the test.
                std::thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Self { state }
    }

    /// Starts a server without faults.
    pub fn good() -> Self {
        Self::start(|_| Reply::Good)
    }

    pub fn serve(&self, path: &str, file: Served) {
        let mut files = self.state.files.lock().unwrap();
        files.insert(path.to_owned(), file);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.state.address)
    }

    /// Returns all requests in order.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.log.lock().unwrap().clone()
    }

    /// Waits until `bytes` bytes were sent in response to request `number`.
    pub fn wait_for(&self, number: usize, bytes: usize) {
        let log = self.state.log.lock().unwrap();
        let unsent = |log: &mut Vec<ReceivedRequest>| {
            log.get(number).is_none_or(|request| request.sent < bytes)
        };
        let limit = Duration::from_secs(60);
        let wait = self.state.changed.wait_timeout_while(log, limit, unsent);
        assert!(
            !wait.unwrap().1.timed_out(),
            "request {number} did not come"
        );
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.state.changed.notify_all();
        // Wakes the listener.
        let _ = TcpStream::connect(self.state.address);
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let Some(Ok(request_line)) = lines.next() else {
            return Ok(());
        };
        let mut headers = HashMap::new();
        for line in lines.by_ref() {
            let line = line?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let path = request_line
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        let range = headers.get("range").map(|range| {
            let bytes = range.strip_prefix("bytes=").unwrap();
            let (from, to) = bytes.split_once('-').unwrap();
            (from.parse().unwrap(), to.parse::<usize>().ok())
        });
        let request = {
            let mut log = self.log.lock().unwrap();
            let request = ReceivedRequest {
                number: log.len(),
                path: path.clone(),
                from: range.map(|(from, _)| from),
                if_range: headers.get("if-range").cloned(),
                token: headers.get("authorization").cloned(),
                sent: 0,
            };
            log.push(request.clone());
            self.changed.notify_all();
            request
        };
        let reply = (self.script)(&request);
        let commit = path.split('/').nth(4).unwrap_or_default().to_owned();
        let hub = path.contains("/resolve/");
        let key = path.strip_prefix("/cdn").unwrap_or(&path);
        let file = self.files.lock().unwrap().get(key).cloned();
        let mut head = String::new();
        let file = match (&reply, file) {
            (Reply::Drop, _) => return Ok(()),
            (Reply::Error(status, headers, body), _) => {
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                head += &format!("content-length: {}\r\n", body.len());
                return answer(&mut stream, *status, &head, body.as_bytes());
            }
            (Reply::Moved(to), _) => {
                head += &format!("location: {to}\r\ncontent-length: 0\r\n");
                return answer(&mut stream, 302, &head, b"");
            }
            (Reply::Page, _) => {
                let page = b"<html>log in</html>";
                head += &format!(
                    "content-type: text/html\r\ncontent-length: {}\r\n",
                    page.len()
                );
                return answer(&mut stream, 200, &head, page);
            }
            (_, None) => return answer(&mut stream, 404, "content-length: 0\r\n", b""),
            (_, Some(file)) => file,
        };
        if hub && !path.starts_with("/cdn") {
            let commit = file.commit.as_ref().unwrap_or(&commit);
            head += &format!("x-repo-commit: {commit}\r\n");
            if file.large {
                let etag = file.etag.clone().unwrap_or_default();
                let here = format!("http://{}", self.address);
                let place = file.elsewhere.unwrap_or(here);
                head += &format!(
                    "x-linked-etag: {etag}\r\nx-linked-size: {}\r\nlocation: {place}/cdn{path}\r\ncontent-length: 0\r\n",
                    file.bytes.len()
                );
                return answer(&mut stream, 302, &head, b"");
            }
        }
        if let Some(etag) = &file.etag {
            head += &format!("etag: {etag}\r\n");
        }
        let total = file.bytes.len();
        let current = request.if_range.is_none() || request.if_range == file.etag;
        let range = range.filter(|_| current && reply != Reply::IgnoreRange);
        let (status, from, to) = match (range, &reply) {
            (Some((from, _)), _) if from >= total => {
                head += &format!("content-range: bytes */{total}\r\ncontent-length: 0\r\n");
                return answer(&mut stream, 416, &head, b"");
            }
            (Some((from, to)), reply) => {
                let skip = match reply {
                    Reply::WrongStart(skip) => *skip,
                    _ => 0,
                };
                let (from, to) = (from + skip, to.map_or(total, |to| (to + 1).min(total)));
                let total = match reply {
                    Reply::UnknownTotal => "*".to_owned(),
                    _ => total.to_string(),
                };
                head += &format!("content-range: bytes {from}-{}/{total}\r\n", to - 1);
                (206, from, to)
            }
            (None, _) => (200, 0, total),
        };
        let body = &file.bytes[from..to];
        match reply {
            Reply::EndAfter(_) => {}
            Reply::Chunked | Reply::ChunkedUntil(_) => {
                head += "transfer-encoding: chunked\r\n";
            }
            _ => head += &format!("content-length: {}\r\n", body.len()),
        }
        answer(&mut stream, status, &head, b"")?;
        let most = match reply {
            Reply::DropAfter(most)
            | Reply::EndAfter(most)
            | Reply::HoldAfter(most)
            | Reply::ChunkedUntil(most) => most,
            _ => body.len(),
        };
        let sent = &body[..most.min(body.len())];
        if matches!(reply, Reply::Chunked | Reply::ChunkedUntil(_)) {
            for chunk in sent.chunks(1000) {
                write!(stream, "{:x}\r\n", chunk.len())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            if reply == Reply::Chunked {
                stream.write_all(b"0\r\n\r\n")?;
            }
        } else {
            stream.write_all(sent)?;
        }
        stream.flush()?;
        let mut log = self.log.lock().unwrap();
        log[request.number].sent = sent.len();
        self.changed.notify_all();
        if matches!(reply, Reply::HoldAfter(_)) {
            let going = |_: &mut Vec<ReceivedRequest>| !self.stop.load(Ordering::SeqCst);
            drop(self.changed.wait_while(log, going));
        }
        Ok(())
    }
}

fn answer(stream: &mut TcpStream, status: u16, head: &str, body: &[u8]) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\n{head}connection: close\r\n\r\n"
    )?;
    stream.write_all(body)?;
    stream.flush()
}
