//! Command-line arguments. The doc comments of fields are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::device::DeviceChoice;
use crate::images::{Format, Labels, Layout};
use crate::logging::LogFormat;
use crate::metrics::MetricKind;
use crate::metrics::downstream::ClassifierKind;
use crate::privacy::{Adjacency, Unit};
use crate::schedule::Schedule;

/// The exit codes in the help of every command.
const EXIT_CODES: &str = "Exit codes: 0 success; 2 command line or configuration; 3 images or \
    samples; 4 weights; 5 privacy core (ledger, changed private images); 6 result folder; \
    7 device; 8 computation; 9 hosted model; 10 download; \
    11 audit above the claim; 130 interrupted. After any code, \
    finished work is on disk, and --resume (run, extend) or the same command (fetch) continues.";

/// Differentially private synthetic images by Private Evolution.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Arguments {
    /// The command to execute.
    #[command(subcommand)]
    pub command: Command,
    /// Disable all network access; report missing files instead of downloading them
    #[arg(long, global = true)]
    pub offline: bool,
    /// Format of messages on standard error: human, or json (one object per line)
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub log_format: LogFormat,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate differentially private synthetic images as described by a configuration
    Run(RunArguments),
    /// Continue a finished run for more iterations, as a new run whose claim includes its charges
    Extend(ExtendArguments),
    /// Evaluate samples against a reference: images or their statistics
    Eval(EvalArguments),
    /// Download weights and data sets, verify them, and put them where configurations expect them
    Fetch(FetchArguments),
    /// Compute epsilon from a noise multiplier, or the noise multiplier for a target epsilon
    Privacy(PrivacyArguments),
    /// Create, show and correct the privacy budget of a data set, over all runs on it
    Budget(BudgetArguments),
    /// Run the mechanism on public images and bound its epsilon from below
    Audit(AuditArguments),
    /// Propose data.classes from the names of private images; the output is private
    Classes(ClassesArguments),
}

/// Arguments of `dpsyn run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The configuration, a TOML file
    pub config: PathBuf,
    /// Override a key, such as evolution.threshold=4 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The result folder; overrides output.folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The device: auto, cpu, cuda, cuda:N, cuda:N,M (several GPUs), all (all CUDA GPUs) or metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Resume the run in the result folder, or start a new run if there is none
    #[arg(long, conflicts_with = "fresh")]
    pub resume: bool,
    /// Start a new run; an existing result folder is renamed and kept
    #[arg(long)]
    pub fresh: bool,
    /// Check all inputs and print the plan with its privacy cost; generate nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Permit noise_multiplier = 0 or epsilon = inf; every output is marked as non-private
    #[arg(long)]
    pub non_private: bool,
}

/// Arguments of `dpsyn extend`.
#[derive(Debug, Args)]
#[command(
    after_help = "The new run has the configuration of the finished one (private/config.toml), its \
        last noise multiplier, and its last population as initial population. Epsilon covers the \
        releases of both. Schedules continue with their last value, and evolution.seed is the next \
        one. The private images must be those of the finished run, whose folder is not changed. \
        Relative paths are relative to the folder in which the finished run was started."
)]
pub struct ExtendArguments {
    /// The result folder of a finished run
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Number of further iterations; each releases one noisy histogram
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: u32,
    /// Override a key; lists begin with the last population of the finished run (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The result folder of the new run [default: FOLDER-extended]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The device: auto, cpu, cuda, cuda:N, cuda:N,M (several GPUs), all (all CUDA GPUs) or metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Resume the extension in its result folder, or start it if there is none
    #[arg(long)]
    pub resume: bool,
    /// Check all inputs and print the plan with its privacy cost; generate nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Extend a run without noise; every output is marked as non-private
    #[arg(long)]
    pub non_private: bool,
}

