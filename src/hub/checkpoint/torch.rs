//! Reads the tables of PyTorch's two file formats.
//!
//! Reference: `torch/serialization.py`, `_load` (zip) and `_legacy_load`. Storages are read when a
//! tensor is requested.
//!
//! A TorchScript archive (`torch.jit.save`) is a zip file of the same kind whose pickle has a
//! module in place of a dict. Its tensors get the names of the module's `state_dict`. Its code is
//! not read. Reference: `torch/csrc/jit/serialization/pickler.cpp`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use candle_core::DType;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Global, Id, Node, Pickle, brief};
use super::stored::{MAX_DIMENSIONS, Storage, StoredTensor};
use super::{Table, TableError};

/// Largest accepted pickle in bytes. Published models have a few hundred kilobytes, because the
/// data of the tensors is stored elsewhere.
const MAX_PICKLE: u64 = 16 << 20;

/// Magic number of legacy files, after the opcodes PROTO 2 and LONG1.
const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

pub(super) fn is_legacy(beginning: &[u8]) -> bool {
    beginning.starts_with(LEGACY_MAGIC)
}

/// Reference to a storage in a pickle.
struct StorageName<'a> {
    key: &'a str,
    dtype: DType,
    /// In elements.
    count: u64,
}

pub(super) fn read_zip(file: &mut File) -> Result<Table, TableError> {
    let file_len = file.metadata()?.len();
    file.seek(SeekFrom::Start(0))?;
    let unzip = |error| format!("the zip archive is damaged: {error}");
    let mut archive = ZipArchive::new(BufReader::new(&*file)).map_err(unzip)?;
    let mut members = HashMap::new();
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index).map_err(unzip)?;
        let name = member.name().map_err(unzip)?.into_owned();
        let stored = member.compression() == CompressionMethod::Stored && !member.encrypted();
        let start = member.data_start().filter(|_| stored);
        let len = member.size();
        if start.is_some_and(|start| len > file_len.saturating_sub(start)) {
            return Err(format!("{:?} is not wholly in the file", brief(&name)).into());
        }
        members.insert(name, (start, len));
    }
    drop(archive);

    let mut roots = members
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    let root = match (roots.next(), roots.next()) {
        (Some(root), None) => root.to_owned(),
        (None, _) => return Err("the zip archive has no data.pkl".into()),
        _ => return Err("the zip archive has several data.pkl".into()),
    };
    let member = |name: &str| -> Result<(u64, u64), TableError> {
        match members.get(&format!("{root}{name}")) {
            Some((Some(start), len)) => Ok((*start, *len)),
            Some((None, _)) => Err(format!(
                "{:?} is compressed or encrypted, which torch.save never does",
                brief(name)
            )
            .into()),
            None => Err(format!("the zip archive has no {:?}", brief(name)).into()),
        }
    };
    if members.contains_key(&format!("{root}byteorder")) {
        let order = read_range(file, member("byteorder")?)?;
        if order != b"little" {
            return Err("it was saved in big-endian byte order".into());
        }
    }
    let pickle = Pickle::parse(&read_range(file, member("data.pkl")?)?)?;
    tensors(&pickle, |storage| {
        let (start, len) = member(&format!("data/{}", storage.key))?;
        Ok(Storage {
            dtype: storage.dtype,
            start,
            len: claimed(storage, len)?,
        })
    })
}

