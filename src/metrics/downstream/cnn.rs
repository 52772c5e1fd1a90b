//! A wide residual network (Zagoruyko & Komodakis 2016, arXiv 1605.07146), trained with
//! candle's gradients.
//!
//! SGD with Nesterov momentum, a cosine learning rate schedule to 0, and a fixed number of epochs.
//! Initial weights, order and augmentation come from keyed random number generators, so a seed
//! determines the network on one machine; on a GPU up to rounding.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::{Linear, Module};

use super::augment::Augment;
use super::layers::{BatchNormRelu, Conv, Parameters, linear};
use super::{DownstreamError, check_training, largest};
use crate::images::ImageBatch;
use crate::progress::Observer;
use crate::sections::InvalidKey;
use crate::streams::{KeyedRng, Phase, RngKey};

/// Channels of the first convolution, and of the first group in a network of width 1.
const BASE: usize = 16;
/// `repeat` of the random keys, by use.
const INITIAL: u32 = 0;
const ORDER: u32 = 1;
const AUGMENT: u32 = 2;

/// Architecture and training. The defaults train in minutes on a few CPU cores; the paper's network
/// for CIFAR-10 has depth 28, width 10 and 200 epochs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CnnConfig {
    /// Number of layers: 10, 16, 22, 28, …, 4 more than a multiple of 6.
    pub depth: usize,
    /// Factor of the numbers of channels 16, 32 and 64.
    pub width: usize,
    /// Passes over the training set.
    pub epochs: usize,
    /// Images in a step.
    pub batch_size: usize,
    /// Initial learning rate.
    pub learning_rate: f64,
    /// Nesterov momentum.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest shift of the augmentation in pixels.
    pub shift: usize,
    /// True if half of the images are reflected: right for photographs, wrong for digits and
    /// letters.
    pub flip: bool,
}

impl Default for CnnConfig {
    fn default() -> Self {
        Self {
            depth: 10,
            width: 2,
            epochs: 20,
            batch_size: 64,
            learning_rate: 0.05,
            momentum: 0.9,
            weight_decay: 5e-4,
            shift: 4,
            flip: false,
        }
    }
}

impl CnnConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`DownstreamError::Config`] naming the key.
    pub fn validate(&self) -> std::result::Result<(), DownstreamError> {
        let error = |key, message: String| Err(InvalidKey::new(key, message).into());
        if self.depth < 10 || !(self.depth - 4).is_multiple_of(6) {
            let message = format!("is {}: expected 10, 16, 22, 28, …", self.depth);
            return error("depth", message);
        }
        for (key, value) in [
            ("width", self.width),
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
        ] {
            if value == 0 {
                return error(key, "is 0: expected at least 1".to_owned());
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            let message = format!("is {}: expected more than 0", self.learning_rate);
            return error("learning_rate", message);
        }
        if !(0.0..1.0).contains(&self.momentum) {
            let message = format!("is {}: expected 0 or more and less than 1", self.momentum);
            return error("momentum", message);
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            let message = format!("is {}: expected 0 or more", self.weight_decay);
            return error("weight_decay", message);
        }
        Ok(())
    }
}

/// Images of a training set, with their labels.
#[derive(Clone, Copy)]
pub struct LabeledImages<'a> {
    /// Images of one size.
    pub images: &'a ImageBatch,
    /// Class of each image, below `classes`.
    pub labels: &'a [u32],
    /// Number of classes.
    pub classes: usize,
}

/// A trained network.
#[derive(Debug, Clone)]
pub struct Cnn {
    network: Network,
    pixels: Pixels,
    batch_size: usize,
    device: Device,
}

