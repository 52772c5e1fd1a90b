//! The table of a `.safetensors` file (format: huggingface/safetensors, README).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use candle_core::DType;
use serde::Deserialize;
use serde_json::Value;

use super::stored::{Storage, StoredTensor};
use super::{Table, TableError};

/// Real headers have a few hundred kilobytes.
const MAX_HEADER: u64 = 32 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

pub(super) fn read(file: &mut File) -> Result<Table, TableError> {
    let file_len = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    let mut word = [0; 8];
    file.read_exact(&mut word)?;
    let header_len = u64::from_le_bytes(word);
    if header_len > MAX_HEADER || header_len.saturating_add(8) > file_len {
        return Err(
            format!("it claims a header of {header_len} bytes in a file of {file_len}").into(),
        );
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact(&mut header)?;
    parse(&header, 8 + header_len, file_len)
}

/// `data` is where the header's offsets count from.
fn parse(header: &[u8], data: u64, file_len: u64) -> Result<Table, TableError> {
    let entries: BTreeMap<String, Value> = serde_json::from_slice(header)
        .map_err(|error| format!("the header is not what safetensors has: {error}"))?;
    let mut table = Table::new();
    let mut ranges = Vec::new();
    for (name, entry) in entries {
        if name == "__metadata__" {
            continue;
        }
        let wrong = |message: String| TableError::Format(format!("tensor {name}: {message}"));
        let entry: Entry = serde_json::from_value(entry).map_err(|e| wrong(e.to_string()))?;
        let dtype = dtype(&entry.dtype)
            .ok_or_else(|| wrong(format!("type {:?} is not supported", entry.dtype)))?;
        let (begin, end) = entry.data_offsets;
        let len = end
            .checked_sub(begin)
            .filter(|_| end <= file_len - data)
            .ok_or_else(|| wrong(format!("bytes {begin} to {end} are not in the file")))?;
        let storage = Storage {
            dtype,
            start: data + begin,
            len,
        };
        let stored = StoredTensor::contiguous(storage, entry.shape).map_err(wrong)?;
        ranges.push((begin, end));
        table.insert(name, stored);
    }
    // The format knows neither gaps nor overlaps; this also finds a name given twice.
    ranges.sort_unstable();
    let mut expected = 0;
    for (begin, end) in ranges {
        if begin != expected {
            return Err(
                format!("tensor data begins at {begin} where {expected} was expected").into(),
            );
        }
        expected = end;
    }
    if expected != file_len - data {
        return Err(format!(
            "tensors take {expected} bytes and the file has {}",
            file_len - data
        )
        .into());
    }
    Ok(table)
}

fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "BOOL" | "U8" => DType::U8,
        "I16" => DType::I16,
        "I32" => DType::I32,
        "U32" => DType::U32,
        "I64" => DType::I64,
        "BF16" => DType::BF16,
        "F16" => DType::F16,
        "F32" => DType::F32,
        "F64" => DType::F64,
        _ => return None,
    })
}