pub(super) fn read_legacy(file: &mut File) -> Result<Table, TableError> {
    let file_len = file.metadata()?.len();
    let head = read_range(file, (0, file_len.min(MAX_PICKLE)))?;
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let pickle = Pickle::parse(head.get(at..).unwrap_or_default())?;
        at += pickle.len;
        Ok(pickle)
    };
    next()?;
    let version = next()?;
    if *version.node(version.root) != Node::Int(1001) {
        return Err("its legacy format has another version than 1001"
            .to_owned()
            .into());
    }
    let system = next()?;
    if let Node::Dict(items) = system.node(system.root) {
        let big = items.iter().any(|(key, value)| {
            system
                .text(*key)
                .is_some_and(|key| **key == *"little_endian")
                && *system.node(*value) == Node::Bool(false)
        });
        if big {
            return Err("it was saved in big-endian byte order".into());
        }
    }
    let pickle = next()?;
    let keys = next()?;
    let Node::List(keys_in_order) = keys.node(keys.root) else {
        return Err("its list of storages is none".into());
    };

    // The types are in the pickle, the places follow from the order and the lengths.
    let named = storages(&pickle)?;
    let mut places = HashMap::new();
    let mut at = at as u64;
    for key in keys_in_order {
        let key = keys.text(*key).ok_or("the name of a storage is no text")?;
        let dtype = named
            .get(&**key)
            .ok_or_else(|| format!("no tensor uses storage {:?}", brief(key)))?;
        let count = read_range(file, (at, 8))?;
        let count = u64::from_le_bytes(count.try_into().unwrap_or_default());
        let start = at + 8;
        let len = count.checked_mul(dtype.size_in_bytes() as u64);
        let end = len.and_then(|len| start.checked_add(len));
        let (Some(len), Some(end)) = (len, end.filter(|end| *end <= file_len)) else {
            return Err(format!("storage {:?} is not wholly in the file", brief(key)).into());
        };
        places.insert(key.to_string(), (start, len));
        at = end;
    }
    if at != file_len {
        return Err(format!("{} bytes follow its last storage", file_len - at).into());
    }
    tensors(&pickle, |storage| {
        let (start, len) = places
            .get(storage.key)
            .ok_or_else(|| format!("there is no storage {:?}", brief(storage.key)))?;
        Ok(Storage {
            dtype: storage.dtype,
            start: *start,
            len: claimed(storage, *len)?,
        })
    })
}

/// Returns the size of a storage in bytes, after a check against the size of the file.
fn claimed(storage: &StorageName<'_>, available: u64) -> Result<u64, TableError> {
    let size = storage.dtype.size_in_bytes() as u64;
    match storage.count.checked_mul(size) {
        Some(len) if len <= available => Ok(len),
        _ => Err(format!(
            "storage {:?} claims {} elements and has {available} bytes",
            brief(storage.key),
            storage.count
        )
        .into()),
    }
}

