//! `dpsyn run`: opens and checks all inputs, then runs the plan. `dpsyn extend` shares it.

mod evaluation;
mod overlap;

use std::path::{Path, PathBuf};

use candle_core::Device;

use self::evaluation::OpenedEvaluation;
use super::args::RunArguments;
use super::core_dumps;
use super::device::{DeviceChoice, Devices};
use super::error::CliError;
use super::evaluation::digest;
use super::missing;
use super::output::{print, show_private};
use super::progress::{TerminalProgress, catch_interrupts};
use crate::artifacts::{ArtifactsError, Existing, RunDir};
use crate::config::{ConfigError, Loaded, Settings};
use crate::dataset::{CheckedImages, PrivateImages, content_fingerprint};
use crate::embedders::{Embedder, EmbedderError, OpenedEmbedder, PrivateEmbedder};
use crate::evaluation::Evaluation;
use crate::fetch::Catalogue;
use crate::generators::{
    ConditionRequest, Generator, GeneratorError, OpenedGenerator, Operation, Variation,
};
use crate::hub::FilesError;
use crate::images::DataConfig;
use crate::logging;
use crate::net::Offline;
use crate::pe::{InitialSamples, PeError, Plan, Run, RunIdentity};
use crate::privacy::{
    Budget, EarlierRun, Fingerprint, NonPrivateConsent, PrivacyError, PrivateFolder, RecordedRun,
    ResolvedPrivacy, Sensitive, check_carried, merge_earlier, run_above, run_of_samples,
};
use crate::progress::Progress as _;
use crate::streams::{Phase, RngKey};

/// Name of the CPU as a device, as `--device` has it.
const CPU: &str = "cpu";

/// Executes `dpsyn run`.
pub(super) fn run(arguments: &RunArguments) -> Result<(), CliError> {
    core_dumps::forbid()?;
    let mut loaded = Settings::load(&arguments.config, &arguments.set)?;
    if let Some(out) = &arguments.out {
        loaded.settings.output.folder.clone_from(out);
        loaded.check_passed_on()?;
    }
    let existing = match (arguments.resume, arguments.fresh) {
        (true, _) => Existing::Resume,
        (_, true) => Existing::MoveAside,
        _ => Existing::Refuse,
    };
    execute(Job {
        loaded,
        config: &arguments.config,
        device: &arguments.device,
        existing,
        dry_run: arguments.dry_run,
        non_private: arguments.non_private,
        extends: None,
    })
}

/// A run to execute: its configuration, and the options of the command.
pub(super) struct Job<'a> {
    pub(super) loaded: Loaded,
    /// The file of the configuration, for messages.
    pub(super) config: &'a Path,
    pub(super) device: &'a DeviceChoice,
    pub(super) existing: Existing,
    pub(super) dry_run: bool,
    pub(super) non_private: bool,
    /// The finished run that this one extends.
    pub(super) extends: Option<&'a RecordedRun>,
}

