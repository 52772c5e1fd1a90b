//! Weights by the goldens' integer formula, and networks built on them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use dpsyn::internals::hub::Checkpoint;
use dpsyn::internals::models::improved_diffusion::{UNet, UNetConfig};
use serde_json::Value;

use super::Case;
use super::place::Place;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Element `j` of tensor `idx`: a multiple of 2^-23 in [-1, 1).
fn unit(seed: u64, idx: u64, j: u64) -> f64 {
    let mut z = ((seed << 48) | (idx << 32)).wrapping_add(j);
    z = z.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f64 / 8_388_608.0 - 1.0
}

/// All tensors of `table` (rows of name, shape and kind).
pub fn by_formula(seed: u64, gain: f64, table: &Value) -> Result<HashMap<String, Tensor>> {
    assert_formula()?;
    let rows = table.as_array().ok_or("the weights table is no list")?;
    let mut tensors = HashMap::new();
    for (idx, row) in rows.iter().enumerate() {
        let name = row[0].as_str().ok_or("a row without a name")?;
        let kind = row[2].as_str().ok_or("a row without a kind")?;
        let shape = shape(&row[1])?;
        let fan_in: usize = shape.iter().skip(1).product();
        let range = match kind {
            "w" => (0.0, gain * (3.0 / fan_in as f64).sqrt()),
            "n" => (1.0, 0.1),
            "b" | "m" => (0.0, 0.1),
            "v" => (1.0, 0.5),
            "u" => (0.0, 1.0),
            other => return Err(format!("{name}: unknown kind `{other}`").into()),
        };
        tensors.insert(name.to_owned(), tensor(seed, idx as u64, &shape, range)?);
    }
    Ok(tensors)
}

/// Tensor `idx` of the formula, scaled to `center` ± `width`.
pub fn tensor(seed: u64, idx: u64, shape: &[usize], (center, width): (f64, f64)) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u64)
        .map(|j| {
            let scaled = unit(seed, idx, j) * width;
            (center + scaled) as f32
        })
        .collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// A list of numbers as the shape of a tensor.
pub fn shape(list: &Value) -> Result<Vec<usize>> {
    let sizes = list.as_array().ok_or("a shape that is no list")?;
    let sizes = sizes
        .iter()
        .map(|d| d.as_u64().map(|d| d as usize).ok_or("a size is no number"));
    Ok(sizes.collect::<std::result::Result<_, _>>()?)
}

/// The check values that the goldens' documentation gives.
fn assert_formula() -> Result<()> {
    let expected = [
        (1, 0, 0, 0.296_839_594_841_003_4),
        (1, 0, 1, 0.629_271_030_426_025_4),
        (1, 0, 2, -0.790_245_652_198_791_5),
        (1101, 5, 0, 0.419_683_218_002_319_34),
        (1101, 5, 1, 0.947_655_320_167_541_5),
        (65535, 65535, 0, 0.963_495_373_725_891_1),
    ];
    for (seed, idx, j, value) in expected {
        if unit(seed, idx, j) != value {
            return Err(format!("the weights formula is wrong at ({seed}, {idx}, {j})").into());
        }
    }
    Ok(())
}

/// Builds a network on formula weights; a tensor that is missing, has another shape or is never
/// asked for is an error, but for names that begin with one of `ignored`.
pub fn build<M>(
    seed: u64,
    gain: f64,
    table: &Value,
    ignored: &[&str],
    make: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<M>,
) -> Result<M> {
    let place = Place {
        device: Device::Cpu,
        dtype: DType::F32,
    };
    build_at(&place, (seed, gain), table, ignored, make)
}

/// [`build`] somewhere.
pub fn build_at<M>(
    place: &Place,
    (seed, gain): (u64, f64),
    table: &Value,
    ignored: &[&str],
    make: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<M>,
) -> Result<M> {
    let tensors = by_formula(seed, gain, table)?;
    let unused = Arc::new(Mutex::new(tensors.keys().cloned().collect::<BTreeSet<_>>()));
    let tracked = Tracked {
        tensors,
        unused: Arc::clone(&unused),
    };
    let vb = VarBuilder::from_backend(Box::new(tracked), place.dtype, place.device.clone());
    let model = make(vb)?;
    let unused = unused.lock().map_err(|_| "poisoned")?;
    let mut unused = unused
        .iter()
        .filter(|name| !ignored.iter().any(|prefix| name.starts_with(prefix)));
    match unused.next() {
        None => Ok(model),
        Some(name) => Err(format!("{name} and {} others were never used", unused.count()).into()),
    }
}

struct Tracked {
    tensors: HashMap<String, Tensor>,
    unused: Arc<Mutex<BTreeSet<String>>>,
}

