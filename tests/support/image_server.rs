//! A server of the OpenAI images protocol that rejects any deviation from the vendor's reference,
//! and that fails as a script says.
//!
//! Every generated image has a number. Its first three pixels contain this number and those of its
//! parent and its prompt, so that a test can follow each image from the request to the population.

mod form;
mod http;
mod picture;
mod proxy;
mod rules;

pub use picture::{numbers, picture, prompt_code};
pub use proxy::Proxy;
pub use rules::Rules;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::Engine as _;
use dpsyn::internals::images::{ImageBatch, png};

use http::{Request, error, read_request, response};
use rules::ImageRequest;

/// The response to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The correct response.
    Good,
    /// An error: status, headers, the body's `message` and `code`.
    Error(u16, Vec<(&'static str, String)>, &'static str, &'static str),
    /// The connection is closed without a response.
    Drop,
    /// The connection is closed in the middle of the response.
    DropMidBody,
    /// Only this number of images.
    Partial(usize),
    /// Images of a wrong size.
    WrongSize,
    /// Images without their second half.
    Corrupt,
    /// Addresses with the response 403.
    Expired,
    /// Addresses that redirect to themselves.
    RedirectLoop,
    /// Addresses that redirect once, to another host name of this machine.
    RedirectOnce,
    /// Addresses with this number of responses 500 before the correct one.
    FlakyFile(usize),
    /// A response far larger than any correct one.
    Huge,
    /// A success that is not JSON.
    Garbage,
    /// A redirect of the request to this address.
    Moved(String),
    /// No response until [`ImageServer::release`]; then the connection is closed.
    Hold,
}

/// A valid request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Index of the request, from 0.
    pub number: usize,
    pub endpoint: &'static str,
    pub n: usize,
    /// The number of the image to vary; 0 for random images.
    pub parent: u32,
    /// Number of earlier requests for this parent.
    pub attempt: usize,
    pub prompt: String,
}

/// An image that was sent completely.
#[derive(Debug, Clone)]
pub struct Made {
    pub number: u32,
    pub parent: u32,
    pub prompt: u32,
    /// True if the image was correct.
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
    /// Maximum number of concurrent requests.
    busiest: usize,
    busy: usize,
}

struct File {
    bytes: Vec<u8>,
    reply: Reply,
    downloads: usize,
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

/// A running server; dropping it stops the server.
pub struct ImageServer {
    state: Arc<State>,
}

impl ImageServer {
    /// Starts a server. `script` chooses the response to each request.
    pub fn start(rules: Rules, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(rules, script, None)
    }

    /// Starts a server with TLS that responds correctly.
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

    /// Returns the value for `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.state.address)
    }

    /// Returns the port of the server.
    pub fn port(&self) -> u16 {
        self.state.address.port()
    }

    /// Returns all valid requests in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.log.lock().unwrap().seen.clone()
    }

    /// Returns all images that were sent completely.
    pub fn made(&self) -> Vec<Made> {
        self.state.log.lock().unwrap().made.clone()
    }

    /// Returns the maximum number of concurrent requests.
    pub fn busiest(&self) -> usize {
        self.state.log.lock().unwrap().busiest
    }

    /// Fails if any request violated the protocol.
    pub fn assert_no_problems(&self) {
        let log = self.state.log.lock().unwrap();
        assert!(log.problems.is_empty(), "{:#?}", log.problems);
    }

    /// Waits until a request is held ([`Reply::Hold`]).
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
            "no request was held, {} were received",
            log.seen.len()
        );
    }

    /// Closes the connection of a held request.
    pub fn release(&self) {
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
        // The listener only checks `stop` when a connection arrives.
        let _ = TcpStream::connect(self.state.address);
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
        // Before the response, after which the client may send its next request.
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
            return Err("a wrong or unexpected access key".to_owned());
        }
        if request.header("host").is_none() {
            return Err("no host".to_owned());
        }
        let (endpoint, image_request) = match request.path.as_str() {
            "/v1/images/generations" => ("generations", self.rules.generation(request)?),
            "/v1/images/variations" => ("variations", self.rules.upload(request, false)?),
            "/v1/images/edits" => ("edits", self.rules.upload(request, true)?),
            _ => return Err("no such endpoint".to_owned()),
        };
        let parent = image_request
            .upload
            .as_ref()
            .map_or(0, |pixels| numbers(pixels)[0]);
        let seen = {
            let mut log = self.log.lock().unwrap();
            let before = log.seen.iter().filter(|seen| seen.parent == parent);
            let seen = Seen {
                number: log.seen.len(),
                endpoint,
                n: image_request.n,
                parent,
                attempt: before.count(),
                prompt: image_request.prompt.clone(),
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
            _ => {}
        }
        Ok(Some(self.images(&image_request, parent, &reply)))
    }

    /// Returns a success with images, or the damaged one of `reply`.
    fn images(&self, request: &ImageRequest, parent: u32, reply: &Reply) -> Vec<u8> {
        let mut log = self.log.lock().unwrap();
        let n = match reply {
            Reply::Partial(n) => *n,
            _ => request.n,
        };
        let mut data = Vec::new();
        for _ in 0..n {
            log.next += 1;
            let number = log.next;
            let side = match reply {
                Reply::WrongSize => request.side + 1,
                _ => request.side,
            };
            let prompt = prompt_code(&request.prompt);
            let pixels = picture(side, number, parent, prompt);
            let mut bytes = png(&ImageBatch::new(pixels, 1, side, side).unwrap()).unwrap();
            if *reply == Reply::Corrupt {
                bytes.truncate(bytes.len() / 2);
            }
            let unusable = [
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
                    usable: !unusable.contains(reply),
                });
            }
            data.push(if self.rules.format == Some("url") {
                let path = format!("/files/{number}.png?signature=abc");
                log.files.insert(
                    path.clone(),
                    File {
                        bytes,
                        reply: reply.clone(),
                        downloads: 0,
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
            return Err("the access key was sent to the address of an image".to_owned());
        }
        let mut log = self.log.lock().unwrap();
        let moved = request.path.strip_prefix("/moved");
        let path = moved.unwrap_or(&request.path);
        let file = log.files.get_mut(path).ok_or("no such file")?;
        file.downloads += 1;
        let to = |prefix: &str| {
            let port = self.address.port();
            let headers = [("Location", format!("http://localhost:{port}{prefix}{path}"))];
            response(302, &headers, b"")
        };
        Ok(Some(match &file.reply {
            Reply::Expired => response(403, &[], b"<Error>expired</Error>"),
            Reply::RedirectLoop => to(""),
            Reply::RedirectOnce if moved.is_none() => to("/moved"),
            Reply::FlakyFile(times) if file.downloads <= *times => response(500, &[], b""),
            _ => response(
                200,
                &[("Content-Type", "image/png".to_owned())],
                &file.bytes,
            ),
        }))
    }
}