/// Checks everything and executes the run, or prints its plan.
pub(super) fn execute(job: Job<'_>) -> Result<(), CliError> {
    let Job {
        loaded, existing, ..
    } = job;
    let progress = TerminalProgress::new();
    let devices = job.device.open()?;
    let earlier = earlier_runs(&loaded, existing, job.extends).map_err(PeError::from)?;
    let privacy = resolve_privacy(&loaded, job.non_private, earlier)?;
    if !job.dry_run {
        // A folder that must not be modified is refused before the private images are read.
        RunDir::examine(&loaded.settings.output.folder, existing)?;
    }
    catch_interrupts()?;
    check_availability(&loaded, job.dry_run)?;
    let inputs = Inputs::open(&loaded, privacy, &devices, &progress)
        .map_err(|error| with_command(error, &loaded.settings, job.config))?;
    if let Some(extended) = job.extends {
        extended
            .check_data(&inputs.fingerprint)
            .map_err(PeError::from)?;
    }
    if existing != Existing::Resume
        && let Some((budget, images)) = &inputs.budget
    {
        // Before anything is generated. A run that is resumed has its place in the budget.
        budget
            .check(&inputs.plan.privacy, images)
            .map_err(PeError::from)?;
    }
    let notes = inputs.preflight(&loaded)?;
    if job.dry_run {
        // Standard output has declared numbers only, so that it may be published.
        show_private(&inputs.images.describe_sizes(), &progress);
        return print_plan(&loaded, &inputs, &notes);
    }
    for note in &notes {
        progress.message(note);
    }
    // Settings that cannot be written are found before the folder is created.
    let public_config = loaded.settings.to_public_toml()?;
    let private_config = Sensitive::new(loaded.settings.to_toml()?);
    let initial = &loaded.settings.evolution.initial_samples;
    let identity = RunIdentity {
        settings: loaded.settings.identity()?,
        model_weights: inputs.generator.weights_digest.clone(),
        embedder_weights: inputs.embedder.weights_digest.clone(),
        initial_samples: initial.as_deref().map(digest).transpose()?,
        plan: inputs.plan.identity(),
    };
    let folder = prepare_folder(
        &loaded.settings.output.folder,
        existing,
        inputs.plan.privacy.earlier(),
        &progress,
    )?;
    let executed = inputs.execute(&Command {
        settings: &loaded.settings,
        identity: &identity,
        data: &loaded.data,
        public_config: &public_config,
        private_config: &private_config,
        devices: &devices,
        folder: &folder,
        progress: &progress,
    });
    // Also after an error: what is in the folder may be published.
    let timed = folder.set_times();
    let samples = executed?;
    timed?;
    print(&samples.display());
    Ok(())
}

/// The parts of a run that are not inputs.
struct Command<'a> {
    settings: &'a Settings,
    identity: &'a RunIdentity,
    /// `[data]` with the declared classes.
    data: &'a DataConfig,
    /// `config.toml` of the result folder.
    public_config: &'a str,
    /// `private/config.toml` of the result folder.
    private_config: &'a Sensitive<String>,
    devices: &'a Devices,
    folder: &'a RunDir,
    progress: &'a TerminalProgress,
}

/// Refuses a run whose files are missing, or whose hosted model is out of reach.
fn check_availability(loaded: &Loaded, dry_run: bool) -> Result<(), CliError> {
    missing::check(
        &Catalogue::built_in()?,
        &missing::requirements(&loaded.settings),
    )?;
    let hosted = loaded.settings.model.section().is_hosted();
    if let (true, Some(by), false) = (hosted, Offline::network(), dry_run) {
        let message = format!("a hosted model is not available with {by}");
        return Err(loaded.locations.error("model", message).into());
    }
    Ok(())
}

/// Prepares the result folder and directs the events of the run to its private log. A run that is
/// moved aside must not have charges beyond those in `earlier`.
fn prepare_folder(
    root: &Path,
    existing: Existing,
    earlier: &[EarlierRun],
    progress: &TerminalProgress,
) -> Result<RunDir, CliError> {
    // It may have gone on between the plan and the move, while private images were read.
    let check = |moved: &Path| -> Result<(), CliError> { Ok(check_carried(moved, earlier)?) };
    let (folder, moved) = RunDir::prepare(root, existing, check)?;
    let private = PrivateFolder::create(folder.private())?;
    folder.set_times()?;
    logging::open_private(private.open_log()?).map_err(ArtifactsError::io(private.path()))?;
    if let Some(moved) = moved {
        progress.message(&format!(
            "the earlier run is kept as {}; the claim of the new run includes its charges",
            moved.display()
        ));
    }
    Ok(folder)
}

/// Everything that a run reads, opened and checked. No privacy budget has been charged.
struct Inputs {
    images: PrivateImages,
    fingerprint: Sensitive<Fingerprint>,
    /// The budget of the data set, and the fingerprint by which it knows the images.
    budget: Option<(Budget, Sensitive<Fingerprint>)>,
    plan: Plan,
    generator: OpenedGenerator,
    embedder: OpenedEmbedder,
    /// The embedder of the private images, if it is not that of the samples.
    private_embedder: Option<Box<dyn Embedder>>,
    /// Name of the device that embeds the private images.
    private_device: String,
    evaluation: Option<OpenedEvaluation>,
}

