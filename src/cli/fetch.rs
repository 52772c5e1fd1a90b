//! `dpsyn fetch`: weights and data sets into their places.

use std::path::PathBuf;

use super::args::FetchArguments;
use super::error::CliError;
use super::missing::requirements;
use super::progress::{TerminalProgress, stop_on_interrupt};
use super::units::bytes;
use crate::config::Settings;
use crate::fetch::{
    Catalogue, Content, FetchError, Fetcher, Hub, InstallState, Item, Mirrors, Options,
    RetryPolicy, Verdict,
};
use crate::hub::Requirement;
use crate::net::Offline;
use crate::progress::Progress as _;

/// Something that is asked for.
struct Want {
    item: Item,
    /// Folders of it; empty for all.
    splits: Vec<String>,
    root: PathBuf,
}

/// Runs the command.
pub(super) fn run(arguments: &FetchArguments) -> Result<(), CliError> {
    let catalogue = catalogue(arguments)?;
    let settings = match &arguments.config {
        Some(path) => Some(Settings::load(path, &arguments.set)?.settings),
        None => None,
    };
    let (mut wants, nowhere) = wanted(arguments, &catalogue, settings.as_ref())?;
    let mirrors = settings.map(|settings| settings.mirrors);
    let options = Options {
        root: arguments.root.clone().unwrap_or_default(),
        keep_archives: arguments.keep_archives,
        mirrors: Mirrors::new(mirrors.unwrap_or_default()).map_err(FetchError::from)?,
        retry_policy: RetryPolicy::default(),
        offline: Offline::downloads(),
    };
    let progress = TerminalProgress::new();
    if arguments.list {
        list(&catalogue, &Fetcher::new(&options, &progress));
        return Ok(());
    }
    stop_on_interrupt()?;
    if !arguments.verify {
        return fetch(wants, nowhere, &options, &progress);
    }
    let named = !wants.is_empty() || !nowhere.is_empty();
    if !named {
        wants.extend(catalogue.items().iter().map(|item| Want {
            item: item.clone(),
            splits: Vec::new(),
            root: options.root.clone(),
        }));
    }
    verify(&wants, &nowhere, named, &options, &progress)
}

fn catalogue(arguments: &FetchArguments) -> Result<Catalogue, FetchError> {
    let Some(path) = &arguments.catalogue else {
        return Catalogue::built_in();
    };
    let place = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Catalogue::parse(&place, &text),
        Err(source) => Err(FetchError::Catalogue {
            place,
            message: source.to_string(),
        }),
    }
}

/// What is asked for by name and by a configuration, and what of this nothing can get.
fn wanted(
    arguments: &FetchArguments,
    catalogue: &Catalogue,
    settings: Option<&Settings>,
) -> Result<(Vec<Want>, Vec<PathBuf>), FetchError> {
    let (mut wants, mut nowhere) = (Vec::new(), Vec::new());
    for name in &arguments.names {
        let item = catalogue.get(name)?.clone();
        let want = Want {
            item,
            splits: Vec::new(),
            root: arguments.root.clone().unwrap_or_default(),
        };
        add(&mut wants, want);
    }
    for (need, _) in settings.map(requirements).unwrap_or_default() {
        match want(need, catalogue) {
            Ok(want) => want.into_iter().for_each(|want| add(&mut wants, want)),
            Err(path) => nowhere.push(path),
        }
    }
    Ok((wants, nowhere))
}

/// One item is asked for once.
fn add(wants: &mut Vec<Want>, want: Want) {
    let same = |other: &&mut Want| other.item == want.item && other.root == want.root;
    match wants.iter_mut().find(same) {
        Some(other) if other.splits.is_empty() || want.splits.is_empty() => other.splits.clear(),
        Some(other) => other.splits.extend(want.splits),
        None => wants.push(want),
    }
}