impl Cnn {
    /// Trains on labeled images. `observer` receives the number of finished epochs and is checked
    /// for cancellation before every epoch.
    ///
    /// # Errors
    /// [`DownstreamError`]: invalid settings or labels, a loss that is not finite, cancellation,
    /// and errors of candle.
    pub fn train(
        config: &CnnConfig,
        set: LabeledImages<'_>,
        seed: u64,
        device: &Device,
        observer: &dyn Observer,
    ) -> std::result::Result<Self, DownstreamError> {
        let LabeledImages {
            images,
            labels,
            classes,
        } = set;
        config.validate()?;
        check_training(images.len(), labels, classes)?;
        let stream = |repeat, epoch: usize, sample: usize| {
            RngKey {
                seed,
                phase: Phase::Downstream,
                iteration: u32::try_from(epoch).unwrap_or(u32::MAX),
                repeat,
                sample: sample as u64,
            }
            .rng()
        };
        let mut parameters = Parameters::default();
        let mut initial = stream(INITIAL, 0, 0);
        let network = Network::new(config, classes, &mut initial, &mut parameters, device)?;
        let pixels = Pixels::of(images);
        let augment = Augment {
            shift: config.shift,
            flip: config.flip,
        };
        let mut sgd = Sgd::new(config, &parameters)?;
        // A last step of few images would give batch norm poor statistics, so it is omitted; the
        // next epoch omits other images.
        let batch_size = config.batch_size.min(images.len());
        let steps = images.len() / batch_size;
        for epoch in 0..config.epochs {
            observer.advance(epoch as u64);
            observer.check()?;
            let mut order: Vec<usize> = (0..images.len()).collect();
            shuffle(&mut order, &mut stream(ORDER, epoch, 0));
            let mut total = 0.0;
            for (step, chosen) in order.chunks_exact(batch_size).enumerate() {
                let x = pixels.batch(images, chosen, device, |sample| {
                    Some((augment, stream(AUGMENT, epoch, sample)))
                })?;
                let y: Vec<u32> = chosen
                    .iter()
                    .filter_map(|i| labels.get(*i).copied())
                    .collect();
                let y = Tensor::new(y, device)?;
                let loss = cross_entropy(&network.forward(&x, true)?, &y)?;
                let gradients = loss.backward()?;
                let done = (epoch * steps + step) as f64 / (config.epochs * steps) as f64;
                let rate = config.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                sgd.step(rate, &parameters, &gradients)?;
                total += f64::from(loss.to_scalar::<f32>()?);
            }
            if !total.is_finite() {
                return Err(DownstreamError::Diverged { epoch: epoch + 1 });
            }
        }
        Ok(Self {
            network,
            pixels,
            batch_size: config.batch_size,
            device: device.clone(),
        })
    }

    /// Predicts the class of each image, independently of the other images.
    ///
    /// # Errors
    /// [`DownstreamError::Shape`] for images of another size than those of the training, and
    /// whatever candle reports.
    pub fn predict(&self, images: &ImageBatch) -> std::result::Result<Vec<u32>, DownstreamError> {
        let found = (images.height(), images.width());
        if found != self.pixels.size {
            let text = |(height, width)| format!("images of {height}x{width}");
            return Err(DownstreamError::Shape {
                found: text(found),
                expected: text(self.pixels.size),
            });
        }
        let mut classes = Vec::with_capacity(images.len());
        let all: Vec<usize> = (0..images.len()).collect();
        for chosen in all.chunks(self.batch_size.max(1)) {
            let x = self.pixels.batch(images, chosen, &self.device, |_| None)?;
            let scores = self.network.forward(&x, false)?;
            let count = scores.dim(1)?;
            let scores: Vec<f32> = scores.flatten_all()?.to_vec1()?;
            classes.extend(largest(&scores, count));
        }
        Ok(classes)
    }
}

fn shuffle(order: &mut [usize], stream: &mut KeyedRng) {
    for last in (1..order.len()).rev() {
        order.swap(last, stream.below(last as u64 + 1) as usize);
    }
}

/// Standardization of pixels by mean and standard deviation of each channel of the training images.
#[derive(Debug, Clone)]
struct Pixels {
    size: (usize, usize),
    mean: [f32; 3],
    factor: [f32; 3],
}

impl Pixels {
    fn of(images: &ImageBatch) -> Self {
        let (pixels, _) = images.data().as_chunks::<3>();
        let mut sums = [[0u64; 2]; 3];
        for pixel in pixels {
            for (sums, level) in sums.iter_mut().zip(pixel) {
                sums[0] += u64::from(*level);
                sums[1] += u64::from(*level) * u64::from(*level);
            }
        }
        let count = pixels.len().max(1) as f64;
        let mean = sums.map(|[sum, _]| sum as f64 / count);
        let mut factor = [1f32; 3];
        for ((factor, [_, squares]), mean) in factor.iter_mut().zip(sums).zip(mean) {
            let deviation = (squares as f64 / count - mean * mean).max(0.0).sqrt();
            *factor = (1.0 / deviation.max(1.0)) as f32;
        }
        Self {
            size: (images.height(), images.width()),
            mean: mean.map(|mean| mean as f32),
            factor,
        }
    }

