//! Helpers that the networks' tests share.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// Numbers in `[-1, 1)`, the same for the same seed.
pub(crate) fn uniform(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Weights that keep activations near 1, for whatever a network asks for.
pub(crate) fn any_weights() -> VarBuilder<'static> {
    any_weights_in(DType::F32)
}

/// [`any_weights`] for a network in another type.
pub(super) fn any_weights_in(dtype: DType) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(AnyWeights), dtype, Device::Cpu)
}

/// The root of the mean squared difference, as a share of the root mean square of `expected`.
pub(super) fn relative_error(found: &Tensor, expected: &Tensor) -> f32 {
    let mean_square = |x: &Tensor| -> f32 {
        let x = x.sqr().unwrap().mean_all().unwrap();
        x.to_scalar().unwrap()
    };
    (mean_square(&(found - expected).unwrap()) / mean_square(expected)).sqrt()
}

struct AnyWeights;

impl SimpleBackend for AnyWeights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let seed = name
            .bytes()
            .fold(0, |seed, b| seed * 31 % 1_000_003 + u64::from(b));
        let raw = uniform(shape.dims(), seed);
        let fan_in: usize = shape.dims().iter().skip(1).product();
        let scaled = if shape.rank() > 1 {
            (raw * (3.0 / fan_in as f64).sqrt())?
        } else if name.ends_with("weight") || name.ends_with("running_var") {
            ((raw * 0.1)? + 1.0)?
        } else {
            (raw * 0.1)?
        };
        scaled.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
