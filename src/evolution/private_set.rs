//! The private images on their way to the vote: checked, fingerprinted, embedded, and never kept as images.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::lookahead::embed_all;
use super::{EvolutionError, Observer};
use crate::embedders::{Embedder, Embeddings};
use crate::images::PrivateImages;
use crate::privacy::{Fingerprint, PrivateFolder, Sensitive};
use crate::voting::PrivateVoters;

/// Images read at a time.
const CHUNK: usize = 512;
/// The embeddings' name in the private folder.
const CACHE: &str = "embeddings";

/// Reads every private image once, so that a broken one is found before anything is spent, and fingerprints
/// the lot.
///
/// # Errors
/// [`EvolutionError::Images`] naming the file.
pub fn check(
    images: &mut PrivateImages,
    observer: &dyn Observer,
) -> Result<Sensitive<Fingerprint>, EvolutionError> {
    let total = images.len();
    observer.begin("checking private images", total as u64);
    let mut digests = Vec::new();
    for start in (0..total).step_by(CHUNK) {
        if observer.interrupted() {
            observer.end();
            return Err(EvolutionError::Interrupted);
        }
        let batch = images.check(start..(start + CHUNK).min(total))?;
        digests.push(batch.map_ref(|batch| Sha256::digest(batch.data()).to_vec()));
        observer.advance((start + CHUNK).min(total) as u64);
    }
    observer.end();
    let labels = images.labels().map_ref(|labels| {
        labels.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<u8>>()
    });
    let classes = images.classes().join("\n");
    let all = digests
        .into_iter()
        .fold(labels.map(|labels| vec![labels]), |all, digest| {
            all.zip(digest, |mut all, digest| {
                all.push(digest);
                all
            })
        });
    Ok(all.map(|all| {
        Fingerprint::of(std::iter::once(classes.as_bytes()).chain(all.iter().map(Vec::as_slice)))
    }))
}

/// The private images' embeddings, split by class: from the run's private folder if they are there, else
/// computed and put there.
///
/// The cache belongs to this run: its ledger has already established that images and configuration are the
/// same.
///
/// # Errors
/// See [`EvolutionError`].
pub fn voters(
    images: &PrivateImages,
    embedder: &dyn Embedder,
    private: &PrivateFolder,
    observer: &dyn Observer,
) -> Result<PrivateVoters, EvolutionError> {
    let (count, dimension) = (images.len(), embedder.dimension());
    let cached = private.read_back(CACHE, decode)?;
    // Only the (public) shape is looked at.
    let cached = match cached {
        Some(cached) if cached.has_shape(count, dimension) => Some(cached),
        _ => None,
    };
    let embeddings = match cached {
        Some(cached) => cached,
        None => {
            let embeddings = embed(images, embedder, observer)?;
            private.write_sensitive(CACHE, &embeddings, encode)?;
            embeddings
        }
    };
    Ok(PrivateVoters::new(
        embeddings,
        images.labels(),
        images.classes().len(),
    ))
}

fn embed(
    images: &PrivateImages,
    embedder: &dyn Embedder,
    observer: &dyn Observer,
) -> Result<Sensitive<Embeddings>, EvolutionError> {
    let (total, dimension) = (images.len(), embedder.dimension());
    observer.begin("embedding private images", total as u64);
    let mut data = Sensitive::new(Vec::with_capacity(total * dimension));
    for start in (0..total).step_by(CHUNK) {
        if observer.interrupted() {
            observer.end();
            return Err(EvolutionError::Interrupted);
        }
        let end = (start + CHUNK).min(total);
        let batch = images.read(start..end)?;
        let embedded = batch.try_map_ref(|batch| embed_all(embedder, batch))?;
        data = data.zip(embedded, |mut data: Vec<f32>, embedded| {
            data.extend(embedded.into_data());
            data
        });
        observer.advance(end as u64);
    }
    observer.end();
    data.try_map_ref(|data| {
        Embeddings::new(data.clone(), dimension).ok_or_else(|| {
            EvolutionError::State("the embedder returned vectors of another dimension".to_owned())
        })
    })
}

/// Dimension as u64, then all numbers, little-endian.
fn encode(embeddings: &Embeddings, file: &mut dyn Write) -> io::Result<()> {
    file.write_all(&(embeddings.dimension() as u64).to_le_bytes())?;
    let mut bytes = Vec::new();
    for chunk in embeddings.data().chunks(1 << 16) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn decode(file: &mut dyn Read) -> io::Result<Embeddings> {
    let mut dimension = [0; 8];
    file.read_exact(&mut dimension)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let data = bytes
        .chunks_exact(4)
        .map(|b| b.try_into().map_or(f32::NAN, f32::from_le_bytes))
        .collect();
    usize::try_from(u64::from_le_bytes(dimension))
        .ok()
        .and_then(|dimension| Embeddings::new(data, dimension))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