    /// Returns the chosen images as `[n, h, w, 3]`, each changed by its `augment`.
    fn batch(
        &self,
        images: &ImageBatch,
        chosen: &[usize],
        device: &Device,
        augment: impl Fn(usize) -> Option<(Augment, KeyedRng)>,
    ) -> Result<Tensor> {
        let (height, width) = self.size;
        let area = height * width;
        let mut black = [0f32; 3];
        for (black, (mean, factor)) in black.iter_mut().zip(self.mean.iter().zip(self.factor)) {
            *black = -mean * factor;
        }
        let mut out = Vec::<f32>::with_capacity(chosen.len() * area * 3);
        for &index in chosen {
            let (pixels, _) = images.get(index).unwrap_or_default().as_chunks::<3>();
            let mut image = vec![black; area];
            let mut put = |to: usize, from: usize| {
                if let (Some(to), Some(from)) = (image.get_mut(to), pixels.get(from)) {
                    let scaling = self.mean.iter().zip(self.factor);
                    for ((to, level), (mean, factor)) in to.iter_mut().zip(from).zip(scaling) {
                        *to = (f32::from(*level) - mean) * factor;
                    }
                }
            };
            match augment(index) {
                Some((augment, mut stream)) => augment.apply(self.size, &mut stream, put),
                None => (0..area).for_each(|at| put(at, at)),
            }
            out.extend(image.as_flattened());
        }
        Tensor::from_vec(out, (chosen.len(), height, width, 3), device)
    }
}

#[derive(Debug, Clone)]
struct Network {
    stem: Conv,
    blocks: Vec<Block>,
    norm: BatchNormRelu,
    head: Linear,
}

/// Residual block: two convolutions, each after norm and activation, and a shortcut.
#[derive(Debug, Clone)]
struct Block {
    norm1: BatchNormRelu,
    conv1: Conv,
    norm2: BatchNormRelu,
    conv2: Conv,
    /// Projection where the shape changes; its input is the first activation.
    shortcut: Option<Conv>,
}

impl Network {
    fn new(
        config: &CnnConfig,
        classes: usize,
        stream: &mut KeyedRng,
        parameters: &mut Parameters,
        device: &Device,
    ) -> Result<Self> {
        let stem = Conv::new((3, BASE), 3, 1, stream, parameters, device)?;
        let mut blocks = Vec::new();
        let mut channels = BASE;
        for (group, stride) in [1, 2, 2].into_iter().enumerate() {
            let wide = (BASE * config.width) << group;
            for index in 0..(config.depth - 4) / 6 {
                let stride = if index == 0 { stride } else { 1 };
                let mut conv = |channels, kernel, stride| {
                    Conv::new(channels, kernel, stride, stream, parameters, device)
                };
                let conv1 = conv((channels, wide), 3, stride)?;
                let conv2 = conv((wide, wide), 3, 1)?;
                let shortcut = if channels == wide && stride == 1 {
                    None
                } else {
                    Some(conv((channels, wide), 1, stride)?)
                };
                blocks.push(Block {
                    norm1: BatchNormRelu::new(channels, parameters, device)?,
                    conv1,
                    norm2: BatchNormRelu::new(wide, parameters, device)?,
                    conv2,
                    shortcut,
                });
                channels = wide;
            }
        }
        Ok(Self {
            stem,
            blocks,
            norm: BatchNormRelu::new(channels, parameters, device)?,
            head: linear((channels, classes), stream, parameters, device)?,
        })
    }

    /// Computes logits `[n, classes]` from images `[n, h, w, 3]`.
    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut h = self.stem.forward(x)?;
        for block in &self.blocks {
            let inner = block.norm1.forward(&h, train)?;
            let y = block.conv1.forward(&inner)?;
            let y = block.norm2.forward(&y, train)?;
            let y = block.conv2.forward(&y)?;
            h = match &block.shortcut {
                Some(conv) => (y + conv.forward(&inner)?)?,
                None => (y + h)?,
            };
        }
        let h = self.norm.forward(&h, train)?;
        let (n, height, width, channels) = h.dims4()?;
        let pooled = h.reshape((n, height * width, channels))?.mean(1)?;
        self.head.forward(&pooled)
    }
}

/// SGD with Nesterov momentum in PyTorch's form. candle_nn's SGD has no momentum.
struct Sgd {
    momentum: f64,
    weight_decay: f64,
    velocities: Vec<Tensor>,
}

impl Sgd {
    fn new(config: &CnnConfig, parameters: &Parameters) -> Result<Self> {
        let zeros = parameters.0.iter().map(|var| var.zeros_like());
        Ok(Self {
            momentum: config.momentum,
            weight_decay: config.weight_decay,
            velocities: zeros.collect::<Result<_>>()?,
        })
    }