/// Arguments of `dpsyn eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// The samples: `<iteration>/samples.npz` of a result folder, or another .npz file of images
    pub samples: PathBuf,
    /// The reference: images as data.path names them, or an .npz file with mu and sigma
    #[arg(long, value_name = "PATH")]
    pub against: PathBuf,
    /// The layout of the reference.
    #[command(flatten)]
    pub layout: LayoutArguments,
    /// Metrics: fid, precision-recall, kid, inception-score, memorization, downstream
    #[arg(long, value_delimiter = ',', default_value = "fid")]
    pub metrics: Vec<MetricKind>,
    /// The feature space: inception, clip, dinov2 or pixels
    #[arg(long, default_value = "inception")]
    pub embedder: String,
    /// The weights of the embedder
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Size in pixels to which all images are resized first [default: the size of the samples]
    #[arg(long, value_name = "PIXELS")]
    pub resolution: Option<usize>,
    /// For the embedder pixels: use the mean of the color channels
    #[arg(long, alias = "greyscale")]
    pub grayscale: bool,
    /// Number of samples for FID; if it exceeds the file's, samples are drawn with replacement
    #[arg(long, value_name = "N")]
    pub num_fid_samples: Option<usize>,
    /// Number of nearest neighbors for precision and recall [default: 3]
    #[arg(long, value_name = "K")]
    pub nearest_neighbors: Option<usize>,
    /// Number of random subsets over which KID is averaged [default: 100]
    #[arg(long, value_name = "N")]
    pub kid_subsets: Option<usize>,
    /// Maximum number of images per set in one KID subset [default: 1000]
    #[arg(long, value_name = "N")]
    pub kid_subset_size: Option<usize>,
    /// Classifier that downstream trains on labeled samples and tests on the labeled reference:
    /// logistic or nearest-neighbor (on embeddings), or cnn (on pixels) [default: logistic]
    #[arg(long, value_name = "KIND")]
    pub classifier: Option<ClassifierKind>,
    /// Number of trainings of the cnn, with seeds from --seed on; other classifiers have none
    /// [default: 3]
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Seed of random subsets, and the first seed of the cnn
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Declare the reference public: metrics are neither marked nor written below private/
    #[arg(long)]
    pub public: bool,
    /// Folder for metrics.csv, the features of the reference, and the closest pairs of
    /// memorization; files are below its private/ unless --public is given
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The device: auto, cpu, cuda, cuda:N, cuda:N,M (several GPUs), all (all CUDA GPUs) or metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// Arguments of `dpsyn fetch`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("requested")
        .required(true)
        .multiple(true)
        .args(["names", "config", "list", "verify"]),
    after_help = "The same command resumes an interrupted download. \
        DPSYN_MIRROR is a URL below which all files have their catalogue names; it is tried first. \
        [mirrors] in a configuration replaces URL prefixes. Proxies are read from \
        HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY. Models of the Hugging Face hub are stored \
        in its usual cache. HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE have \
        their usual meaning, with two exceptions: the token is sent only to the hub itself and \
        never over plain http, and HF_HUB_OFFLINE disables all downloads."
)]
pub struct FetchArguments {
    /// Names of items, such as cifar10 or inception; --list shows all names
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Fetch everything that this configuration requires
    #[arg(long = "for", value_name = "CONFIG", conflicts_with = "root")]
    pub config: Option<PathBuf>,
    /// Override a key of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// List all items with their size and whether they are installed
    #[arg(long, conflicts_with_all = ["names", "config", "verify"])]
    pub list: bool,
    /// Download nothing; check the size and checksum of installed files
    #[arg(long)]
    pub verify: bool,
    /// The folder that contains data/ and weights/ [default: the current folder]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Keep archives after they are unpacked
    #[arg(long)]
    pub keep_archives: bool,
    /// A catalogue file that replaces the built-in one
    #[arg(long, value_name = "FILE")]
    pub catalogue: Option<PathBuf>,
}

/// Arguments of `dpsyn budget`.
#[derive(Debug, Args)]
pub struct BudgetArguments {
    /// The action.
    #[command(subcommand)]
    pub command: BudgetCommand,
    /// The budget file, which is private: keep it with the images
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        default_value = "budget.toml"
    )]
    pub file: PathBuf,
}

