//! Entry points of the fuzz targets into the readers of containers.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::idx::IdxImages;
use super::parquet::ParquetImages;
use super::tar::WebDataset;
use super::{Container, Stored};
use crate::images::error::ImagesError;

/// Images of a container that are read.
const MAX_READ: usize = 64;
/// Bytes of a tar block.
const BLOCK: usize = 512;

/// Reads `data` as the images and as the labels of an IDX file, plain and gzipped.
pub(crate) fn idx(data: &[u8]) {
    let one_image = [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1], &[7][..]].concat();
    let gzipped = gzip(data);
    for (images, labels) in [
        (
            ("train-images-idx3-ubyte", data),
            ("train-labels-idx1-ubyte", data),
        ),
        (
            ("train-images-idx3-ubyte.gz", gzipped.as_slice()),
            ("train-labels-idx1-ubyte.gz", data),
        ),
        (
            ("train-images-idx3-ubyte", one_image.as_slice()),
            ("train-labels-idx1-ubyte", data),
        ),
    ] {
        in_folder(&[images, labels], |folder| {
            IdxImages::open(folder, Some("train"))
        });
    }
}

/// Reads `data` as a tar file of samples, also with the checksums of its headers put right: without
/// them a fuzzer would not get beyond the first header.
pub(crate) fn webdataset(data: &[u8]) {
    for shard in [data.to_vec(), with_checksums(data)] {
        in_folder(&[("train-0.tar", &shard)], |folder| {
            WebDataset::open(folder, None)
        });
    }
}

/// Reads `data` as a Parquet file.
pub(crate) fn parquet(data: &[u8]) {
    in_folder(&[("train.parquet", data)], |folder| {
        ParquetImages::open(folder, Some("train"))
    });
}

/// Writes files to a temporary folder, and reads the container that `open` finds there.
fn in_folder<C: Container>(
    files: &[(&str, &[u8])],
    open: impl FnOnce(&Path) -> Result<C, ImagesError>,
) {
    // Without a place for temporary files there is nothing to test.
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    for (name, bytes) in files {
        if std::fs::write(folder.path().join(name), bytes).is_err() {
            return;
        }
    }
    if let Ok(mut container) = open(folder.path()) {
        read(&mut container);
    }
}

/// Reads what a container has, and checks what the trait promises.
fn read(container: &mut impl Container) {
    let len = container.len();
    let mut labels = 0;
    if container.labels(&mut |_| labels += 1).is_ok() {
        assert_eq!(labels, len, "labels were lost or invented");
    }
    if let Ok(clients) = container.clients() {
        assert_eq!(clients.len(), len, "clients were lost or invented");
    }
    let first: Vec<usize> = (0..len.min(MAX_READ)).collect();
    let every_other: Vec<usize> = first.iter().copied().step_by(2).collect();
    for indices in [first, every_other] {
        let Ok(images) = container.read(&indices) else {
            continue;
        };
        assert_eq!(images.len(), indices.len(), "images were lost or invented");
        for (index, image) in indices.into_iter().zip(images) {
            let _ = (container.name(index), container.key(index));
            let _ = container.stored_len(index);
            if let Stored::Pixels(image) = image {
                assert_eq!(image.pixels.len(), 3 * image.height * image.width);
            }
        }
    }
    let _ = container.end();
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail; an empty file is a valid input all the same.
    let _ = encoder.write_all(data);
    encoder.finish().unwrap_or_default()
}

/// Puts the checksum of each header in a tar file right, as far as their sizes lead.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + BLOCK) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        // Zeros end the archive, and have no checksum.
        if block.iter().any(|byte| *byte != 0) {
            block.copy_from_slice(header.as_bytes());
        }
        let size = header.entry_size().unwrap_or(0).min(data.len() as u64) as usize;
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    tar
}