    fn step(
        &mut self,
        rate: f64,
        parameters: &Parameters,
        gradients: &candle_core::backprop::GradStore,
    ) -> Result<()> {
        for (var, velocity) in parameters.0.iter().zip(&mut self.velocities) {
            let Some(gradient) = gradients.get(var) else {
                candle_core::bail!("a parameter of shape {:?} has no gradient", var.dims());
            };
            let value = var.as_tensor().detach();
            let gradient =
                (gradient.detach().to_dtype(DType::F32)? + (&value * self.weight_decay)?)?;
            *velocity = ((&*velocity * self.momentum)? + &gradient)?.detach();
            let step = (gradient + (&*velocity * self.momentum)?)?;
            var.set(&(value - (step * rate)?)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::progress::{Cancellation, Progress, Silent, Unit};

    const SIDE: usize = 8;

    /// Images of a horizontal or vertical bright bar at a random place on noise.
    fn bars(count: usize, first: u64) -> (ImageBatch, Vec<u32>) {
        let mut data = Vec::new();
        let mut labels = Vec::new();
        for sample in 0..count as u64 {
            let mut stream = RngKey {
                seed: 9,
                phase: Phase::Downstream,
                iteration: 0,
                repeat: 9,
                sample: first + sample,
            }
            .rng();
            let label = stream.below(2) as u32;
            let at = stream.below(SIDE as u64) as usize;
            for pixel in 0..SIDE * SIDE {
                let on = at
                    == if label == 0 {
                        pixel / SIDE
                    } else {
                        pixel % SIDE
                    };
                let level = stream.below(90) as u8 + if on { 120 } else { 0 };
                data.extend([level, level, stream.below(200) as u8]);
            }
            labels.push(label);
        }
        (ImageBatch::new(data, count, SIDE, SIDE).unwrap(), labels)
    }

    fn config() -> CnnConfig {
        CnnConfig {
            width: 1,
            epochs: 6,
            batch_size: 20,
            shift: 1,
            ..CnnConfig::default()
        }
    }

    /// Requests cancellation once an epoch is finished.
    #[derive(Default)]
    struct StopAfterOneEpoch(AtomicU64);

    impl Progress for StopAfterOneEpoch {
        fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
        fn resume(&self, _: u64) {}

        fn advance(&self, done: u64) {
            self.0.store(done, Relaxed);
        }

        fn end(&self) {}
        fn message(&self, _: &str) {}
    }

    impl Cancellation for StopAfterOneEpoch {
        fn is_cancelled(&self) -> bool {
            self.0.load(Relaxed) > 0
        }
    }

    fn labeled(set: &(ImageBatch, Vec<u32>)) -> LabeledImages<'_> {
        LabeledImages {
            images: &set.0,
            labels: &set.1,
            classes: 2,
        }
    }

    fn train(
        config: &CnnConfig,
        set: &(ImageBatch, Vec<u32>),
        seed: u64,
    ) -> std::result::Result<Cnn, DownstreamError> {
        Cnn::train(config, labeled(set), seed, &Device::Cpu, &Silent)
    }

    #[test]
    fn a_network_learns_and_depends_on_its_seed_alone() {
        let set = bars(230, 0);
        let network = train(&config(), &set, 1).unwrap();
        let (images, labels) = bars(100, 1000);
        let predicted = network.predict(&images).unwrap();
        let right = predicted.iter().zip(&labels).filter(|(p, l)| p == l);
        assert!(right.count() >= 90, "{predicted:?}");

        // The seed determines the network, and a prediction does not depend on the batch.
        let again = train(&config(), &set, 1).unwrap();
        assert_eq!(
            again.predict(&images.slice(0..33)).unwrap(),
            predicted[..33]
        );
        let weights = |cnn: &Cnn| -> Vec<Vec<f32>> { cnn.network.head.weight().to_vec2().unwrap() };
        assert_eq!(weights(&again), weights(&network));
        let other = train(&config(), &set, 2).unwrap();
        assert_ne!(weights(&other), weights(&network));
    }

    #[test]
    fn invalid_settings_and_sets_are_refused() {
        let set = bars(8, 0);
        let refused = |config: CnnConfig| train(&config, &set, 1).err().map(|e| e.to_string());
        let base = config();
        for (config, key) in [
            (CnnConfig { depth: 12, ..base }, "depth"),
            (CnnConfig { width: 0, ..base }, "width"),
            (CnnConfig { epochs: 0, ..base }, "epochs"),
            (
                CnnConfig {
                    learning_rate: f64::NAN,
                    ..base
                },
                "learning_rate",
            ),
            (
                CnnConfig {
                    momentum: 1.0,
                    ..base
                },
                "momentum",
            ),
        ] {
            assert!(refused(config).is_some_and(|e| e.contains(key)), "{key}");
        }
        let absurd = CnnConfig {
            learning_rate: 1e30,
            ..base
        };
        assert!(refused(absurd).is_some_and(|e| e.contains("diverged")));
        let stopped = Cnn::train(
            &base,
            labeled(&set),
            1,
            &Device::Cpu,
            &StopAfterOneEpoch::default(),
        );
        assert!(matches!(stopped, Err(DownstreamError::Cancelled(_))));
        let one = CnnConfig { epochs: 1, ..base };
        let network = train(&one, &set, 1).unwrap();
        assert!(matches!(
            network.predict(&ImageBatch::empty(4, 8)),
            Err(DownstreamError::Shape { .. })
        ));
    }
}
