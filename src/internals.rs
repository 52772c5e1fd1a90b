//! Items that the tests and benchmarks of this repository use, by the paths that they have inside.
//!
//! They are not part of the library's interface. One list of them keeps the modules private, so
//! that the compiler reports an item without a user.

pub mod cli {
    pub use crate::cli::DeviceChoice;
}
pub mod config {
    pub use crate::config::{ConfigSources, Loaded, Settings};
}
pub mod diffusion {
    pub use crate::diffusion::{
        DenoiseLoop, DiffusionError, GaussianDiffusion, Method, NoiseSchedule, Prediction,
        Respacing, Sampler, SamplerOptions, Scheduler, SchedulerConfig, Step, Timestep,
        skipped_steps,
    };
}
pub mod embedders {
    pub use crate::embedders::pca::{Covariance, PcaEmbedder};
    pub use crate::embedders::{
        ClipEmbedder, Dinov2Embedder, Embedder, Embeddings, InceptionEmbedder,
    };
}
pub mod fetch {
    pub use crate::fetch::{Catalogue, FetchError, Fetcher, Options, RetryPolicy};
}
pub mod generators {
    pub use crate::generators::{
        Condition, Generated, Generator, GeneratorError, OpenAiImages, Operation, Parameters,
        RunPaths, SampleRequest, StableDiffusion, Variation,
    };
    pub mod improved_diffusion {
        pub use crate::generators::improved_diffusion::{Config, to_bytes, to_signed};
    }
    pub mod openai_images {
        pub use crate::generators::openai_images::{Config, ServiceError};
    }
    pub mod stable_diffusion {
        pub use crate::generators::stable_diffusion::{Config, Guidance, Pipeline, to_bytes};
    }
}
pub mod hub {
    pub use crate::hub::Checkpoint;
}
pub mod images {
    pub use crate::images::{
        DataConfig, DecodeError, DecodeOptions, Decoded, Duplicates, Filter, Format, ImageBatch,
        ImageSize, ImageSource, ImagesError, NpzReader, NpzWriter, OnBadImage, Orientation,
        Resampler, Rgb, SamplesReader, SamplesWriter, SixteenBit, UndeclaredClass, center_crop,
        decode, decoding_memory, png, resize_bicubic_float, resize_to_cover,
    };
}
pub mod kernels {
    pub use crate::kernels::{
        CachingAllocator, Conv2d, Conv2dShape, GroupNorm, Linear, attention, check_bf16_on_cpu,
    };
}
pub mod metrics {
    pub use crate::metrics::{EvaluationConfig, MetricKind};
    pub mod downstream {
        pub use crate::metrics::downstream::{LogisticConfig, LogisticRegression};
    }
    pub mod frechet {
        pub use crate::metrics::frechet::Frechet;
    }
    pub mod moments {
        pub use crate::metrics::moments::{Gaussian, Moments};
    }
    pub mod precision_recall {
        pub use crate::metrics::precision_recall::{precision_recall, radii};
    }
}
pub mod models {
    pub mod clip {
        pub use crate::models::clip::{ClipText, ClipTextConfig, ClipVision, ClipVisionConfig};
    }
    pub mod dinov2 {
        pub use crate::models::dinov2::{Dinov2, Dinov2Config};
    }
    pub mod improved_diffusion {
        pub use crate::models::improved_diffusion::{UNet, UNetConfig, timestep_embedding};
    }
    pub mod inception {
        pub use crate::models::inception::{FEATURES, IGNORED, INPUT_SIZE, Inception};
    }
    pub mod stable_diffusion {
        pub use crate::models::stable_diffusion::{
            AutoencoderKl, AutoencoderKlConfig, UNet2DCondition, UNet2DConditionConfig,
        };
    }
}
pub mod net {
    pub use crate::net::Backoff;
}
pub mod privacy {
    pub use crate::privacy::{Adjacency, Sensitive, epsilon, noise_multiplier};
}
pub mod progress {
    pub use crate::progress::{Cancellation, Progress, Silent, Unit};
}
pub mod streams {
    pub use crate::streams::{Phase, RngKey};
}
pub mod voting {
    pub use crate::voting::{
        Metric, PrivateEmbeddings, SampleEmbeddings, SearchOptions, SelectionMode, VotingError,
        nearest_neighbors, nn_histogram, select, threshold,
    };
}
