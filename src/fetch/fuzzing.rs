//! Entry points of the fuzz targets into readers that are private to this room.

use std::io::Write;
use std::ops::ControlFlow;

use super::catalogue::Catalogue;
use super::staged_dir::{StagedDir, TargetDir};
use super::{archive, camelyon17, cats, cifar10};
use crate::progress::Silent;

/// Reads `data` as a `.tar.gz`, as the `.tar` inside one, and as the `.zip` archive of the cats.
pub(crate) fn archive(data: &[u8], limit: u64) {
    let mut take = |found: &mut archive::ArchiveEntry<'_>| {
        found.read(limit)?;
        Ok(ControlFlow::Continue(()))
    };
    // Gzip has a checksum, which hides the tar reader from a fuzzer.
    let _ = archive::for_each_entry(data, &|| (), &mut take);
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let path = folder.path().join("archive");
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(data));
    if written.is_err() {
        return;
    }
    let _ = archive::for_each_file(&path, limit, &Silent, &mut take);
    let Ok(partial) = StagedDir::begin(&folder.path().join("cookie")) else {
        return;
    };
    let wanted = [TargetDir {
        split: "cookie".to_owned(),
        images: 1,
        folder: partial,
    }];
    let _ = cats::unpack(&path, limit, &wanted, &Silent);
}

/// Reads `data` as a catalogue, as the table of Camelyon17, and as a name in the CIFAR-10 archive.
pub(crate) fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Catalogue::parse("fuzz", &text);
    let _ = camelyon17::parse(data, &["train", "test"]);
    let _ = cifar10::batch(&text);
}
