//! `pt_layouts`: the ways in which PyTorch lays out tensors in a file.

use std::path::PathBuf;

use candle_core::DType;
use dpsyn::hub::Checkpoint;

use super::{Case, Outcome, Tolerance};

/// Every `<case>*.pt` beside the case must hold exactly the tensors of its safetensors, which our own
/// reader of that format must agree with too.
pub fn check(case: &Case) -> Outcome {
    let mut files: Vec<PathBuf> = std::fs::read_dir(&case.directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or("");
            name.starts_with(&case.name) && name.ends_with(".pt")
        })
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
