//! From images that are wanted to images on disk: requests, retries, and what is kept when.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::answer::{Item, images};
use super::client::{CallError, Client};
use super::config::{Config, Variation};
use super::error::ServiceError;
use super::journal::{Journal, Outcome};
use super::multipart::Form;
use super::picture::Sides;
use super::spool::{Pending, Spool, Ticket};
use crate::net::{Backoff, jitter};

/// Answers in a row without one usable image, each of which may have to be paid, after which a run stops.
const MAX_UNUSABLE: u32 = 3;
/// How long a wait goes on before it looks whether the others go on.
const NAP: Duration = Duration::from_millis(50);

/// Images that one and the same request can ask for.
pub(super) struct Order {
    /// The prompt, where one is sent.
    pub(super) prompt: String,
    /// The PNG to vary; `None` asks for random images.
    pub(super) upload: Option<Vec<u8>>,
    /// Whom the images are for, one each.
    pub(super) tickets: Vec<Ticket>,
}

/// Everything that buying needs.
pub(super) struct Desk<'a> {
    pub(super) config: &'a Config,
    pub(super) client: &'a Client,
    pub(super) spool: &'a Spool,
    pub(super) journal: &'a Mutex<Journal>,
    pub(super) sides: Sides,
}

impl Desk<'_> {
    /// Carries out all orders, several at once; afterwards every ticket has its image on disk.
    ///
    /// # Errors
    /// The first error of any order; no request is begun after it, those under way are awaited and kept.
    pub(super) fn buy(&self, orders: &[Order]) -> Result<(), ServiceError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first_error = Mutex::new(None);
        let work = || {
            while let Some(order) = orders.get(next.fetch_add(1, Ordering::SeqCst)) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                if let Err(error) = self.fulfil(order, &stop) {
                    stop.store(true, Ordering::SeqCst);
                    let mut first = lock(&first_error);
                    if first.is_none() {
                        *first = Some(error);
                    }
                    return;
                }
            }
        };
        let threads = self.config.concurrency.min(orders.len());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let error = lock(&first_error).take();
        error.map_or(Ok(()), Err)
    }

    /// Asks until every ticket has its image.
    fn fulfil(&self, order: &Order, stop: &AtomicBool) -> Result<(), ServiceError> {
        let (mut failures, mut unusable) = (0, 0);
        loop {
            let missing = |ticket: &&Ticket| !self.spool.has(ticket);
            let missing: Vec<Ticket> = order.tickets.iter().filter(missing).cloned().collect();
            if missing.is_empty() {
                return Ok(());
            }
            if stop.load(Ordering::SeqCst) {
                return Err(ServiceError::Stopped);
            }
            let most = self.config.max_images_per_call.max(1);
            let asked = missing.get(..most).unwrap_or(&missing);
            let (path, what) = endpoint(order, self.config.variation);
            let request = lock(self.journal).begin(path, asked.len() as u64)?;
            match self.send(order, path, asked.len()) {
                Ok(body) => {
                    let pending = self.spool.keep(asked, body)?;
                    match self.unpack(&pending, Some(request), stop)? {
                        Ok(()) => (failures, unusable) = (0, 0),
                        Err(message) => {
                            unusable = self.useless(unusable, message)?;
                            self.pause(unusable, None, stop);
                        }
                    }
                }
                Err(CallError::Unusable(message)) => {
                    lock(self.journal).end(request, Outcome::Unknown)?;
                    unusable = self.useless(unusable, message)?;
                    self.pause(unusable, None, stop);
                }
                Err(CallError::Refused { status, message }) => {
                    let outcome = match status {
                        400..500 => Outcome::Refused(status),
                        _ => Outcome::Unknown,
                    };
                    lock(self.journal).end(request, outcome)?;
                    return Err(ServiceError::Refused {
                        host: self.client.host().to_owned(),
                        what,
                        status,
                        message,
                    });
                }
                Err(CallError::Transient {
                    message,
                    wait,
                    refused,
                }) => {
                    let outcome = refused.map_or(Outcome::Unknown, Outcome::Refused);
                    lock(self.journal).end(request, outcome)?;
                    failures += 1;
                    self.retry(failures, what, message, wait, stop)?;
                }
            }
        }
    }

    /// Counts an answer without a usable image.
    fn useless(&self, before: u32, message: String) -> Result<u32, ServiceError> {
        let now = before + 1;
        if now < MAX_UNUSABLE {
            return Ok(now);
        }
        Err(ServiceError::Unusable {
            host: self.client.host().to_owned(),
            attempts: now,
            message,
        })
    }

    /// Waits before another try, or gives up.
    fn retry(
        &self,
        failures: u32,
        what: &'static str,
        message: String,
        wait: Option<Duration>,
        stop: &AtomicBool,
    ) -> Result<(), ServiceError> {
        let host = self.client.host().to_owned();
        if failures >= self.config.max_attempts {
            return Err(ServiceError::GaveUp {
                host,
                what,
                attempts: failures,
                message,
            });
        }
        if let Some(wait) = wait
            && wait > Config::seconds(self.config.max_retry_after)
        {
            return Err(ServiceError::Wait {
                host,
                seconds: wait.as_secs_f64(),
                message,
            });
        }
        self.pause(failures, wait, stop);
        Ok(())
    }

    /// Waits as long as the server asks and at least the jittered backoff, or until the run stops.
    fn pause(&self, failures: u32, asked: Option<Duration>, stop: &AtomicBool) {
        let backoff = Backoff {
            first: Config::seconds(self.config.backoff),
            most: Config::seconds(self.config.max_backoff),
        };
        let mut left = backoff
            .wait(failures, jitter())
            .max(asked.unwrap_or_default());
        while !left.is_zero() && !stop.load(Ordering::SeqCst) {
            let nap = left.min(NAP);
            std::thread::sleep(nap);
            left -= nap;
        }
    }

    fn send(&self, order: &Order, path: &str, n: usize) -> Result<Vec<u8>, CallError> {
        let config = self.config;
        let limit = (1 << 20) + n as u64 * (self.sides.max_file() * 4 / 3 + 4096);
        let format = config.spoken_format().map(|format| format.name());
        let n = n.to_string();
        let Some(png) = &order.upload else {
            let mut body = serde_json::Map::new();
            let mut say = |key: &str, value: serde_json::Value| body.insert(key.to_owned(), value);
            say("model", config.model.as_str().into());
            say("prompt", order.prompt.as_str().into());
            say("n", n.parse::<u64>().unwrap_or(1).into());
            say("size", config.size.as_str().into());
            for (key, value) in self.options(format) {
                say(key, value.into());
            }
            let body = serde_json::Value::Object(body).to_string();
            let json = "application/json";
            return self.client.post(path, json, body.as_bytes(), limit);
        };
        let mut form = Form::new().text("model", &config.model);
        form = match config.variation {
            Variation::Variations => form.png("image", png),
            Variation::Edits => form.text("prompt", &order.prompt).png("image", png),
        };
        form = form.text("n", &n).text("size", &config.size);
        for (key, value) in self.options(format) {
            // Variations know no quality.
            if config.variation == Variation::Edits || key != "quality" {
                form = form.text(key, value);
            }
        }
        let (content_type, body) = form.finish();
        self.client.post(path, &content_type, &body, limit)
    }

    /// What is only said where the model knows it.
    fn options<'a>(
        &'a self,
        format: Option<&'a str>,
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        [
            ("response_format", format),
            ("output_format", self.config.output_format()),
            ("quality", self.config.quality.as_deref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }

    /// Takes the images out of an answer. The inner result says whether there was a usable one, or what was
    /// wrong.
    fn unpack(
        &self,
        pending: &Pending,
        request: Option<u64>,
        stop: &AtomicBool,
    ) -> Result<Result<(), String>, ServiceError> {
        let items = images(&pending.body);
        if let Some(request) = request {
            let outcome = match &items {
                Ok(items) => Outcome::Images(items.len() as u64),
                Err(_) => Outcome::Unknown,
            };
            lock(self.journal).end(request, outcome)?;
        }
        let mut good = 0;
        let mut problem = "an answer without images".to_owned();
        match items {
            Ok(items) => {
                for (ticket, item) in pending.tickets.iter().zip(items) {
                    // An answer that a killed process had begun to unpack.
                    if self.spool.has(ticket) {
                        good += 1;
                        continue;
                    }
                    let file = match item {
                        Ok(Item::Bytes(bytes)) => Ok(bytes),
                        Ok(Item::Url(url)) => self.fetch(&url, stop)?,
                        Err(problem) => Err(problem),
                    };
                    match file.and_then(|file| self.sides.open(&file)) {
                        Ok(image) => {
                            self.spool.write(ticket, &image)?;
                            good += 1;
                        }
                        Err(wrong) => problem = wrong,
                    }
                }
            }
            Err(wrong) => problem = wrong,
        }
        self.spool.done(pending)?;
        Ok(if good > 0 { Ok(()) } else { Err(problem) })
    }

    /// Fetches an image. The inner error says why it can never be had.
    fn fetch(&self, url: &str, stop: &AtomicBool) -> Result<Result<Vec<u8>, String>, ServiceError> {
        let mut failures = 0;
        loop {
            match self.client.get(url, self.sides.max_file()) {
                Ok(bytes) => return Ok(Ok(bytes)),
                Err(CallError::Unusable(message)) => {
                    return Ok(Err(format!("an image's address gave {message}")));
                }
                Err(CallError::Refused { status, message }) => {
                    return Ok(Err(format!("an image's address gave {status}, {message}")));
                }
                Err(CallError::Transient { message, wait, .. }) => {
                    // The answer stays on disk: a resumed run tries again.
                    failures += 1;
                    self.retry(failures, "an image's address", message, wait, stop)?;
                    if stop.load(Ordering::SeqCst) {
                        return Err(ServiceError::Stopped);
                    }
                }
            }
        }
    }

    /// Takes out of a killed process' answers what is in them.
    ///
    /// # Errors
    /// [`ServiceError::Io`], or [`ServiceError::GaveUp`] when an image's address fails.
    pub(super) fn recover(&self) -> Result<(), ServiceError> {
        let stop = AtomicBool::new(false);
        for path in self.spool.pending()? {
            let pending = self.spool.reopen(&path)?;
            // What is unusable is asked for again when its turn comes.
            let _usable = self.unpack(&pending, None, &stop)?;
        }
        Ok(())
    }
}

/// The endpoint below the base address, and its name in messages.
fn endpoint(order: &Order, variation: Variation) -> (&'static str, &'static str) {
    match (&order.upload, variation) {
        (None, _) => ("images/generations", "a random image"),
        (Some(_), Variation::Variations) => ("images/variations", "a variation"),
        (Some(_), Variation::Edits) => ("images/edits", "an edit"),
    }
}

/// Locks; a panic elsewhere has already ended the run.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