impl Inputs {
    /// Opens data and weights. Cheap checks come first, and reading all private images comes last.
    fn open(
        loaded: &Loaded,
        privacy: ResolvedPrivacy,
        devices: &Devices,
        progress: &TerminalProgress,
    ) -> Result<Self, CliError> {
        let evolution = &loaded.settings.evolution;
        let plan = Plan::new(evolution, loaded.data.class_names(), &loaded.data, privacy)
            .map_err(|error| loaded.locations.error(&error.key, error.message))?;
        for warning in plan.warnings() {
            progress.message(&format!("warning: {warning}"));
        }
        let mut images = PrivateImages::open(&loaded.data)?;
        overlap::refuse_paths(loaded)?;
        let generator = open_generator(loaded, devices, progress)?;
        check_plan(loaded, &*generator.generator, &plan)?;
        let image_size = generator.generator.image_size();
        let config = &loaded.settings.embedder.embedder;
        let embedder = config
            .open(image_size, &devices.all(), progress)
            .map_err(|error| embedder_error(loaded, "embedder", error))?;
        progress.message(&format!("device: {}", devices.chosen));
        let (private_embedder, private_device) =
            open_private_embedder(loaded, &embedder, image_size, devices, progress)?;
        let CheckedImages { fingerprint, notes } = images.check(progress)?;
        show_private(&notes, progress);
        overlap::refuse(loaded, &generator, &embedder, &images, progress)?;
        let units = images.units();
        show_private(&units.map(|units| plan.compare_units(units)), progress);
        let evaluation = evaluation::open(
            loaded, &embedder, image_size, devices, &plan, &images, progress,
        )?;
        let budget = match &loaded.settings.privacy.budget {
            Some(path) => {
                let images = content_fingerprint(&loaded.settings.data);
                Some((Budget::at(path), images.map_err(PeError::from)?))
            }
            None => None,
        };
        Ok(Self {
            images,
            fingerprint,
            budget,
            plan,
            generator,
            embedder,
            private_embedder,
            private_device,
            evaluation,
        })
    }

    /// Returns the model's messages about the plan, such as the price of a hosted model, or the
    /// error of the key in `[model]` that excludes it.
    fn preflight(&self, loaded: &Loaded) -> Result<Vec<String>, CliError> {
        let generator = &self.generator.generator;
        generator
            .preflight(&self.plan.generator_work())
            .map_err(|error| model_error(loaded, error))
    }

    /// Runs the plan and returns the path of the last population.
    fn execute(mut self, command: &Command<'_>) -> Result<PathBuf, CliError> {
        let Command {
            settings, devices, ..
        } = command;
        let mut reference = None;
        let own;
        let evaluation = match (&settings.evaluation, self.evaluation) {
            (Some(config), Some(opened)) => {
                reference = opened.reference;
                own = opened.own;
                let embedder = own.as_ref().unwrap_or(&self.embedder);
                Some(Evaluation {
                    config,
                    shares_vote: own.is_none(),
                    embedder: &*embedder.embedder,
                    space: opened.space,
                    classifier: opened.classifier,
                    device: &devices.first,
                    observer: command.progress,
                })
            }
            _ => None,
        };
        let run = Run {
            plan: &self.plan,
            identity: command.identity,
            public_config: command.public_config,
            private_config: command.private_config,
            data: command.data,
            budget: self
                .budget
                .as_ref()
                .map(|(budget, images)| (budget, images)),
            pad_release_to: settings.privacy.pad_release_to.as_ref(),
            plot_images: settings.output.plot_images,
            generator: &*self.generator.generator,
            embedder: &*self.embedder.embedder,
            private_embedder: self
                .private_embedder
                .as_deref()
                .unwrap_or(&*self.embedder.embedder),
            private_device: &self.private_device,
            evaluation: evaluation.as_ref(),
            device: &devices.first,
            observer: command.progress,
        };
        Ok(run.execute(
            command.folder,
            &mut self.images,
            &self.fingerprint,
            reference,
        )?)
    }
}

