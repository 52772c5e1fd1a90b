//! Destinations of results: `metrics.csv` and pictures, in `private/` unless the reference is
//! public.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{EvaluationError, Guarded};
use crate::artifacts::{ArtifactsError, MetricsLock};
use crate::atomic;
use crate::metrics::MetricKind;
use crate::metrics::table::{csv, merged, rows_of};
use crate::privacy::{
    Fingerprint, PrivateEvaluationConsent, PrivateFolder, Sensitive, print_marked_private,
};

/// Name of the file of all rows.
const METRICS: &str = "metrics.csv";

/// Identity of a set of samples in rows and file names.
#[derive(Debug, Clone)]
pub struct SampleSetId {
    /// First field of a row.
    name: String,
    /// Part of a file name.
    key: String,
}

impl SampleSetId {
    /// A population of a run.
    #[must_use]
    pub fn population(number: u32) -> Self {
        Self {
            name: number.to_string(),
            key: number.to_string(),
        }
    }

    /// A file of samples with this SHA-256 digest.
    #[must_use]
    pub fn file(path: &Path, digest: &str) -> Self {
        Self {
            name: path.display().to_string(),
            // 64 bits: enough to separate the files of one folder.
            key: digest.chars().take(16).collect(),
        }
    }

    /// First field of a row.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Part of a file name.
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// One value of a metric as text.
pub(super) struct Row {
    /// Row of `metrics.csv`.
    pub csv: String,
    /// Line for a terminal.
    pub line: String,
}

/// Identity of the rows of one metric.
pub(super) struct RowsId<'a> {
    /// The samples.
    pub samples: &'a SampleSetId,
    /// The metric.
    pub metric: MetricKind,
    /// Digest of the settings, the last field of each row.
    pub settings: String,
    /// Fingerprint of a private reference.
    pub fingerprint: Option<&'a Sensitive<Fingerprint>>,
}

impl RowsId<'_> {
    /// Name of the private file of these rows.
    fn part(&self) -> String {
        format!(
            "figures-{}-{}-{}",
            self.samples.key, self.metric, self.settings
        )
    }
}

/// Writes results to their destination, and finds results that were written before.
///
/// Private results go to the [`PrivateFolder`] and, marked, to the terminal; no function takes them
/// anywhere else.
pub(super) struct ResultStore {
    /// Folder of public results; `None` for a private reference, or if results are not kept.
    public: Option<PathBuf>,
    /// Folders of private results; `None` for a public reference, or if results are not kept.
    private: Option<PrivateFolders>,
    consent: PrivateEvaluationConsent,
    /// Held as long as results may be written.
    _lock: Option<MetricsLock>,
}

struct PrivateFolders {
    /// `private/`.
    folder: PrivateFolder,
    /// `private/evaluation/`: one file for each metric and population, and cached features.
    parts: PrivateFolder,
}

impl ResultStore {
    /// Opens a store in the folder `root`; without a root, results are only printed.
    ///
    /// # Errors
    /// [`EvaluationError::InUse`] when another process writes metrics there,
    /// [`EvaluationError::Privacy`] when `private/` cannot be used.
    pub(super) fn open(root: Option<&Path>, public: bool) -> Result<Self, EvaluationError> {
        let lock = root.map(lock).transpose()?;
        let private = match root {
            Some(root) if !public => {
                let folder = PrivateFolder::create(root.join("private"))?;
                let parts = folder.inside("evaluation")?;
                Some(PrivateFolders { folder, parts })
            }
            _ => None,
        };
        Ok(Self {
            public: root.filter(|_| public).map(Path::to_owned),
            private,
            // An evaluation is configured in `[evaluation]` or by a command of its own, never by
            // default.
            consent: PrivateEvaluationConsent::given_by_owner(),
            _lock: lock,
        })
    }

    /// Returns true if results are kept in a folder.
    pub(super) fn keeps_results(&self) -> bool {
        self.public.is_some() || self.private.is_some()
    }

    /// Folder for cached features of a private reference.
    pub(super) fn private_cache(&self) -> Option<&PrivateFolder> {
        self.private.as_ref().map(|folders| &folders.parts)
    }

    /// Folder for cached statistics of a public reference.
    pub(super) fn public_cache(&self) -> Option<&Path> {
        self.public.as_deref()
    }

    /// Returns true if these rows were written before.
    pub(super) fn has(&self, id: &RowsId<'_>) -> Result<bool, EvaluationError> {
        if let Some(PrivateFolders { folder, parts }) = &self.private {
            let rows = match id.fingerprint {
                Some(fingerprint) => parts.read_keyed(&id.part(), fingerprint, decode_rows)?,
                None => None,
            };
            let Some(rows) = rows else {
                return Ok(false);
            };
            // The process may have been killed after it wrote the part and before it merged the
            // rows.
            merge(folder, rows)?;
            return Ok(true);
        }
        let Some(root) = &self.public else {
            return Ok(false);
        };
        let (start, end) = (format!("{},", id.samples.name), format!(",{}", id.settings));
        let mut rows = read_rows(&root.join(METRICS))?.into_iter();
        Ok(rows.any(|row| row.starts_with(&start) && row.ends_with(&end)))
    }

