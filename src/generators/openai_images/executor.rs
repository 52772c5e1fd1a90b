//! Execution of requests: concurrency, retries, and the order in which results reach the disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::answer::{Item, images};
use super::batching::BatchedRequest;
use super::client::{CallError, Client};
use super::config::{Config, Endpoint};
use super::error::ServiceError;
use super::journal::{Journal, Outcome};
use super::multipart::Form;
use super::picture::Sizes;
use super::response_cache::{CacheKey, PendingResponse, ResponseCache};
use crate::net::{Backoff, jitter};

/// Consecutive responses without a usable image after which a run stops: each may have been
/// charged.
const MAX_UNUSABLE: u32 = 3;
/// Interval at which a back-off checks whether the run has been stopped.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The part of a response that the run can use.
enum Delivery<T> {
    /// The expected content.
    Usable(T),
    /// Nothing, for this reason. The response may have been charged.
    Unusable(String),
}

/// Executes requests with the state of a run.
pub(super) struct RequestExecutor<'a> {
    pub(super) config: &'a Config,
    pub(super) client: &'a Client,
    pub(super) cache: &'a ResponseCache,
    pub(super) journal: &'a Mutex<Journal>,
    pub(super) sizes: Sizes,
}

impl RequestExecutor<'_> {
    /// Executes all requests, up to `concurrency` of them at once. Afterwards the cache holds an
    /// image for every key.
    ///
    /// # Errors
    /// The first error of any request. No request is sent after it; the responses to those already
    /// sent are awaited and stored.
    pub(super) fn execute_all(&self, requests: &[BatchedRequest]) -> Result<(), ServiceError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first_error = Mutex::new(None);
        let work = || {
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::SeqCst)) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                if let Err(error) = self.execute(request, &stop) {
                    stop.store(true, Ordering::SeqCst);
                    let mut first = lock(&first_error);
                    if first.is_none() {
                        *first = Some(error);
                    }
                    return;
                }
            }
        };
        let threads = self.config.concurrency.min(requests.len());
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let error = lock(&first_error).take();
        error.map_or(Ok(()), Err)
    }

    /// Sends `request` until the cache holds an image for each of its keys.
    fn execute(&self, request: &BatchedRequest, stop: &AtomicBool) -> Result<(), ServiceError> {
        let (mut failures, mut unusable) = (0, 0);
        loop {
            let missing = |key: &&CacheKey| !self.cache.contains(key);
            let missing: Vec<CacheKey> = request.keys.iter().filter(missing).cloned().collect();
            if missing.is_empty() {
                return Ok(());
            }
            if stop.load(Ordering::SeqCst) {
                return Err(ServiceError::Stopped);
            }
            let limit = self.config.max_images_per_call.max(1);
            let keys = missing.get(..limit).unwrap_or(&missing);
            let (path, what) = endpoint(request, self.config.variation);
            let number = lock(self.journal).begin(path, keys.len() as u64)?;
            match self.send(request, path, keys.len()) {
                Ok(body) => {
                    let pending = self.cache.store_response(keys, body)?;
                    match self.unpack(&pending, Some(number), stop)? {
                        Delivery::Usable(()) => (failures, unusable) = (0, 0),
                        Delivery::Unusable(message) => {
                            unusable = self.count_unusable(unusable, message)?;
                            self.pause(unusable, None, stop);
                        }
                    }
                }
                Err(CallError::Unusable(message)) => {
                    lock(self.journal).end(number, Outcome::Unknown)?;
                    unusable = self.count_unusable(unusable, message)?;
                    self.pause(unusable, None, stop);
                }
                Err(CallError::Refused { status, message }) => {
                    let outcome = match status {
                        400..500 => Outcome::Refused(status),
                        _ => Outcome::Unknown,
                    };
                    lock(self.journal).end(number, outcome)?;
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
                    lock(self.journal).end(number, outcome)?;
                    failures += 1;
                    self.retry(failures, what, message, wait, stop)?;
                }
            }
        }
    }

    /// Returns the number of consecutive unusable responses, this one included.
    fn count_unusable(&self, before: u32, message: String) -> Result<u32, ServiceError> {
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

    /// Waits before the next attempt, or fails if `failures` or `wait` exceeds its limit.
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

    /// Sleeps for the jittered back-off, or for `requested` (the server's `Retry-After`) if that is
    /// longer. Returns early if the run stops.
    fn pause(&self, failures: u32, requested: Option<Duration>, stop: &AtomicBool) {
        let backoff = Backoff {
            initial: Config::seconds(self.config.backoff),
            max: Config::seconds(self.config.max_backoff),
        };
        let mut left = backoff
            .delay(failures, jitter())
            .max(requested.unwrap_or_default());
        while !left.is_zero() && !stop.load(Ordering::SeqCst) {
            let nap = left.min(STOP_CHECK_INTERVAL);
            std::thread::sleep(nap);
            left -= nap;
        }
    }

    /// Sends `request` for `n` images and returns the body of the response.
    fn send(&self, request: &BatchedRequest, path: &str, n: usize) -> Result<Vec<u8>, CallError> {
        let config = self.config;
        // Base64 is 4/3 of the file; 4 KiB of JSON around each image, 1 MiB around all.
        let limit = (1 << 20) + n as u64 * (self.sizes.max_file() * 4 / 3 + 4096);
        let format = config.sent_format().map(|format| format.name());
        let n = n.to_string();
        let Some(png) = &request.upload else {
            let mut body = serde_json::Map::new();
            let mut set = |key: &str, value: serde_json::Value| body.insert(key.to_owned(), value);
            set("model", config.model.as_str().into());
            set("prompt", request.prompt.as_str().into());
            set("n", n.parse::<u64>().unwrap_or(1).into());
            set("size", config.size.as_str().into());
            for (key, value) in self.options(format) {
                set(key, value.into());
            }
            let body = serde_json::Value::Object(body).to_string();
            let json = "application/json";
            return self.client.post(path, json, body.as_bytes(), limit);
        };
        let mut form = Form::new().text("model", &config.model);
        form = match config.variation {
            Endpoint::Variations => form.png("image", png),
            Endpoint::Edits => form.text("prompt", &request.prompt).png("image", png),
        };
        form = form.text("n", &n).text("size", &config.size);
        for (key, value) in self.options(format) {
            // `/images/variations` has no parameter `quality`.
            if config.variation == Endpoint::Edits || key != "quality" {
                form = form.text(key, value);
            }
        }
        let (content_type, body) = form.finish();
        self.client.post(path, &content_type, &body, limit)
    }

    /// Returns the parameters that are only sent to models that know them.
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

    /// Moves the images of a stored response into the cache and deletes the response. It is usable
    /// if at least one image is. `number`: the request in the journal, if its outcome is not there
    /// yet.
    fn unpack(
        &self,
        pending: &PendingResponse,
        number: Option<u64>,
        stop: &AtomicBool,
    ) -> Result<Delivery<()>, ServiceError> {
        let items = images(&pending.body);
        if let Some(number) = number {
            let outcome = match &items {
                Ok(items) => Outcome::Images(items.len() as u64),
                Err(_) => Outcome::Unknown,
            };
            lock(self.journal).end(number, outcome)?;
        }
        let mut usable = 0;
        let mut problem = "a response without images".to_owned();
        match items {
            Ok(items) => {
                for (key, item) in pending.keys.iter().zip(items) {
                    // A killed process may have unpacked a part of this response.
                    if self.cache.contains(key) {
                        usable += 1;
                        continue;
                    }
                    let file = match item {
                        Ok(Item::Bytes(bytes)) => Ok(bytes),
                        Ok(Item::Url(url)) => match self.download(&url, stop)? {
                            Delivery::Usable(bytes) => Ok(bytes),
                            Delivery::Unusable(problem) => Err(problem),
                        },
                        Err(problem) => Err(problem),
                    };
                    match file.and_then(|file| self.sizes.open(&file)) {
                        Ok(image) => {
                            self.cache.store_image(key, &image)?;
                            usable += 1;
                        }
                        Err(reason) => problem = reason,
                    }
                }
            }
            Err(reason) => problem = reason,
        }
        self.cache.remove_response(pending)?;
        Ok(if usable > 0 {
            Delivery::Usable(())
        } else {
            Delivery::Unusable(problem)
        })
    }

    /// Downloads an image. Unusable: the address will never return it.
    fn download(&self, url: &str, stop: &AtomicBool) -> Result<Delivery<Vec<u8>>, ServiceError> {
        let mut failures = 0;
        loop {
            match self.client.get(url, self.sizes.max_file()) {
                Ok(bytes) => return Ok(Delivery::Usable(bytes)),
                Err(CallError::Unusable(message)) => {
                    let reason = format!("an image's address returned {message}");
                    return Ok(Delivery::Unusable(reason));
                }
                Err(CallError::Refused { status, message }) => {
                    let reason = format!("an image's address returned {status}, {message}");
                    return Ok(Delivery::Unusable(reason));
                }
                Err(CallError::Transient { message, wait, .. }) => {
                    // The response stays on disk, so a resumed run downloads the image again
                    // without a second request for it.
                    failures += 1;
                    self.retry(failures, "an image's address", message, wait, stop)?;
                    if stop.load(Ordering::SeqCst) {
                        return Err(ServiceError::Stopped);
                    }
                }
            }
        }
    }

    /// Unpacks the responses that a killed process left on disk.
    ///
    /// # Errors
    /// [`ServiceError::Io`], or [`ServiceError::GaveUp`] if the address of an image fails.
    pub(super) fn recover(&self) -> Result<(), ServiceError> {
        let stop = AtomicBool::new(false);
        for path in self.cache.pending()? {
            let pending = self.cache.read_response(&path)?;
            // Images that are missing afterwards are requested when the run needs them.
            let _delivery = self.unpack(&pending, None, &stop)?;
        }
        Ok(())
    }
}

/// Returns the endpoint below the base address, and its description for messages.
fn endpoint(request: &BatchedRequest, variation: Endpoint) -> (&'static str, &'static str) {
    match (&request.upload, variation) {
        (None, _) => ("images/generations", "a random image"),
        (Some(_), Endpoint::Variations) => ("images/variations", "a variation"),
        (Some(_), Endpoint::Edits) => ("images/edits", "an edit"),
    }
}

/// Locks a mutex; a panic of another thread has already ended the run.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