/// Prints the plan of `--dry-run`.
fn print_plan(loaded: &Loaded, inputs: &Inputs, notes: &[String]) -> Result<(), CliError> {
    let generator = &*inputs.generator.generator;
    let dimension = inputs.embedder.embedder.dimension();
    let plan = &inputs.plan;
    let cost = plan
        .cost(loaded.settings.output.plot_images, generator, dimension)
        .map_err(PeError::from)?;
    print(&plan.describe(&cost));
    for note in notes {
        print(note);
    }
    if let Some(config) = &loaded.settings.evaluation {
        print(&evaluation::describe(config));
    }
    Ok(())
}

/// Adds the command that fetches the model to the error that the network is disabled.
fn with_command(error: CliError, settings: &Settings, config: &Path) -> CliError {
    match error {
        CliError::Run(PeError::Generator(GeneratorError::Files(FilesError::Offline {
            ..
        }))) => CliError::Fetchable {
            error: Box::new(error),
            command: missing::model_command(settings, config),
        },
        other => other,
    }
}

/// Resolves `[privacy]`, and includes the charges of earlier runs in the claim.
fn resolve_privacy(
    loaded: &Loaded,
    non_private: bool,
    earlier: Vec<EarlierRun>,
) -> Result<ResolvedPrivacy, ConfigError> {
    let evolution = &loaded.settings.evolution;
    let releases = (loaded.populations.len() as u32).saturating_sub(1);
    loaded
        .settings
        .privacy
        .resolve(
            releases,
            evolution.nearest_neighbors.clone(),
            None,
            non_private.then(NonPrivateConsent::given),
        )
        .map(|privacy| privacy.with_replaced_images(loaded.settings.data.replaced_images()))
        .and_then(|privacy| privacy.with_earlier(earlier))
        .map_err(|error| match error {
            PrivacyError::Config(error) => {
                let section = match error.key.as_str() {
                    "nearest_neighbors" => "evolution",
                    _ => "privacy",
                };
                loaded.locations.invalid(section, error)
            }
            other => loaded.locations.error("privacy", other.to_string()),
        })
}

/// Returns the charges of earlier runs on the same images: those that the run in the folder carries
/// if it is resumed, otherwise those of a run that is moved aside, of the run that is extended, of
/// the run that made the initial samples, and of runs whose samples are declared public images.
fn earlier_runs(
    loaded: &Loaded,
    existing: Existing,
    extends: Option<&RecordedRun>,
) -> Result<Vec<EarlierRun>, PrivacyError> {
    let folder = &loaded.settings.output.folder;
    if existing == Existing::Resume
        && let Some(carried) = EarlierRun::carried_by(folder)?
    {
        return Ok(carried);
    }
    let mut runs = Vec::new();
    if existing == Existing::MoveAside {
        runs.extend(EarlierRun::read(folder)?);
    }
    runs.extend_from_slice(extends.map_or(&[], RecordedRun::charges));
    let initial = loaded.settings.evolution.initial_samples.as_deref();
    if let Some(folder) = initial.and_then(run_of_samples) {
        runs.extend(EarlierRun::read(&folder)?);
    }
    // Samples of a run can be public images for another one.
    let declared = loaded.settings.declared_public();
    for folder in declared.into_iter().filter_map(|(_, path)| run_above(path)) {
        runs.extend(EarlierRun::read(&folder)?);
    }
    Ok(merge_earlier(runs))
}

