//! One file from its address or a mirror, checked, and in its place only when it is whole and right.

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
    Agents, Extent, Limits, Origin, Part, Patience, Setback, Source, Transfer, TransferError,
};
use crate::progress::{Progress, Unit};

/// Releases are often redirected, and more than once.
const MAX_REDIRECTS: u32 = 8;

/// Downloads files.
pub(super) struct Downloader<'a> {
    agents: Agents,
    mirrors: &'a Mirrors,
    transfer: Transfer<'a>,
}

/// A file behind a plain address.
struct Address<'a> {
    agents: &'a Agents,
    url: &'a str,
    uri: Uri,
}

impl Source for Address<'_> {
    fn url(&self) -> &str {
        self.url
    }

    fn request(&self) -> Result<RequestBuilder<WithoutBody>, Setback> {
        let agent = self.agents.choose(&self.uri);
        Ok(agent
            .get(self.uri.clone())
            .config()
            // What begins safely is not redirected into the open.
            .https_only(self.uri.scheme_str() == Some("https"))
            .build())
    }
}

impl<'a> Downloader<'a> {
    /// Reads proxies and certificates from the environment; connects to nothing yet.
    ///
    /// # Errors
    /// [`FetchError::Environment`].
    pub(super) fn new(
        mirrors: &'a Mirrors,
        patience: Patience,
        progress: &'a dyn Progress,
    ) -> Result<Self, FetchError> {
        Ok(Self {
            agents: Agents::new(Limits::Silence(patience.silence), MAX_REDIRECTS)?,
            mirrors,
            transfer: Transfer { patience, progress },
        })
    }

    /// Downloads `remote` to `path`, which is absent, and writes its record.
    ///
    /// # Errors
    /// [`FetchError`]: of the last address that was tried, or at once where no other address can help.
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
                // It is this machine that is at fault.
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
            .map_err(|_| TransferError::refused(url, "is no address"))?;
        let agents = &self.agents;
        let source = Address { agents, url, uri };
        let extent = Extent {
            size: remote.size,
            about: Some(remote.about),
            most: remote.about.saturating_mul(2),
            checked: remote.sha256.is_some(),
        };
        let (part, name) = (Part::of(path), file_name(path));
        let patched = part.len()? > 0;
        self.transfer.fill(&source, extent, &part, &name)?;
        let result = self.finish(item, url, remote, &part, path);
        if !patched || !matches!(result, Err(FetchError::Checksum { .. })) {
            return result;
        }
        // What an earlier call brought may be of another version, or of a mirror that has another file.
        let line = format!("{name}: what was here does not fit the rest: beginning anew");
        self.transfer.progress.message(&line);
        self.transfer.fill(&source, extent, &part, &name)?;
        self.finish(item, url, remote, &part, path)
    }

    /// Checks what has arrived and puts it into its place.
    fn finish(
        &self,
        item: &str,
        url: &str,
        remote: &Remote,
        part: &Part,
        path: &Path,
    ) -> Result<(), FetchError> {
        part.sync()?;
        let size = part.len()?;
        let found = checksum(part.path(), &file_name(path), self.transfer.progress)?;
        if let Some(expected) = &remote.sha256
            && *expected != found
        {
            part.remove()?;
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
            validator: part.origin()?.and_then(|origin| origin.validator),
        };
        // Before the file: without a record it would only be read once more.
        record::write(&record::of_file(path), &file)?;
        Ok(part.place(path)?)
    }
}

/// SHA-256 of a file, watched.
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

/// Turns a file that is too short into the beginning of its download.
pub(super) fn demote(path: &Path) -> Result<(), FetchError> {
    let record = record::of_file(path);
    let known: Option<FileRecord> = record::read(&record)?;
    let origin = known.map(|known| Origin {
        url: known.url.unwrap_or_default(),
        validator: known.validator,
    });
    Part::of(path).take(path, origin.as_ref())?;
    record::remove(&record)
}

/// A path's last part, for people.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