/// The actions of `dpsyn budget`.
#[derive(Debug, Subcommand)]
pub enum BudgetCommand {
    /// Create the budget of a data set
    Init(BudgetInit),
    /// Declare that changed images are another state of the same data set
    AddImages {
        /// The images: a folder, a CSV file that lists images, or a file with many images
        #[arg(value_name = "IMAGES")]
        images: PathBuf,
        /// The layout of the images.
        #[command(flatten)]
        layout: LayoutArguments,
    },
    /// Reduce an abandoned run from its planned to its charged releases
    Close {
        /// The result folder of the run
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Print the limit, the runs and the total
    Show,
}

/// Arguments of `dpsyn budget init`.
#[derive(Debug, Args)]
pub struct BudgetInit {
    /// The images: a folder, a CSV file that lists images, or a file with many images
    pub images: PathBuf,
    /// The layout of the images.
    #[command(flatten)]
    pub layout: LayoutArguments,
    /// The epsilon that all runs on these images together may cost
    #[arg(long)]
    pub epsilon: f64,
    /// The delta at which epsilon is computed
    #[arg(long)]
    pub delta: f64,
    /// Neighboring relation between data sets: add-remove (default) or replace-one
    #[arg(long, value_parser = adjacency)]
    pub adjacency: Option<Adjacency>,
    /// The protected unit: image (default) or client
    #[arg(long, value_parser = unit)]
    pub unit: Option<Unit>,
}

/// Arguments of `dpsyn privacy`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("question")
    .required(true)
    .args(["config", "noise_multiplier", "epsilon"]))]
pub struct PrivacyArguments {
    /// A configuration, from which noise, iterations, delta and adjacency are read
    pub config: Option<PathBuf>,
    /// Override a key of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Noise multiplier sigma: the standard deviation of the noise in units of the sensitivity; or
    /// one for each iteration, such as [8, 4, 2]
    #[arg(long, value_name = "SIGMA", value_parser = noise_multiplier)]
    #[arg(requires_all = ["iterations", "delta"])]
    pub noise_multiplier: Option<Schedule<f64>>,
    /// Target epsilon, for which the required noise multiplier is printed
    #[arg(long, requires_all = ["iterations", "delta"])]
    pub epsilon: Option<f64>,
    /// Number of iterations; each releases one noisy histogram
    #[arg(long, value_name = "T")]
    pub iterations: Option<u32>,
    /// Delta, the second parameter of the guarantee
    #[arg(long)]
    pub delta: Option<f64>,
    /// Neighboring relation between data sets: add-remove (default) or replace-one
    #[arg(long, value_parser = adjacency)]
    pub adjacency: Option<Adjacency>,
}

