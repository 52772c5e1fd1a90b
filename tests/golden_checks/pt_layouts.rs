//! `pt_layouts`: the ways in which PyTorch lays out tensors in a file.

use std::path::PathBuf;

use candle_core::DType;
use dpsyn::internals::hub::Checkpoint;

use super::{Case, Outcome, Tolerance};

/// Every `<case>*.pt` beside the case must hold exactly the tensors of its safetensors, which our
/// own reader of that format must agree with too.
pub fn check(case: &Case) -> Outcome {
    let paths: Vec<PathBuf> = std::fs::read_dir(&case.directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let with = |extension: &'static str| {
        paths
            .iter()
            .filter(move |path| path.extension().is_some_and(|e| e == extension))
            .filter_map(|path| Some((path, path.file_stem()?.to_str()?)))
            .filter(|(_, stem)| stem.starts_with(&case.name))
    };
    // A file may belong to another case whose name is a longer prefix.
    let others: Vec<&str> = with("json")
        .map(|(_, stem)| stem)
        .filter(|stem| *stem != case.name)
        .collect();
    let mut files: Vec<PathBuf> = with("pt")
        .filter(|(_, stem)| !others.iter().any(|other| stem.starts_with(other)))
        .map(|(path, _)| path.clone())
        .collect();
    if files.is_empty() {
        return Err("there is no .pt file beside the case".into());
    }
    files.push(case.directory.join(format!("{}.safetensors", case.name)));
    for path in files {
        check_file(case, &path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn check_file(case: &Case, path: &std::path::Path) -> Outcome {
    let checkpoint = Checkpoint::open(path)?;
    let found: Vec<String> = checkpoint.tensors().map(|info| info.name).collect();
    if found != case.names() {
        return Err(format!("it holds {found:?}, expected {:?}", case.names()).into());
    }
    for name in case.names() {
        let expected = case.tensor(name)?;
        let tensor = checkpoint
            .tensor(name)?
            .ok_or("a listed tensor is not there")?;
        if tensor.dtype() != expected.dtype() || tensor.dims() != expected.dims() {
            return Err(format!("{name} is {tensor:?}, expected {expected:?}").into());
        }
        let found: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        Tolerance::absolute(0.0).check(name, &found, &case.f64s(name)?.0)?;
    }
    Ok(())
}