fn open_generator(
    loaded: &Loaded,
    devices: &Devices,
    progress: &TerminalProgress,
) -> Result<OpenedGenerator, CliError> {
    let model = loaded.settings.model.section();
    let opened = model
        .open(&devices.all(), progress)
        .map_err(|error| model_error(loaded, error))?;
    for warning in &opened.warnings {
        progress.message(&format!("warning: {warning}"));
    }
    Ok(opened)
}

/// Returns the embedder of the private images, if it is not that of the samples, and the name of
/// its device.
fn open_private_embedder(
    loaded: &Loaded,
    embedder: &OpenedEmbedder,
    image_size: (usize, usize),
    devices: &Devices,
    progress: &TerminalProgress,
) -> Result<(Option<Box<dyn Embedder>>, String), CliError> {
    let config = &loaded.settings.embedder;
    let shared = &*embedder.embedder;
    let on_cpu = || {
        let opened = config.embedder.open(image_size, &[Device::Cpu], progress)?;
        Ok(opened.embedder)
    };
    let private_size = loaded.settings.data.image_size.pair();
    let chosen = config
        .private_device
        .choose(shared, private_size, on_cpu)
        .map_err(|error| embedder_error(loaded, "embedder", error))?;
    Ok(match chosen {
        PrivateEmbedder::Shared if shared.overlaps_host_work() => (None, devices.chosen.clone()),
        PrivateEmbedder::Shared => (None, CPU.to_owned()),
        PrivateEmbedder::OnCpu(copy, dependent) => {
            if dependent {
                progress.message(
                    "on this device, the vector of an image depends on its place in the batch: a \
                     copy of the embedder on the CPU embeds the private images \
                     (embedder.private_device)",
                );
            }
            (Some(copy), CPU.to_owned())
        }
    })
}

/// Adds the position of the key in an embedder's section to an error about it.
fn embedder_error(loaded: &Loaded, section: &str, error: EmbedderError) -> CliError {
    match error {
        EmbedderError::Config(error) => loaded.locations.invalid(section, error).into(),
        other => other.into(),
    }
}

/// Adds the position of the key in `[model]` to an error about it.
fn model_error(loaded: &Loaded, error: GeneratorError) -> CliError {
    match error {
        GeneratorError::Config(error) => loaded.locations.invalid("model", error).into(),
        other => other.into(),
    }
}

/// Refuses a plan that does not fit the loaded model: a class without a condition, an unsupported
/// variation degree, or unsuitable initial samples. Nothing has been charged at this point.
fn check_plan(loaded: &Loaded, generator: &dyn Generator, plan: &Plan) -> Result<(), CliError> {
    let conditional = loaded.settings.data.class_conditional;
    for class in &plan.classes {
        let request = ConditionRequest {
            class: Some(class.as_str()).filter(|_| conditional),
            rng_key: RngKey {
                seed: 0,
                phase: Phase::Condition,
                iteration: 0,
                repeat: 0,
                sample: 0,
            },
        };
        generator
            .initial_conditions(&[request])
            .map_err(|error| model_error(loaded, error))?;
    }
    // The first degree is used only for variations of the initial population.
    let unused = usize::from(loaded.settings.evolution.initial_variations == 0);
    for (generation, number) in plan.populations.iter().zip(0..).skip(unused) {
        let vary = Operation::Vary(Variation::new(generation.variation_degree, number));
        generator.evaluations(vary).map_err(|error| {
            let key = "evolution.variation_degree";
            loaded.locations.error(key, error.to_string())
        })?;
    }
    let initial = &loaded.settings.evolution.initial_samples;
    if let (Some(path), Some(layout)) = (initial, plan.layouts.first()) {
        let non_private = plan.privacy.non_private().is_some();
        let needs_parameters = !loaded.settings.model.section().varies_pixels();
        let opened = InitialSamples::open(path, layout, generator, non_private);
        let checked =
            opened.and_then(|samples| samples.check_parameters(path, generator, needs_parameters));
        checked.map_err(|error| {
            let key = "evolution.initial_samples";
            loaded.locations.error(key, error.to_string())
        })?;
    }
    Ok(())
}
