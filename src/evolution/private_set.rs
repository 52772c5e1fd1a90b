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
    // Number and dimension are public; in the name, they need no look through the wall.
    let name = format!("embeddings-{}x{}", images.len(), embedder.dimension());
    let embeddings = match private.read_back(&name, decode)? {
        Some(cached) => cached,
        None => {
            let embeddings = embed(images, embedder, observer)?;
            private.write_sensitive(&name, &embeddings, encode)?;
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
    // `embed_all` has checked every part, so the whole is right too.
    Ok(data.map(|data| Embeddings::new(data, dimension).unwrap_or_else(|| Embeddings::empty(dimension))))
}

/// Number and dimension as u64, then all numbers, little-endian.
fn encode(embeddings: &Embeddings, file: &mut dyn Write) -> io::Result<()> {
    file.write_all(&(embeddings.len() as u64).to_le_bytes())?;
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
    let mut number = || -> io::Result<u64> {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let (count, dimension) = (number()?, number()?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let data = bytes
        .chunks_exact(4)
        .map(|b| b.try_into().map_or(f32::NAN, f32::from_le_bytes))
        .collect();
    usize::try_from(dimension)
        .ok()
        .and_then(|dimension| Embeddings::new(data, dimension))
        .filter(|embeddings| embeddings.len() as u64 == count && bytes.len().is_multiple_of(4))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