/// Returns the tensors of the state dict in `pickle`.
fn tensors(
    pickle: &Pickle,
    mut place: impl FnMut(&StorageName<'_>) -> Result<Storage, TableError>,
) -> Result<Table, TableError> {
    let mut table = Table::new();
    for (name, value) in state_dict(pickle)? {
        let wrong = |message: String| format!("tensor {:?}: {message}", brief(&name));
        let parts = tensor(pickle, value).map_err(wrong)?;
        let storage = place(&parts.storage)?;
        let stored =
            StoredTensor::new(storage, parts.offset, parts.shape, parts.strides).map_err(wrong)?;
        if table.contains_key(&name) {
            return Err(wrong("it is there twice".to_owned()).into());
        }
        table.insert(name, stored);
    }
    Ok(table)
}

/// Returns the type of every storage that the state dict uses.
fn storages(pickle: &Pickle) -> Result<BTreeMap<&str, DType>, TableError> {
    let mut types = BTreeMap::new();
    for (_, value) in state_dict(pickle)? {
        let StorageName { key, dtype, .. } = tensor(pickle, value)?.storage;
        if types.insert(key, dtype).is_some_and(|other| other != dtype) {
            return Err(format!("storage {:?} has two types", brief(key)).into());
        }
    }
    Ok(types)
}

/// Finds the tensors by name: the pickle is a dict of tensors, has one under `state_dict`, or is a
/// module.
fn state_dict(pickle: &Pickle) -> Result<Vec<(String, Id)>, String> {
    let root = match pickle.node(pickle.root) {
        Node::Dict(root) => root,
        Node::Object(_) => return module(pickle),
        _ => return Err("it holds no dict of tensors".to_owned()),
    };
    let named = |items: &[(Id, Id)]| {
        let named = |(key, value): &(Id, Id)| match pickle.text(*key) {
            Some(name) => Ok((name.to_string(), *value)),
            None => Err("a key of the state dict is no text".to_owned()),
        };
        items.iter().map(named).collect()
    };
    let is_tensor = |id: Id| matches!(pickle.node(id), Node::Call(..));
    if root.iter().any(|(_, value)| is_tensor(*value)) {
        return named(root);
    }
    for (key, value) in root {
        if let (Some("state_dict"), Node::Dict(items)) =
            (pickle.text(*key).map(|key| &**key), pickle.node(*value))
        {
            return named(items);
        }
    }
    let keys: Vec<&str> = root
        .iter()
        .filter_map(|(key, _)| pickle.text(*key).map(|key| brief(key)))
        .take(8)
        .collect();
    Err(format!(
        "it holds neither tensors nor a dict of tensors under \"state_dict\"; its first keys are {keys:?}"
    ))
}

/// Maximum nesting of modules; published models stay far below.
const MAX_DEPTH: usize = 64;

/// Returns the tensors of a TorchScript module and its submodules by dotted names. A module with
/// several parents is listed under one of them.
fn module(pickle: &Pickle) -> Result<Vec<(String, Id)>, String> {
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    let mut left = vec![(String::new(), 0, pickle.root)];
    while let Some((prefix, depth, object)) = left.pop() {
        let Node::Object(state) = pickle.node(object) else {
            continue;
        };
        if !seen.insert(object) {
            continue;
        }
        if depth > MAX_DEPTH {
            return Err(format!("its modules are nested more than {MAX_DEPTH} deep"));
        }
        let Some(Node::Dict(attributes)) = state.map(|state| pickle.node(state)) else {
            let place = brief(&prefix);
            return Err(format!("the module {place:?} has no dict of attributes"));
        };
        for (key, value) in attributes {
            let key = pickle
                .text(*key)
                .ok_or("the name of an attribute is no text")?;
            match pickle.node(*value) {
                Node::Object(_) => left.push((format!("{prefix}{key}."), depth + 1, *value)),
                Node::Call(Global::RebuildTensor | Global::RebuildParameter, _) => {
                    tensors.push((format!("{prefix}{key}"), *value));
                }
                // Sizes, flags and the like.
                _ => {}
            }
        }
    }
    if tensors.is_empty() {
        return Err("its module has no tensors".to_owned());
    }
    Ok(tensors)
}

struct TensorParts<'a> {
    storage: StorageName<'a>,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Reads `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`, or a
/// `_rebuild_parameter(tensor, …)` around it.
fn tensor(pickle: &Pickle, id: Id) -> Result<TensorParts<'_>, String> {
    let mut node = pickle.node(id);
    if let Node::Call(Global::RebuildParameter, args) = node {
        let inner = pickle.tuple(*args).and_then(<[Id]>::first);
        node = inner.map_or(&Node::None, |id| pickle.node(*id));
    }
    let Node::Call(Global::RebuildTensor, args) = node else {
        return Err("it is no tensor".to_owned());
    };
    let args = pickle.tuple(*args).unwrap_or_default();
    let &[storage, offset, size, stride, ..] = args else {
        return Err("a tensor has too few arguments".to_owned());
    };
    let Node::Persistent(storage) = pickle.node(storage) else {
        return Err("its first argument is no storage".to_owned());
    };
    Ok(TensorParts {
        storage: storage_name(pickle, *storage)?,
        offset: pickle.index(offset).ok_or("its offset is no index")?,
        shape: pickle
            .indices(size, MAX_DIMENSIONS)
            .ok_or("its size is no shape")?,
        strides: pickle
            .indices(stride, MAX_DIMENSIONS)
            .ok_or("its strides are no strides")?,
    })
}

/// Reads `('storage', type, key, location, count)`; legacy files add what must be `None`.
fn storage_name(pickle: &Pickle, id: Id) -> Result<StorageName<'_>, String> {
    let &[tag, class, key, _location, count, ref rest @ ..] = pickle.tuple(id).unwrap_or_default()
    else {
        return Err("the name of its storage is too short".to_owned());
    };
    if pickle.text(tag).is_none_or(|tag| **tag != *"storage") {
        return Err("its storage is named by something else than \"storage\"".to_owned());
    }
    let dtype = match pickle.node(class) {
        Node::Global(Global::Storage(Some(dtype))) => *dtype,
        Node::Global(Global::Storage(None)) => {
            return Err("its type is complex or of 8 signed bits".to_owned());
        }
        _ => return Err("its storage has no type".to_owned()),
    };
    if rest.iter().any(|id| *pickle.node(*id) != Node::None) {
        return Err("its storage is a view of another, as in PyTorch before 0.4".to_owned());
    }
    Ok(StorageName {
        key: pickle
            .text(key)
            .ok_or("the name of its storage is no text")?,
        dtype,
        count: pickle.index(count).ok_or("its storage has no length")? as u64,
    })
}

fn read_range(file: &mut File, (start, len): (u64, u64)) -> Result<Vec<u8>, TableError> {
    if len > MAX_PICKLE {
        return Err(format!("a table of {len} bytes is too large").into());
    }
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; len as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
