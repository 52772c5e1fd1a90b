//! Estimates of the number of requests, the cost and the disk space of a run.

use super::config::Config;
use crate::generators::{Operation, PlannedWork, Prompts};
use crate::sections::InvalidKey;

/// Bytes of PNG structure and metadata around the pixels of a cached image, at most.
const PNG_OVERHEAD: u64 = 4096;

impl Config {
    /// Returns the number of images of `work`, and an upper bound of the number of requests if none
    /// fails.
    fn count_requests(&self, work: &[PlannedWork]) -> (u64, u64) {
        let (mut images, mut requests) = (0_u64, 0_u64);
        let per_call = self.max_images_per_call.max(1) as u64;
        let prompts = Prompts::new(&self.prompts);
        let prompts = prompts.map_or(1, |prompts| prompts.texts().len() as u64);
        for part in work {
            let all = part.images * u64::from(part.each);
            images += all;
            requests += match part.operation {
                // Images of one shard and one prompt share requests. Each prompt can leave one
                // request that is not full.
                Operation::Random => {
                    let shard = self.batch_size.max(1) as u64;
                    let calls = |images: u64| {
                        images.min(images.div_ceil(per_call) + prompts.min(images) - 1)
                    };
                    let rest = all % shard;
                    all / shard * calls(shard) + if rest == 0 { 0 } else { calls(rest) }
                }
                // Variations of one image share requests.
                Operation::Vary(_) => part.images * u64::from(part.each).div_ceil(per_call),
            };
        }
        (images, requests)
    }

    /// Returns the lines of a preflight report: requests, cost and disk space of `work`.
    ///
    /// # Errors
    /// [`InvalidKey`] naming `max_requests` or `max_cost` if `work` exceeds it.
    pub(super) fn estimate_cost(&self, work: &[PlannedWork]) -> Result<Vec<String>, InvalidKey> {
        let (images, requests) = self.count_requests(work);
        let mut lines = vec![format!(
            "hosted model {}: {images} images by at most {requests} requests if none fails{}",
            self.model,
            self.max_requests
                .map(|limit| format!(" (max_requests {limit})"))
                .unwrap_or_default()
        )];
        if let Some(price) = self.price_per_image {
            let cost = images as f64 * price;
            lines.push(format!(
                "price: {cost:.2} at {price} an image{}",
                self.max_cost
                    .map(|limit| format!(" (max_cost {limit})"))
                    .unwrap_or_default()
            ));
            if let Some(limit) = self.max_cost
                && cost > limit
            {
                let message = format!("is {limit}, but the plan costs {cost:.2}");
                return Err(InvalidKey::new("max_cost", message));
            }
        } else {
            lines.push("price: unknown (price_per_image is not set)".to_owned());
        }
        if let Some(limit) = self.max_requests
            && requests > limit
        {
            let message = format!("is {limit}, but the plan needs up to {requests}");
            return Err(InvalidKey::new("max_requests", message));
        }
        lines.push(format!(
            "disk: up to {:.1} MB for cached images during the run",
            self.cache_bytes(work) as f64 / 1e6
        ));
        if work
            .iter()
            .any(|part| matches!(part.operation, Operation::Vary(_)))
        {
            lines
                .push("variation_degree is ignored: the protocol has no such parameter".to_owned());
        }
        Ok(lines)
    }

    /// Returns the maximum size of the response cache in bytes. It is emptied after each iteration,
    /// so it holds the images of two successive operations at most: lookahead and variations.
    /// Images are counted uncompressed.
    fn cache_bytes(&self, work: &[PlannedWork]) -> u64 {
        let images = |part: &PlannedWork| part.images * u64::from(part.each);
        let pairs = work.windows(2).map(|pair| pair.iter().map(images).sum());
        let most: u64 = pairs.chain(work.iter().map(images)).max().unwrap_or(0);
        let (height, width) = self.image_size().pair();
        most * ((height * width * 3) as u64 + PNG_OVERHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::PromptsConfig;
    use crate::generators::Variation;

    #[test]
    fn the_estimate_counts_images_and_bounds_requests() {
        let work = [
            PlannedWork {
                operation: Operation::Random,
                images: 100,
                each: 1,
            },
            PlannedWork {
                operation: Operation::Vary(Variation::new(1.0, 1)),
                images: 100,
                each: 8,
            },
            PlannedWork {
                operation: Operation::Vary(Variation::new(1.0, 1)),
                images: 100,
                each: 1,
            },
        ];
        let mut config: Config =
            toml::from_str("prompts = \"a cat\"\nmodel = \"m\"\nbatch_size = 40").unwrap();
        // Shards of 40, 40, 20 of one prompt; 100 lookaheads of 8; 100 single variations.
        assert_eq!(config.count_requests(&work), (1000, 4 + 4 + 2 + 100 + 100));
        config.prompts = PromptsConfig::List(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(config.count_requests(&work), (1000, 5 + 5 + 3 + 100 + 100));
        config.max_images_per_call = 3;
        assert_eq!(config.count_requests(&work).1, 15 + 15 + 8 + 300 + 100);
        config.price_per_image = Some(0.02);
        let lines = config.estimate_cost(&work).unwrap().join("\n");
        assert!(
            lines.contains("1000 images") && lines.contains("price: 20.00"),
            "{lines}"
        );
        assert!(lines.contains("variation_degree is ignored"), "{lines}");
        // 800 + 100 images of 1024².
        assert!(lines.contains("disk: up to 2834.8 MB"), "{lines}");
        config.max_cost = Some(19.99);
        let error = config.estimate_cost(&work).unwrap_err().to_string();
        assert!(error.starts_with("max_cost: "), "{error}");
        config.max_cost = Some(20.0);
        config.max_requests = Some(437);
        let error = config.estimate_cost(&work).unwrap_err().to_string();
        assert!(error.starts_with("max_requests: "), "{error}");
        config.max_requests = Some(438);
        config.estimate_cost(&work).unwrap();
        assert_eq!(config.count_requests(&[]), (0, 0));
    }
}