/// Arguments of `dpsyn audit`.
#[derive(Debug, Args)]
#[command(
    after_help = "The mechanism is run many times on two neighboring data sets of public, generated \
        images. The rate at which the two are distinguished excludes every smaller epsilon. A \
        lower bound above the claim proves a defect; one below the claim does not prove that there \
        is none. No private image is read."
)]
pub struct AuditArguments {
    /// A configuration, from which noise, votes, iterations, delta, adjacency, classes and embedder
    /// are read
    pub config: Option<PathBuf>,
    /// Override a key of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// The claimed epsilon, from which the noise follows [default: that of the configuration, or 1]
    #[arg(long)]
    pub epsilon: Option<f64>,
    /// Delta of the claim [default: that of the configuration, or 0.00001]
    #[arg(long)]
    pub delta: Option<f64>,
    /// Number of releases in one run [default: the iterations of the configuration, or 1]
    #[arg(long, value_name = "T")]
    pub releases: Option<u32>,
    /// Number of runs in each of the two worlds
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub trials: u64,
    /// Number of canaries of the audit with one run; 0 omits it
    #[arg(long, value_name = "M", default_value_t = 1000)]
    pub canaries: usize,
    /// The probability with which all lower bounds hold together
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub confidence: f64,
    /// Neighboring relation between data sets: add-remove (default) or replace-one
    #[arg(long, value_parser = adjacency)]
    pub adjacency: Option<Adjacency>,
    /// The protected unit: image (default) or client
    #[arg(long, value_parser = unit)]
    pub unit: Option<Unit>,
    /// Seed of the generated images and of the canaries' coins; noise has no seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write the report as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `dpsyn classes`.
#[derive(Debug, Args)]
pub struct ClassesArguments {
    /// The images: a folder, a CSV file that lists images, or a file with many images
    pub path: PathBuf,
    /// The layout of the images.
    #[command(flatten)]
    pub layout: LayoutArguments,
}

/// Arguments that describe how images lie on disk.
#[derive(Debug, Args)]
pub struct LayoutArguments {
    /// Kind of files, if the path does not imply it: images, npz, idx, parquet or webdataset
    #[arg(long, value_parser = named::<Format>)]
    pub format: Option<Format>,
    /// Split of a data set that has several, such as train or test
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Place of the class of an image file: prefix (default), folder, leaf-folder or csv
    #[arg(long, value_parser = named::<Labels>)]
    pub labels: Option<Labels>,
    /// Column of the class in the CSV file [default: label]
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
}

impl LayoutArguments {
    /// Returns the layout.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout {
            format: self.format,
            split: self.split.clone(),
            labels: self.labels.unwrap_or_default(),
            label_column: self.label_column.clone(),
        }
    }
}

/// Parses a value by its name in configurations.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let value = toml::Value::String(text.to_owned());
    value.try_into().map_err(|error| error.to_string())
}

fn unit(text: &str) -> Result<Unit, String> {
    let known = [Unit::Image, Unit::Client];
    let found = known.into_iter().find(|unit| unit.name() == text);
    found.ok_or_else(|| "expected image or client".to_owned())
}

/// Parses a number, or a list as in a configuration.
fn noise_multiplier(text: &str) -> Result<Schedule<f64>, String> {
    if let Ok(number) = text.parse::<f64>() {
        return Ok(number.into());
    }
    let parsed = toml::de::ValueDeserializer::parse(text).and_then(Schedule::deserialize);
    parsed.map_err(|error| format!("expected a number or a list: {}", error.message()))
}

fn adjacency(text: &str) -> Result<Adjacency, String> {
    Adjacency::ALL
        .into_iter()
        .find(|adjacency| adjacency.to_string() == text)
        .ok_or_else(|| "expected add-remove or replace-one".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn privacy_requires_one_complete_question() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("dpsyn privacy c.toml").is_ok());
        assert!(parse("dpsyn privacy --epsilon 1 --iterations 3 --delta 1e-5").is_ok());
        assert!(parse("dpsyn privacy --epsilon 1 --iterations 3").is_err());
        assert!(parse("dpsyn privacy").is_err());
        assert!(parse("dpsyn run c.toml --resume --fresh").is_err());
    }

    #[test]
    fn fetch_requires_an_item_and_every_command_can_be_offline() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        for good in [
            "dpsyn fetch cifar10 inception",
            "dpsyn fetch --for c.toml --set a=1",
            "dpsyn fetch --list",
            "dpsyn fetch --verify",
            "dpsyn fetch --verify cifar10 --root x",
        ] {
            assert!(!parse(good).unwrap().offline, "{good}");
        }
        for bad in [
            "dpsyn fetch",
            "dpsyn fetch --list a",
            "dpsyn fetch a --set b=1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for line in [
            "run c.toml",
            "fetch a",
            "privacy c.toml",
            "eval a --against b",
        ] {
            assert!(parse(&format!("dpsyn {line} --offline")).unwrap().offline);
            assert!(parse(&format!("dpsyn --offline {line}")).unwrap().offline);
        }
    }
}
