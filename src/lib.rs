//! Differentially private synthetic images by Private Evolution (PE), in one static binary.
//!
//! PE (Lin et al., ICLR 2024, arXiv 2305.15560) trains no network. It makes images with a public
//! generator, lets every private image vote for its nearest synthetic image in an embedding space,
//! adds Gaussian noise to the histogram of votes, resamples the images by their noisy votes, makes
//! variations of the selected images, and repeats.
//!
//! # Interface
//!
//! The product is the program. The library serves its binary, tests, benchmarks, fuzz targets and
//! examples, and offers a small interface besides: the accountant ([`epsilon`],
//! [`noise_multiplier`]), embeddings of images ([`Embedder`], [`ImageSource`]), generators
//! ([`Generator`]) and the wrapper of private data ([`Sensitive`]). `examples/` shows each of them.
//!
//! # Map
//!
//! A module imports only modules below it in this list; `tests/layers.rs` checks that.
//!
//! | module | job |
//! |---|---|
//! | [`internals`] | items that tests and benchmarks use |
//! | [`cli`] | command line, progress, exit codes |
//! | [`fuzzing`] | entry points of the fuzz targets |
//! | [`config`] | TOML text to checked [`config::Settings`] |
//! | [`audit`] | an empirical lower bound of ε of the mechanism |
//! | [`pe`] | Private Evolution: Algorithms 1 and 2, the plan of a run, the privacy statement |
//! | [`evaluation`] | metrics of samples; private unless their reference is public |
//! | [`artifacts`] | the result folder, and reading it back when a run resumes |
//! | [`dataset`] | the private images, wrapped in `Sensitive` as they are read |
//! | [`metrics`] | FID, KID, Inception Score, precision and recall, memorization, accuracy |
//! | [`generators`] | random images and variations: foundation models, renderers, pools, programs |
//! | [`voting`] | exact nearest neighbors and the vote histogram |
//! | [`embedders`] | images to vectors |
//! | [`public_images`] | images that are declared public: reading, digests, a cache on disk |
//! | [`privacy`] | the `Sensitive` wrapper, the noise mechanism, the accountant, the ledger |
//! | [`diffusion`] | noise schedules, respacing, samplers: mathematics without networks |
//! | [`models`] | the networks, with the tensor names of the original checkpoints |
//! | [`fetch`] | catalog of weights and data sets: download, checksums, extraction |
//! | [`hub`] | strict readers of checkpoints; model files in folders and on the hub |
//! | [`images`] | image batches, folders and npz files, PIL-exact resampling, grids |
//! | [`kernels`] | the layers of all networks, fast CPU operators, CUDA kernels |
//! | [`device_pool`] | thread pool with one worker per device |
//! | [`streams`] | counter-based random numbers of everything but the privacy noise |
//! | [`net`] | HTTP client: proxies, retries, offline mode, resumable downloads |
//! | [`progress`] | progress reports and cancellation |
//! | [`schedule`] | values of the configuration that change from iteration to iteration |
//! | [`sections`] | building blocks of configuration sections: invalid keys, the key `type` |
//! | [`locking`] | exclusive locks on files |
//! | [`logging`] | events of a command, and the files to which they are written |
//! | [`atomic`] | atomic writes of files |
//! | [`hex`] | hexadecimal digits |
//! | [`kill_point`] | named points at which a test kills the process |
//! | [`exit_code`] | the documented exit codes, and the trait with which an error has one |
#![deny(missing_docs)]
#![deny(unsafe_code)]
#![warn(rust_2018_idioms)]

mod artifacts;
mod atomic;
mod audit;
mod cli;
mod config;
mod dataset;
mod device_pool;
mod diffusion;
mod embedders;
mod evaluation;
mod exit_code;
mod fetch;
#[doc(hidden)]
pub mod fuzzing;
mod generators;
mod hex;
mod hub;
mod images;
#[doc(hidden)]
pub mod internals;
mod kernels;
mod kill_point;
mod locking;
mod logging;
mod metrics;
mod models;
mod net;
mod pe;
mod privacy;
mod progress;
mod public_images;
mod schedule;
mod sections;
mod streams;
mod voting;

pub use cli::main;
pub use embedders::{
    Embedder, EmbedderError, Embeddings, InceptionConfig, InceptionEmbedder, PixelsConfig,
    PixelsEmbedder,
};
pub use generators::{
    Condition, ConditionRequest, Generated, Generator, GeneratorError, Operation, Parameters,
    PlannedWork, RunPaths, SampleRequest, Variation,
};
pub use images::{
    Choose, ClientsConfig, DataConfig, Duplicates, Format, ImageBatch, ImageSource, ImagesError,
    Labels, OnBadImage, UndeclaredClass, grid, write_png,
};
#[cfg(feature = "insecure-test-noise")]
#[doc(hidden)]
pub use kill_point::KillPoint;
pub use privacy::{Adjacency, Charge, PrivacyError, Sensitive, epsilon, noise_multiplier};
pub use streams::{KeyedRng, Phase, RngKey};
