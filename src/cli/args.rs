//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::DeviceChoice;
use crate::logging::LogFormat;
use crate::metrics::MetricKind;
use crate::metrics::downstream::ClassifierKind;
use crate::privacy::Adjacency;

/// Differentially private synthetic images by Private Evolution.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Open no connection to any machine: work with what is here, or say what is missing
    #[arg(long, global = true)]
    pub offline: bool,
    /// Format of messages on standard error: human, or json (one object per line)
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub log_format: LogFormat,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make differentially private synthetic images as a configuration says
    Run(RunArguments),
    /// Say how good a file of samples is, compared with images or their statistics
    Eval(EvalArguments),
    /// Get weights and data sets, verified, into the places where the configurations look for them
    Fetch(FetchArguments),
    /// Say what a noise multiplier costs, or what a target epsilon needs, without running anything
    Privacy(PrivacyArguments),
}

/// `dpsyn run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The configuration, one TOML file a data set
    pub config: PathBuf,
    /// Override a key, such as evolution.threshold=4 (may be given several times)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The result folder, instead of the configuration's output.folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N, cuda:N,M (several GPUs), all or metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Go on with the run in the result folder; start one if there is none
    #[arg(long, conflicts_with = "fresh")]
    pub resume: bool,
    /// Start anew: an earlier result folder is kept beside under another name
    #[arg(long)]
    pub fresh: bool,
    /// Check everything, print the plan and its price, run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Allow noise_multiplier = 0 or epsilon = inf; every output is then stamped as not private
    #[arg(long)]
    pub non_private: bool,
}

/// `dpsyn eval`.
#[derive(Debug, Args)]
pub struct EvalArguments {
    /// The samples: `<iteration>/samples.npz` of a result folder, or another `.npz` of images
    pub samples: PathBuf,
    /// What to compare with: a folder of images, an `.npz` of images, or an `.npz` with mu and sigma
    #[arg(long, value_name = "PATH")]
    pub against: PathBuf,
    /// Figures: fid, precision-recall, kid, inception-score, memorisation, downstream
    #[arg(long, value_delimiter = ',', default_value = "fid")]
    pub metrics: Vec<MetricKind>,
    /// The space of the figures: inception, clip or pixels
    #[arg(long, default_value = "inception")]
    pub embedder: String,
    /// The embedder's weights
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Rows and columns to which all images are brought first; the samples' own by default
    #[arg(long, value_name = "PIXELS")]
    pub resolution: Option<usize>,
    /// Of pixels, the mean of the channels
    #[arg(long)]
    pub greyscale: bool,
    /// Samples that FID is computed on; more than there are, are drawn with replacement
    #[arg(long, value_name = "N")]
    pub num_fid_samples: Option<usize>,
    /// k of precision and recall [default: 3]
    #[arg(long, value_name = "K")]
    pub nearest_neighbors: Option<usize>,
    /// Random subsets that KID is averaged over [default: 100]
    #[arg(long, value_name = "N")]
    pub kid_subsets: Option<usize>,
    /// Images of each set in one of them, at most [default: 1000]
    #[arg(long, value_name = "N")]
    pub kid_subset_size: Option<usize>,
    /// What `downstream` trains on the labelled samples and tests on the labelled reference: logistic (on
    /// embeddings) or cnn (on pixels) [default: logistic]
    #[arg(long, value_name = "KIND")]
    pub classifier: Option<ClassifierKind>,
    /// Trainings of the cnn, from --seed on; logistic draws nothing [default: 3]
    #[arg(long, value_name = "N")]
    pub seeds: Option<u32>,
    /// Which subsets are drawn; the cnn's first seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Declare the reference public: figures are not marked, and lie outside of private/
    #[arg(long)]
    pub public: bool,
    /// A folder for metrics.csv, the reference's features and the closest pairs of memorisation, in private/
    /// unless --public
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N, cuda:N,M (several GPUs), all or metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
}

/// `dpsyn fetch`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("wanted").required(true).multiple(true).args(["names", "config", "list", "verify"]),
    after_help = "Whatever was stopped, by Ctrl-C, a crash or a broken connection, goes on with the same command. \
        DPSYN_MIRROR names an address below which all files lie under their own names, and is asked first; \
        [mirrors] in a configuration does the same for parts of the internet. Proxies are taken from \
        HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY. Models of the Hugging Face hub go into its usual \
        cache, and HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE mean what they mean \
        elsewhere, but the token is told to the hub alone, and not over plain http; with HF_HUB_OFFLINE nothing at \
        all is downloaded."
)]
pub struct FetchArguments {
    /// What to get, such as cifar10 or inception; --list shows all names
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Get whatever this configuration needs
    #[arg(long = "for", value_name = "CONFIG", conflicts_with = "root")]
    pub config: Option<PathBuf>,
    /// Override a key of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Show what can be had, how large it is, and what is here
    #[arg(long, conflicts_with_all = ["names", "config", "verify"])]
    pub list: bool,
    /// Get nothing; read what is here and check sizes and checksums
    #[arg(long)]
    pub verify: bool,
    /// The folder in which data/ and weights/ lie [default: the current one]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Keep an archive after its images are unpacked
    #[arg(long)]
    pub keep_archives: bool,
    /// Another catalogue than the built-in one
    #[arg(long, value_name = "FILE")]
    pub catalogue: Option<PathBuf>,
}

/// `dpsyn privacy`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["config", "noise_multiplier", "epsilon"]))]
pub struct PrivacyArguments {
    /// A configuration to read noise, iterations, delta and neighbours from
    pub config: Option<PathBuf>,
    /// Override a key of the configuration
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Noise multiplier sigma: the noise's standard deviation in units of the sensitivity
    #[arg(long, value_name = "SIGMA", requires_all = ["iterations", "delta"])]
    pub noise_multiplier: Option<f64>,
    /// Target epsilon: prints the noise multiplier that it needs
    #[arg(long, requires_all = ["iterations", "delta"])]
    pub epsilon: Option<f64>,
    /// PE iterations: each releases one noisy histogram
    #[arg(long, value_name = "T")]
    pub iterations: Option<u32>,
    /// Delta
    #[arg(long)]
    pub delta: Option<f64>,
    /// Which data sets count as neighbours: add-remove (default) or replace-one
    #[arg(long, value_parser = adjacency)]
    pub adjacency: Option<Adjacency>,
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
    fn privacy_wants_one_question_with_all_its_parts() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("dpsyn privacy c.toml").is_ok());
        assert!(parse("dpsyn privacy --epsilon 1 --iterations 3 --delta 1e-5").is_ok());
        assert!(parse("dpsyn privacy --epsilon 1 --iterations 3").is_err());
        assert!(parse("dpsyn privacy").is_err());
        assert!(parse("dpsyn run c.toml --resume --fresh").is_err());
    }

    #[test]
    fn fetch_wants_something_and_every_command_can_be_offline() {
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