    /// Writes rows, and passes their lines to `show`: marked, where they are private.
    pub(super) fn write(
        &self,
        id: &RowsId<'_>,
        rows: &Guarded<Vec<Row>>,
        show: &mut dyn FnMut(&str),
    ) -> Result<(), EvaluationError> {
        match rows {
            Guarded::Private(rows) => {
                if let Some(PrivateFolders { folder, parts }) = &self.private {
                    let texts = rows.map_ref(|rows| csv_rows(rows));
                    if let Some(fingerprint) = id.fingerprint {
                        parts.write_keyed(&id.part(), fingerprint, &texts, encode_rows)?;
                    }
                    merge(folder, texts)?;
                }
                let lines = |rows: &Vec<Row>| rows.iter().map(|row| row.line.clone()).collect();
                print_marked_private(&self.consent, rows, lines, show);
            }
            Guarded::Public(rows) => {
                if let Some(root) = &self.public {
                    let path = root.join(METRICS);
                    let all = merged(read_rows(&path)?, csv_rows(rows));
                    atomic::write(&path, csv(&all).as_bytes())
                        .map_err(ArtifactsError::io(&path))?;
                }
                rows.iter().for_each(|row| show(&row.line));
            }
        }
        Ok(())
    }

    /// Passes a line about a private reference to `show`, with the mark.
    pub(super) fn show_private(&self, line: &Sensitive<String>, show: &mut dyn FnMut(&str)) {
        print_marked_private(&self.consent, line, |line| vec![line.clone()], show);
    }

    /// Writes a file of bytes and returns its path; `None` where results are not kept.
    pub(super) fn write_file(
        &self,
        name: &str,
        bytes: &Guarded<Vec<u8>>,
    ) -> Result<Option<PathBuf>, EvaluationError> {
        match (bytes, &self.private, &self.public) {
            (Guarded::Private(bytes), Some(PrivateFolders { folder, .. }), _) => {
                folder.write_sensitive(name, bytes, |bytes, file| file.write_all(bytes))?;
                Ok(Some(folder.path().join(name)))
            }
            (Guarded::Public(bytes), _, Some(root)) => {
                let path = root.join(name);
                atomic::write(&path, bytes).map_err(ArtifactsError::io(&path))?;
                Ok(Some(path))
            }
            _ => Ok(None),
        }
    }
}

fn csv_rows(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.csv.clone()).collect()
}

fn lock(root: &Path) -> Result<MetricsLock, EvaluationError> {
    let lock = MetricsLock::acquire(root).map_err(ArtifactsError::io(root))?;
    lock.ok_or_else(|| EvaluationError::InUse {
        path: root.to_owned(),
    })
}

/// Reads the rows of a public `metrics.csv`; none if there is no file.
fn read_rows(path: &Path) -> Result<Vec<String>, EvaluationError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(rows_of(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ArtifactsError::io(path)(error).into()),
    }
}

/// Merges rows into `private/metrics.csv`.
fn merge(folder: &PrivateFolder, rows: Sensitive<Vec<String>>) -> Result<(), EvaluationError> {
    let all = match folder.read_back(METRICS, decode_rows)? {
        Some(before) => before.zip(rows, merged),
        None => rows.map(|rows| merged(Vec::new(), rows)),
    };
    folder.write_sensitive(METRICS, &all, encode_rows)?;
    Ok(())
}

// The encoder of a `Sensitive<Vec<String>>` takes a reference to the vector, not to a slice.
#[allow(clippy::ptr_arg)]
fn encode_rows(rows: &Vec<String>, file: &mut dyn Write) -> io::Result<()> {
    file.write_all(csv(rows).as_bytes())
}

fn decode_rows(file: &mut dyn Read) -> io::Result<Vec<String>> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(rows_of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_rows_are_merged_and_kept() {
        let top = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::create(top.path().join("private")).unwrap();
        let row = |text: &str| Sensitive::new(vec![text.to_owned()]);
        merge(&folder, row("1,fid,2.5")).unwrap();
        merge(&folder, row("0,fid,3.5")).unwrap();
        merge(&folder, row("1,fid,2.5")).unwrap();
        let text = std::fs::read_to_string(folder.path().join(METRICS)).unwrap();
        assert!(text.ends_with("settings\n0,fid,3.5\n1,fid,2.5\n"), "{text}");
    }

    #[test]
    fn private_results_never_go_to_the_public_folder() {
        let top = tempfile::tempdir().unwrap();
        let store = ResultStore::open(Some(top.path()), true).unwrap();
        let samples = SampleSetId::population(0);
        let id = RowsId {
            samples: &samples,
            metric: MetricKind::Fid,
            settings: "key".to_owned(),
            fingerprint: None,
        };
        let rows = vec![Row {
            csv: "0,fid,2.5".to_owned(),
            line: "fid 2.5".to_owned(),
        }];
        let mut lines = Vec::new();
        let rows = Guarded::Private(Sensitive::new(rows));
        store
            .write(&id, &rows, &mut |line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["[private, not for release] fid 2.5"]);
        let picture = Guarded::Private(Sensitive::new(vec![1, 2, 3]));
        assert!(store.write_file("picture.png", &picture).unwrap().is_none());
        let files: Vec<_> = std::fs::read_dir(top.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files, [".evaluation.lock"]);
    }
}
