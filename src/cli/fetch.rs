//! `dpsyn fetch`: downloads weights and data sets and verifies installed ones.

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

/// One requested item.
struct Request {
    item: Item,
    /// The requested folders of the item; empty for all.
    splits: Vec<String>,
    root: PathBuf,
}

/// Executes `dpsyn fetch`.
pub(super) fn run(arguments: &FetchArguments) -> Result<(), CliError> {
    let catalogue = catalogue(arguments)?;
    let settings = match &arguments.config {
        Some(path) => Some(Settings::load(path, &arguments.set)?.settings),
        None => None,
    };
    let (mut requests, nowhere) = requested(arguments, &catalogue, settings.as_ref())?;
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
        return fetch(requests, nowhere, &options, &progress);
    }
    let named = !requests.is_empty() || !nowhere.is_empty();
    if !named {
        requests.extend(catalogue.items().iter().map(|item| Request {
            item: item.clone(),
            splits: Vec::new(),
            root: options.root.clone(),
        }));
    }
    verify(&requests, &nowhere, named, &options, &progress)
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

/// Returns the items requested by name and by a configuration, and the required paths that no item
/// provides.
fn requested(
    arguments: &FetchArguments,
    catalogue: &Catalogue,
    settings: Option<&Settings>,
) -> Result<(Vec<Request>, Vec<PathBuf>), FetchError> {
    let (mut requests, mut nowhere) = (Vec::new(), Vec::new());
    for name in &arguments.names {
        let item = catalogue.get(name)?.clone();
        let request = Request {
            item,
            splits: Vec::new(),
            root: arguments.root.clone().unwrap_or_default(),
        };
        add(&mut requests, request);
    }
    for (need, _) in settings.map(requirements).unwrap_or_default() {
        match request(need, catalogue) {
            Ok(request) => request
                .into_iter()
                .for_each(|request| add(&mut requests, request)),
            Err(path) => nowhere.push(path),
        }
    }
    Ok((requests, nowhere))
}

/// Adds a request, or merges it into one for the same item.
fn add(requests: &mut Vec<Request>, request: Request) {
    let same = |other: &&mut Request| other.item == request.item && other.root == request.root;
    match requests.iter_mut().find(same) {
        Some(other) if other.splits.is_empty() || request.splits.is_empty() => other.splits.clear(),
        Some(other) => other.splits.extend(request.splits),
        None => requests.push(request),
    }
}

/// Returns the request that satisfies a requirement; `None` if it is satisfied already.
///
/// # Errors
/// Returns the path if no item provides it.
fn request(need: Requirement, catalogue: &Catalogue) -> Result<Option<Request>, PathBuf> {
    match need {
        Requirement::Path(path) => match catalogue.find_by_path(&path) {
            Some(maker) => Ok(Some(Request {
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
                    license: String::new(),
                    content: Content::Hub(Hub {
                        repo: id,
                        revision,
                        files: files.collect(),
                        about: None,
                    }),
                },
                (None, None) => return Err(PathBuf::from(id)),
            };
            Ok(Some(Request {
                item,
                splits: Vec::new(),
                root: PathBuf::new(),
            }))
        }
    }
}

fn fetch(
    mut requests: Vec<Request>,
    nowhere: Vec<PathBuf>,
    options: &Options,
    progress: &TerminalProgress,
) -> Result<(), CliError> {
    // Manual downloads come last, so that their instructions remain visible.
    requests.sort_by_key(|request| matches!(request.item.content, Content::Manual { .. }));
    let requested = requests.len() + nowhere.len();
    let mut errors = Vec::new();
    for request in &requests {
        let options = Options {
            root: request.root.clone(),
            ..options.clone()
        };
        let splits: Vec<&str> = request.splits.iter().map(String::as_str).collect();
        let result = Fetcher::new(&options, progress).fetch(&request.item, Some(&splits));
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
        super::output::report_error(error);
    }
    match errors.len() {
        0 => Ok(()),
        failed => Err(FetchError::Some {
            failed,
            asked: requested,
        }
        .into()),
    }
}

fn verify(
    requests: &[Request],
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
    for request in requests {
        let options = Options {
            root: request.root.clone(),
            ..options.clone()
        };
        let splits = request.splits.clone();
        let mut item = request.item.clone();
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
                Verdict::Intact(how) => format!("{path}: intact: {how}"),
                Verdict::Unknown(why) => format!("{path}: unknown: {why}"),
            };
            seen += 1;
            super::output::print(&line);
        }
    }
    if seen == 0 && count == 0 {
        super::output::print(&"no item of the catalogue is installed");
    }
    match count {
        0 => Ok(()),
        count => Err(FetchError::Damaged { count }.into()),
    }
}

fn list(catalogue: &Catalogue, fetcher: &Fetcher<'_>) {
    let mut rows = vec![["name", "size", "installed", "license", "content"].map(str::to_owned)];
    for item in catalogue.items() {
        let installed = match fetcher.install_state(item) {
            InstallState::Installed => "yes",
            InstallState::Partial => "partial",
            InstallState::Missing => "no",
        };
        rows.push([
            item.name.clone(),
            item.about().map_or_else(|| "manual".to_owned(), bytes),
            installed.to_owned(),
            item.license.clone(),
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
