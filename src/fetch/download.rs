//! Downloads a file from its address or a mirror; it gets its final name after the checksum
//! matches.

use std::fs;
use std::path::Path;

use ureq::RequestBuilder;
use ureq::http::Uri;
use ureq::typestate::WithoutBody;

use super::catalogue::Remote;
use super::error::FetchError;
use super::mirrors::Mirrors;
use super::record::{self, Basis, FileRecord};
use crate::hub::sha256_watched;
use crate::net::{
    Agents, AttemptError, ExpectedSize, Origin, PartialFile, RemoteSource, RetryPolicy, Timeouts,
    Transfer, TransferError,
};
use crate::progress::{Progress, Unit};

/// Maximum number of redirects; releases on GitHub need two.
const MAX_REDIRECTS: u32 = 8;

/// Downloads files.
pub(super) struct Downloader<'a> {
    agents: Agents,
    mirrors: &'a Mirrors,
    transfer: Transfer<'a>,
}

/// A file at an HTTP address.
struct Address<'a> {
    agents: &'a Agents,
    url: &'a str,
    uri: Uri,
}

impl RemoteSource for Address<'_> {
    fn url(&self) -> &str {
        self.url
    }

    fn request(&self) -> Result<RequestBuilder<WithoutBody>, AttemptError> {
        let agent = self.agents.choose(&self.uri);
        Ok(agent
            .get(self.uri.clone())
            .config()
            // A request that starts with https must not be redirected to http.
            .https_only(self.uri.scheme_str() == Some("https"))
            .build())
    }
}

impl<'a> Downloader<'a> {
    /// Reads proxies and certificates from the environment; connects to nothing yet.
    ///
    /// # Errors
    /// [`FetchError::HubEnvironment`].
    pub(super) fn new(
        mirrors: &'a Mirrors,
        retry_policy: RetryPolicy,
        progress: &'a dyn Progress,
    ) -> Result<Self, FetchError> {
        Ok(Self {
            agents: Agents::new(Timeouts::Idle(retry_policy.idle_timeout), MAX_REDIRECTS)?,
            mirrors,
            transfer: Transfer {
                retry_policy,
                progress,
            },
        })
    }

    /// Downloads `remote` to `path`, which is absent, and writes its record.
    ///
    /// # Errors
    /// [`FetchError`] of the last address, or at once if no other address can help.
    pub(super) fn download(
        &self,
        item: &str,
        remote: &Remote,
        path: &Path,
    ) -> Result<(), FetchError> {
        let mut problem: Option<FetchError> = None;
        for url in self.mirrors.of(&remote.url, &file_name(path)) {
            if let Some(error) = &problem {
                let line = format!("{error}; trying the next address");
                self.transfer.progress.message(&line);
            }
            match self.download_from(&url, item, remote, path) {
                Ok(()) => return Ok(()),
                // An error of this machine would occur with every address.
                Err(
                    error
                    @ (FetchError::Io { .. } | FetchError::Transfer(TransferError::Io { .. })),
                ) => return Err(error),
                Err(error) => problem = Some(error),
            }
        }
        Err(problem.unwrap_or_else(|| TransferError::refused(&remote.url, "no address").into()))
    }

    /// Downloads from one address.
    fn download_from(
        &self,
        url: &str,
        item: &str,
        remote: &Remote,
        path: &Path,
    ) -> Result<(), FetchError> {
        let uri = url
            .parse()
            .map_err(|_| TransferError::refused(url, "is not an address"))?;
        let agents = &self.agents;
        let source = Address { agents, url, uri };
        let expected = ExpectedSize {
            exact: remote.size,
            approximate: Some(remote.about),
            limit: remote.about.saturating_mul(2),
            has_checksum: remote.sha256.is_some(),
        };
        let (partial, name) = (PartialFile::of(path), file_name(path));
        let resumed = partial.len()? > 0;
        self.transfer.download(&source, expected, &partial, &name)?;
        let result = self.finish(item, url, remote, &partial, path);
        if !resumed || !matches!(result, Err(FetchError::Checksum { .. })) {
            return result;
        }
        // What an earlier send brought may be of another version, or of a mirror that has another
        // file.
        let line = format!("{name}: the existing bytes do not match the rest; restarting");
        self.transfer.progress.message(&line);
        self.transfer.download(&source, expected, &partial, &name)?;
        self.finish(item, url, remote, &partial, path)
    }

    /// Checks the received file and moves it to its final path.
    fn finish(
        &self,
        item: &str,
        url: &str,
        remote: &Remote,
        partial: &PartialFile,
        path: &Path,
    ) -> Result<(), FetchError> {
        partial.sync()?;
        let size = partial.len()?;
        let found = checksum(partial.path(), &file_name(path), self.transfer.progress)?;
        if let Some(expected) = &remote.sha256
            && *expected != found
        {
            partial.remove()?;
            return Err(FetchError::Checksum {
                url: url.to_owned(),
                expected: expected.clone(),
                found,
            });
        }
        let basis = match remote.sha256 {
            Some(_) => Basis::Catalogue,
            None => Basis::FirstDownload,
        };
        let file = FileRecord {
            item: item.to_owned(),
            url: Some(url.to_owned()),
            size,
            sha256: found,
            basis,
            validator: partial.origin()?.and_then(|origin| origin.validator),
        };
        // Written before the file, so that a crash in between costs only another checksum.
        record::write(&record::of_file(path), &file)?;
        Ok(partial.publish(path)?)
    }
}

/// Returns the SHA-256 of a file and reports progress.
pub(super) fn checksum(
    path: &Path,
    name: &str,
    progress: &dyn Progress,
) -> Result<String, FetchError> {
    let failed = FetchError::io(path);
    let size = fs::metadata(path).map_err(&failed)?.len();
    progress.begin(&format!("checking {name}"), Some(size), Unit::Bytes);
    let sum = sha256_watched(path, &mut |done| progress.advance(done));
    progress.end();
    sum.map_err(failed)
}

/// Turns an incomplete file into a partial download.
pub(super) fn mark_incomplete(path: &Path) -> Result<(), FetchError> {
    let record = record::of_file(path);
    let known: Option<FileRecord> = record::read(&record)?;
    let origin = known.map(|known| Origin {
        url: known.url.unwrap_or_default(),
        validator: known.validator,
    });
    PartialFile::of(path).adopt(path, origin.as_ref())?;
    record::remove(&record)
}

/// A path's last partial, for people.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