/// What gets a need; `None` if nothing has to be got.
///
/// # Errors
/// The path, if nothing can get it.
fn want(need: Requirement, catalogue: &Catalogue) -> Result<Option<Want>, PathBuf> {
    match need {
        Requirement::Path(path) => match catalogue.find_by_path(&path) {
            Some(maker) => Ok(Some(Want {
                item: maker.item.clone(),
                splits: maker
                    .folder
                    .iter()
                    .map(|folder| folder.split.clone())
                    .collect(),
                root: maker.root,
            })),
            None if path.exists() => Ok(None),
            None => Err(path),
        },
        Requirement::Repository {
            id,
            revision,
            files,
        } => {
            let known = catalogue.items().iter().find(|item| match &item.content {
                Content::Hub(hub) => hub.repo == id && Some(&hub.revision) == revision.as_ref(),
                _ => false,
            });
            let files = files.iter();
            let files = files.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            let item = match (known, revision) {
                (Some(item), _) => item.clone(),
                (None, Some(revision)) => Item {
                    name: id.clone(),
                    what: String::new(),
                    licence: String::new(),
                    content: Content::Hub(Hub {
                        repo: id,
                        revision,
                        files: files.collect(),
                        about: None,
                    }),
                },
                (None, None) => return Err(PathBuf::from(id)),
            };
            Ok(Some(Want {
                item,
                splits: Vec::new(),
                root: PathBuf::new(),
            }))
        }
    }
}

fn fetch(
    mut wants: Vec<Want>,
    nowhere: Vec<PathBuf>,
    options: &Options,
    progress: &TerminalProgress,
) -> Result<(), CliError> {
    // What the user has to do comes last, so that it is not scrolled away.
    wants.sort_by_key(|want| matches!(want.item.content, Content::Manual { .. }));
    let asked = wants.len() + nowhere.len();
    let mut errors = Vec::new();
    for want in &wants {
        let options = Options {
            root: want.root.clone(),
            ..options.clone()
        };
        let splits: Vec<&str> = want.splits.iter().map(String::as_str).collect();
        let result = Fetcher::new(&options, progress).fetch(&want.item, Some(&splits));
        progress.end();
        if let Err(error) = result {
            errors.push(error);
        }
    }
    errors.extend(nowhere.into_iter().map(|path| FetchError::Nowhere { path }));
    if errors.len() == 1
        && let Some(error) = errors.pop()
    {
        return Err(error.into());
    }
    for error in &errors {
        super::output::eprint_line(&format!("error: {error}"));
    }
    match errors.len() {
        0 => Ok(()),
        failed => Err(FetchError::Some { failed, asked }.into()),
    }
}

fn verify(
    wants: &[Want],
    nowhere: &[PathBuf],
    named: bool,
    options: &Options,
    progress: &TerminalProgress,
) -> Result<(), CliError> {
    let mut count = nowhere.len();
    for path in nowhere {
        super::output::print(&format!("{}: missing", path.display()));
    }
    let mut seen = 0;
    for want in wants {
        let options = Options {
            root: want.root.clone(),
            ..options.clone()
        };
        let splits = want.splits.clone();
        let mut item = want.item.clone();
        if let Content::Archive { folders, .. } | Content::Manual { folders, .. } =
            &mut item.content
        {
            folders.retain(|folder| splits.is_empty() || splits.contains(&folder.split));
        }
        for finding in Fetcher::new(&options, progress).verify(&item)? {
            let path = finding.path.display();
            let line = match finding.verdict {
                Verdict::Missing if !named => continue,
                Verdict::Missing => {
                    count += 1;
                    format!("{path}: missing")
                }
                Verdict::Damaged(what) => {
                    count += 1;
                    format!("{path}: DAMAGED: {what}")
                }
                Verdict::Intact(how) => format!("{path}: sound: {how}"),
                Verdict::Unknown(why) => format!("{path}: unknown: {why}"),
            };
            seen += 1;
            super::output::print(&line);
        }
    }
    if seen == 0 && count == 0 {
        super::output::print(&"nothing of the catalogue is here");
    }
    match count {
        0 => Ok(()),
        count => Err(FetchError::Damaged { count }.into()),
    }
}

fn list(catalogue: &Catalogue, fetcher: &Fetcher<'_>) {
    let mut rows = vec![["name", "size", "here", "licence", "what"].map(str::to_owned)];
    for item in catalogue.items() {
        let here = match fetcher.install_state(item) {
            InstallState::Installed => "yes",
            InstallState::Partial => "partly",
            InstallState::Missing => "no",
        };
        rows.push([
            item.name.clone(),
            item.about().map_or_else(|| "by hand".to_owned(), bytes),
            here.to_owned(),
            item.licence.clone(),
            item.what.clone(),
        ]);
    }
    for row in &rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let cells = rows.iter().filter_map(|row| row.get(index));
            let width = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            line.push_str(&format!("{cell:width$}  "));
        }
        super::output::print(&line.trim_end());
    }
}
