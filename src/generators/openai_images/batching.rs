//! Combination of sample requests into as few HTTP requests as possible.

use std::collections::HashMap;

use super::error::ServiceError;
use super::response_cache::CacheKey;

/// One HTTP request for several images that are made from the same input.
pub(super) struct BatchedRequest {
    /// The prompt; empty where none is sent.
    pub(super) prompt: String,
    /// The PNG to vary; `None` for random images.
    pub(super) upload: Option<Vec<u8>>,
    /// The cache keys of the requested images, one each.
    pub(super) keys: Vec<CacheKey>,
}

/// Collects requests in the order in which their inputs first appear.
#[derive(Default)]
pub(super) struct RequestBatcher {
    requests: Vec<BatchedRequest>,
    /// Index into `requests` of each input digest.
    indices: HashMap<String, usize>,
}

impl RequestBatcher {
    /// Adds `keys` to the request for the input with the digest `input`. `make` returns the prompt
    /// and the upload of a new request.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn add(
        &mut self,
        input: &str,
        keys: impl IntoIterator<Item = CacheKey>,
        make: impl FnOnce() -> Result<(String, Option<Vec<u8>>), ServiceError>,
    ) -> Result<(), ServiceError> {
        let index = match self.indices.get(input) {
            Some(index) => *index,
            None => {
                let (prompt, upload) = make()?;
                self.requests.push(BatchedRequest {
                    prompt,
                    upload,
                    keys: Vec::new(),
                });
                let index = self.requests.len() - 1;
                self.indices.insert(input.to_owned(), index);
                index
            }
        };
        if let Some(request) = self.requests.get_mut(index) {
            request.keys.extend(keys);
        }
        Ok(())
    }

    /// Returns the requests, split so that none is for more than `max_images` images; the parts of
    /// a split request can be executed concurrently.
    pub(super) fn into_requests(self, max_images: usize) -> Vec<BatchedRequest> {
        let mut split = Vec::new();
        for request in self.requests {
            for keys in request.keys.chunks(max_images.max(1)) {
                split.push(BatchedRequest {
                    prompt: request.prompt.clone(),
                    upload: request.upload.clone(),
                    keys: keys.to_vec(),
                });
            }
        }
        split
    }
}