impl SimpleBackend for Tracked {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            candle_core::bail!("{name} is {:?}, wanted {shape:?}", tensor.shape());
        }
        Ok(tensor)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            candle_core::bail!("the weights table has no `{name}`");
        };
        if let Ok(mut unused) = self.unused.lock() {
            unused.remove(name);
        }
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// The configuration at `pointer`, in the original's own names, as ours. `classes` is the number of
/// rows of the label embedding, which the original fixes at 1000.
pub fn unet_config(config: &Value, classes: Option<usize>) -> Result<UNetConfig> {
    let number = |key: &str| {
        config[key]
            .as_i64()
            .ok_or_else(|| format!("the config has no number `{key}`"))
    };
    let flag = |key: &str| {
        config[key]
            .as_bool()
            .ok_or_else(|| format!("the config has no flag `{key}`"))
    };
    let resolutions = config["attention_resolutions"]
        .as_str()
        .ok_or("the config has no text `attention_resolutions`")?
        .split(',')
        .map(|part| part.trim().parse())
        .collect::<std::result::Result<Vec<usize>, _>>()?;
    let heads_upsample = number("num_heads_upsample")?;
    Ok(UNetConfig {
        image_size: number("image_size")? as usize,
        in_channels: 3,
        model_channels: number("num_channels")? as usize,
        learn_sigma: flag("learn_sigma")?,
        num_res_blocks: number("num_res_blocks")? as usize,
        channel_mult: match &config["channel_mult"] {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(
                text.split(',')
                    .map(|part| part.trim().parse())
                    .collect::<std::result::Result<Vec<usize>, _>>()?,
            ),
            list => Some(serde_json::from_value(list.clone())?),
        },
        attention_resolutions: resolutions,
        num_heads: number("num_heads")? as usize,
        num_heads_upsample: usize::try_from(heads_upsample).ok(),
        use_scale_shift_norm: flag("use_scale_shift_norm")?,
        num_classes: if flag("class_cond")? { classes } else { None },
    })
}

/// The seed and gain of `<weights>`.
pub fn seed_and_gain(weights: &Value) -> Result<(u64, f64)> {
    Ok((
        weights["seed"].as_u64().ok_or("the weights have no seed")?,
        weights["gain"].as_f64().ok_or("the weights have no gain")?,
    ))
}

/// Builds the UNet of a case: its configuration lies at the JSON pointer `config`, its weights at
/// `weights` (with `seed` and `gain`) and the table of tensors at `table`.
pub fn build_unet(
    case: &Case,
    place: &Place,
    config: &str,
    weights: &str,
    table: &str,
) -> Result<UNet> {
    let table = case.value(table)?;
    let (seed, gain) = seed_and_gain(case.value(weights)?)?;
    let classes = table.as_array().and_then(|rows| {
        let row = rows.iter().find(|row| row[0] == "label_emb.weight")?;
        row[1][0].as_u64()
    });
    let config = unet_config(case.value(config)?, classes.map(|n| n as usize))?;
    match checkpoint(case, weights)? {
        Some(checkpoint) => {
            compare(&checkpoint, &by_formula(seed, gain, table)?)?;
            let unet = checkpoint.load(place.dtype, &place.device, &[], |vb| {
                UNet::new(&config, &vb)
            });
            Ok(unet?)
        }
        None => build_at(place, (seed, gain), table, &[], |vb| {
            UNet::new(&config, &vb)
        }),
    }
}

/// The first of the files named under `weights` that lies beside the case.
pub fn checkpoint(case: &Case, weights: &str) -> Result<Option<Checkpoint>> {
    let files = case.value(weights)?["files"].as_array();
    let paths = files.into_iter().flatten().filter_map(Value::as_str);
    match paths
        .map(|file| case.directory.join(file))
        .find(|path| path.exists())
    {
        Some(path) => Ok(Some(Checkpoint::open(path)?)),
        None => Ok(None),
    }
}

/// A checkpoint must hold exactly the formula's values.
fn compare(checkpoint: &Checkpoint, expected: &HashMap<String, Tensor>) -> Result<()> {
    for (name, expected) in expected {
        let found = checkpoint
            .tensor(name)?
            .ok_or_else(|| format!("the checkpoint has no `{name}`"))?;
        let bits = |tensor: &Tensor| -> Result<Vec<f32>> { Ok(tensor.flatten_all()?.to_vec1()?) };
        if found.dims() != expected.dims() || bits(&found)? != bits(expected)? {
            return Err(format!("the checkpoint's `{name}` is not what the formula gives").into());
        }
    }
    Ok(())
}

/// A network from the first checkpoint file that `/weights` names and that lies beside the case,
/// which must hold exactly the formula's values; otherwise from the formula. The file may hold
/// tensors of the names `ignored` besides.
pub fn build_or_load<M>(
    case: &Case,
    ignored: &[&str],
    make: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<M>,
) -> Result<M> {
    let (seed, gain) = seed_and_gain(case.value("/weights")?)?;
    let table = case.value("/state_dict")?;
    match checkpoint(case, "/weights")? {
        Some(checkpoint) => {
            compare(&checkpoint, &by_formula(seed, gain, table)?)?;
            Ok(checkpoint.load(DType::F32, &Device::Cpu, ignored, make)?)
        }
        None => build(seed, gain, table, &[], make),
    }
}
