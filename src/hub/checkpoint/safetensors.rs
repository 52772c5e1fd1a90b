//! The table of a `.safetensors` file, parsed and validated by the `safetensors` crate. This module
//! adds what the crate cannot do for a file that is not in memory: a bound on the header, a
//! comparison with the length of the file, and names in the errors.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use ::safetensors::SafeTensorError;
use ::safetensors::tensor::{Dtype, Metadata, TensorInfo};
use candle_core::DType;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::stored::{Storage, StoredTensor};
use super::{Table, TableError};

/// Largest accepted header: the largest published models have a few megabytes. The crate's own
/// bound of 100 MB would let a small hostile file allocate several times that while it is parsed.
const MAX_HEADER: u64 = 32 << 20;
/// The entry of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// Reads the table of tensors.
///
/// # Errors
/// [`TableError`] if the header is malformed, or its tensors leave gaps, overlap, disagree with
/// their shapes or do not fill the file.
pub(super) fn read(file: &mut File) -> Result<Table, TableError> {
    let file_len = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    let mut word = [0; 8];
    file.read_exact(&mut word)?;
    let header_len = u64::from_le_bytes(word);
    if header_len > MAX_HEADER || header_len.saturating_add(8) > file_len {
        return Err(format!(
            "its header is {header_len} bytes long, expected at most {MAX_HEADER} and no more than \
             the file, which has {file_len}"
        )
        .into());
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact(&mut header)?;
    parse(&header, 8 + header_len, file_len)
}

/// Parses a header. Offsets in the header count from `data`, a position in the file.
fn parse(header: &[u8], data: u64, file_len: u64) -> Result<Table, TableError> {
    let Header(mut tensors) = serde_json::from_slice(header)
        .map_err(|error| format!("its header is not a safetensors header: {error}"))?;
    // `Metadata::new` expects the order of the data.
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let checked = tensors.clone();
    let metadata = Metadata::new(None, checked).map_err(|error| explain(&tensors, error))?;
    let (described, available) = (metadata.data_len() as u64, file_len - data);
    if described != available {
        return Err(format!(
            "its tensors take {described} bytes, and {available} bytes follow the header"
        )
        .into());
    }
    let mut table = Table::new();
    for (name, info) in tensors {
        let invalid = |message: String| TableError::Format(format!("tensor {name}: {message}"));
        let dtype = dtype(info.dtype)
            .ok_or_else(|| invalid(format!("type {} is not supported", info.dtype)))?;
        let (begin, end) = info.data_offsets;
        let storage = Storage {
            dtype,
            start: data + begin as u64,
            len: (end - begin) as u64,
        };
        let stored = StoredTensor::contiguous(storage, info.shape).map_err(invalid)?;
        table.insert(name, stored);
    }
    Ok(table)
}

/// Names the tensor at fault where the crate's error does not.
fn explain(tensors: &[(String, TensorInfo)], error: SafeTensorError) -> String {
    if let SafeTensorError::InvalidOffset(name) = &error {
        let at = tensors.iter().position(|(other, _)| other == name);
        let offsets = at.and_then(|at| Some(tensors.get(at)?.1.data_offsets));
        let expected = at.and_then(|at| Some(tensors.get(at.checked_sub(1)?)?.1.data_offsets.1));
        if let Some((begin, end)) = offsets {
            let expected = expected.unwrap_or(0);
            return format!(
                "tensor {name}: its data is at bytes {begin} to {end}, expected to begin at \
                 {expected}, without a gap or an overlap"
            );
        }
    }
    let alone = |(name, info): &&(String, TensorInfo)| {
        let (begin, end) = info.data_offsets;
        let info = TensorInfo {
            data_offsets: (0, end.saturating_sub(begin)),
            ..info.clone()
        };
        Metadata::new(None, vec![(name.clone(), info)]).is_err()
    };
    match tensors.iter().find(alone) {
        Some((name, info)) => {
            let (begin, end) = info.data_offsets;
            format!(
                "tensor {name}: type {} and shape {:?} do not fit its {} bytes: {error}",
                info.dtype,
                info.shape,
                end.saturating_sub(begin)
            )
        }
        None => error.to_string(),
    }
}

/// The tensors of a header, each name once. The crate's own map keeps the last of two entries with
/// one name, which would hide the other from every check.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    let named =
                        |error: A::Error| A::Error::custom(format!("tensor {name}: {error}"));
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info = map.next_value().map_err(named)?;
                    tensors.push((name, info));
                }
                Ok(Header(tensors))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Maps a type of the format to candle's; `None` for types that no supported model uses.
fn dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::BOOL | Dtype::U8 => DType::U8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        _ => return None,
    })
}
