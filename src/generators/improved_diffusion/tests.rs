//! The generator on a tiny network with pseudo-random weights.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::*;
use crate::device_pool::WorkerFactory;
use crate::generators::{BoxedGenerator, ReplicatedGenerator};
use crate::streams::{Phase, RngKey};

/// Random weights that depend on the name of the tensor.
struct RandomWeights;

impl SimpleBackend for RandomWeights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let sample = name.bytes().fold(7u64, |hash, byte| {
            hash.wrapping_mul(1_099_511_628_211) ^ u64::from(byte)
        });
        let mut values = vec![0f32; shape.elem_count()];
        let key = RngKey { sample, ..KEY };
        key.rng().fill_normal(&mut values);
        let fan_in: usize = shape.dims().iter().skip(1).product();
        let (center, width) = match (shape.rank(), name.ends_with("weight")) {
            (1, true) => (1.0, 0.1),
            (1, false) => (0.0, 0.1),
            _ => (0.0, 1.0 / (fan_in as f64).sqrt()),
        };
        let tensor = Tensor::from_vec(values, shape, device)?;
        tensor.affine(width, center)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was requested without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// [`RandomWeights`] that records the requested tensors.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<HashMap<String, Tensor>>>);

impl SimpleBackend for Recorded {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = RandomWeights.get(shape, name, init, dtype, device)?;
        self.0
            .lock()
            .unwrap()
            .insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        RandomWeights.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        RandomWeights.contains_tensor(name)
    }
}

const KEY: RngKey = RngKey {
    seed: 11,
    phase: Phase::Random,
    iteration: 0,
    repeat: 0,
    sample: 0,
};

/// Two levels of 8 and 4 pixels, attention at both, five steps, ten classes.
const TINY: &str = r#"
checkpoint = "none.pt"
image_size = 8
num_channels = 32
num_res_blocks = 1
channel_mult = [1, 2]
attention_resolutions = [8, 4]
num_heads = 2
class_cond = true
num_classes = 10
learn_sigma = true
timestep_respacing = "5"
batch_size = 2
"#;

fn generator(more: &str) -> ImprovedDiffusion {
    let mut table: toml::Table = TINY.parse().unwrap();
    table.extend(more.parse::<toml::Table>().unwrap());
    let config: Config = table.try_into().unwrap();
    let vb = VarBuilder::from_backend(Box::new(RandomWeights), DType::F32, Device::Cpu);
    let unet = UNet::new(&config.unet().unwrap(), &vb).unwrap();
    ImprovedDiffusion::new(&config, unet, &Device::Cpu).unwrap()
}

fn request(sample: u64) -> SampleRequest {
    SampleRequest {
        condition: Condition(sample as u32 % 10),
        rng_key: RngKey { sample, ..KEY },
    }
}

fn images(count: usize) -> ImageBatch {
    let bytes = (0..count * 192).map(|index| (index * 37 % 256) as u8);
    ImageBatch::new(bytes.collect(), count, 8, 8).unwrap()
}

/// Returns the bits of every number, per image.
fn bits(samples: &Tensor) -> Vec<Vec<u32>> {
    let values: Vec<Vec<f32>> = samples.flatten_from(1).unwrap().to_vec2().unwrap();
    let image = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    values.into_iter().map(image).collect()
}

const METHODS: [&str; 5] = [
    "sampler = \"dpm-solver++\"",
    "use_ddim = true",
    "use_ddim = true\nclip_denoised = false",
    "use_ddim = false",
    "use_ddim = false\nclip_denoised = false",
];

#[test]
fn a_batch_of_three_equals_three_single_images_to_the_bit() {
    let requests = [request(0), request(1), request(2)];
    for method in METHODS {
        let generator = generator(method);
        for (start, skipped) in [(None, 0), (Some(images(3)), 0), (Some(images(3)), 3)] {
            let from = (generator.samplers.of(0).unwrap(), skipped);
            let together = generator.samples(start.as_ref(), &requests, from);
            let together = bits(&together.unwrap());
            let single: Vec<_> = (0..3)
                .flat_map(|index| {
                    let image = start.as_ref().map(|images| images.slice(index..index + 1));
                    let request = &requests[index..index + 1];
                    bits(&generator.samples(image.as_ref(), request, from).unwrap())
                })
                .collect();
            assert!(together == single, "{method}, {skipped} steps skipped");
            // The comparison is only meaningful if the values are neither saturated nor all equal.
            let distinct: std::collections::BTreeSet<u32> =
                together.iter().flatten().copied().collect();
            assert!(distinct.len() > 50, "{method}: {}", distinct.len());
        }
    }
}

/// A loaded network generates the same images, and a mismatch is reported with its tensor.
#[test]
fn a_model_is_loaded_from_a_file_or_refused() {
    let config: Config = toml::from_str(TINY).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let recorded = Recorded::default();
    let vb = VarBuilder::from_backend(Box::new(recorded.clone()), DType::F32, Device::Cpu);
    UNet::new(&config.unet().unwrap(), &vb).unwrap();
    let tensors = recorded.0.lock().unwrap().clone();
    candle_core::safetensors::save(&tensors, folder.path().join("none.pt")).unwrap();

    let load = |config: &Config| ImprovedDiffusion::load(config, Some(folder.path()), &Device::Cpu);
    let loaded = load(&config).unwrap().random(&[request(0)]).unwrap();
    assert!(loaded == generator("").random(&[request(0)]).unwrap());

    let fewer_classes = Config {
        num_classes: 9,
        ..config.clone()
    };
    let error = load(&fewer_classes).err().unwrap().to_string();
    assert!(error.contains("label_emb.weight"), "{error}");
    let half = Config {
        dtype: crate::generators::Precision::F16,
        ..config.clone()
    };
    assert!(
        load(&half)
            .err()
            .unwrap()
            .to_string()
            .starts_with("dtype: ")
    );
    let elsewhere = Config {
        checkpoint: "elsewhere.pt".into(),
        ..config
    };
    let error = load(&elsewhere).err().unwrap().to_string();
    assert!(error.contains("elsewhere.pt"), "{error}");
}

#[test]
fn the_size_of_the_batches_does_not_matter() {
    let requests: Vec<SampleRequest> = (0..5).map(request).collect();
    for method in METHODS {
        let (two, five) = (generator(method), {
            let mut generator = generator(method);
            generator.batches = Batches::new("batch_size", Some(5), &Device::Cpu);
            generator
        });
        assert!(two.random(&requests).unwrap() == five.random(&requests).unwrap());
        let varied = two
            .vary(&images(5).into(), &requests, Variation::new(2.0, 1))
            .unwrap();
        assert!(
            varied
                == five
                    .vary(&images(5).into(), &requests, Variation::new(2.0, 1))
                    .unwrap()
        );
        assert_eq!(
            (varied.len(), varied.images.height(), varied.images.width()),
            (5, 8, 8)
        );
    }
    assert!(generator("").random(&[]).unwrap().is_empty());
}

#[test]
fn the_number_of_devices_does_not_matter() {
    let requests: Vec<SampleRequest> = (0..9).map(request).collect();
    let more = METHODS[0];
    let alone = generator(more);
    let (random, varied) = (
        alone.random(&requests).unwrap(),
        alone
            .vary(&images(9).into(), &requests, Variation::new(2.0, 1))
            .unwrap(),
    );
    for copies in [1, 2, 3] {
        let factory = |_| -> WorkerFactory<BoxedGenerator, GeneratorError> {
            Box::new(move || Ok(Box::new(generator(more)) as BoxedGenerator))
        };
        let replicated = ReplicatedGenerator::start((0..copies).map(factory).collect()).unwrap();
        assert_eq!(replicated.batch_size(), 2 * copies);
        assert!(replicated.random(&requests).unwrap() == random);
        assert!(
            replicated
                .vary(&images(9).into(), &requests, Variation::new(2.0, 1))
                .unwrap()
                == varied
        );
        assert!(replicated.random(&[]).unwrap().is_empty());
        // An error of one copy is the error of the call.
        let mut wrong = requests.clone();
        wrong[7].condition = Condition(10);
        assert!(matches!(
            replicated.random(&wrong),
            Err(GeneratorError::Input(_))
        ));
        let degree = replicated.vary(&images(9).into(), &requests, Variation::new(7.5, 1));
        assert!(matches!(degree, Err(GeneratorError::Degree { .. })));
    }
}

#[test]
fn images_depend_on_the_key_the_condition_and_the_parent() {
    for method in METHODS {
        let generator = generator(method);
        let first = generator.random(&[request(0)]).unwrap();
        assert!(first == generator.random(&[request(0)]).unwrap());
        let other_key = SampleRequest {
            rng_key: request(1).rng_key,
            ..request(0)
        };
        assert!(first != generator.random(&[other_key]).unwrap());
        let other_class = SampleRequest {
            condition: Condition(3),
            ..request(0)
        };
        assert!(first != generator.random(&[other_class]).unwrap());

        let vary = |images: &ImageBatch, request, degree: f64| {
            let parents = Generated::from(images.clone());
            generator.vary(&parents, &[request], Variation::new(degree, 1))
        };
        let image = images(2).slice(0..1);
        let varied = vary(&image, request(0), 3.0).unwrap();
        assert!(varied != vary(&images(2).slice(1..2), request(0), 3.0).unwrap());
        assert!(varied != vary(&image, other_key, 3.0).unwrap());
        assert!(varied != vary(&image, request(0), 2.0).unwrap());
    }
}

/// The value of `timestep_respacing` for a population is that of a model with this value alone.
#[test]
fn each_population_has_its_respacing() {
    let schedule = generator("timestep_respacing = [\"5\", \"ddim4\", \"10\"]");
    let vary = |generator: &ImprovedDiffusion, population| {
        let variation = Variation::new(2.0, population);
        generator.vary(&images(1).into(), &[request(0)], variation)
    };
    let mut found = Vec::new();
    for (respacing, population) in [("5", 0), ("ddim4", 1), ("10", 2)] {
        let one = generator(&format!("timestep_respacing = \"{respacing}\""));
        let varied = vary(&schedule, population).unwrap();
        assert!(varied == vary(&one, population).unwrap());
        found.push(varied.images.data().to_vec());
    }
    assert!(found[0] != found[1] && found[1] != found[2]);
    let operation = |population| Operation::Vary(Variation::new(2.0, population));
    let evaluations = [0, 1, 2].map(|at| schedule.evaluations(operation(at)).unwrap());
    assert_eq!(evaluations, [3, 2, 8]);
    assert_eq!(schedule.evaluations(Operation::Random).unwrap(), 5);
    let error = vary(&schedule, 3).err().unwrap().to_string();
    assert!(error.contains("no value for population 3"), "{error}");
}

#[test]
fn height_and_width_may_differ() {
    let generator = generator("image_size = [8, 16]");
    let random = generator.random(&[request(0), request(1)]).unwrap();
    assert_eq!((random.images.height(), random.images.width()), (8, 16));
    let varied = generator.vary(&random, &[request(0), request(1)], Variation::new(1.0, 1));
    assert!(varied.unwrap() != random);
    let square = images(1).into();
    assert!(
        generator
            .vary(&square, &[request(0)], Variation::new(1.0, 1))
            .is_err()
    );
}

/// With random weights, only an image with little noise added stays close to its parent.
#[test]
fn a_larger_degree_stays_closer() {
    let generator = generator("use_ddim = true");
    let image = images(1);
    let distance = |degree: f64| -> u64 {
        let variation = Variation::new(degree, 1);
        let varied = generator.vary(&image.clone().into(), &[request(0)], variation);
        let varied = varied.unwrap().images;
        let pairs = varied.data().iter().zip(image.data());
        pairs.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
    };
    let distances: Vec<u64> = (0..5).map(|degree| distance(f64::from(degree))).collect();
    assert!(distances[4] * 20 < distances[0], "{distances:?}");
}

#[test]
fn wrong_requests_are_refused() {
    let generator = generator("");
    for degree in [-1.0, 5.0, 0.5, f64::NAN] {
        let varied = generator.vary(&images(1).into(), &[request(0)], Variation::new(degree, 1));
        assert!(matches!(varied, Err(GeneratorError::Degree { .. })));
        assert!(
            generator
                .evaluations(Operation::Vary(Variation::new(degree, 1)))
                .is_err()
        );
    }
    assert_eq!(
        generator
            .evaluations(Operation::Vary(Variation::new(4.0, 1)))
            .unwrap(),
        1
    );
    assert_eq!(generator.evaluations(Operation::Random).unwrap(), 5);
    let refused =
        |result: Result<Generated, GeneratorError>| matches!(result, Err(GeneratorError::Input(_)));
    assert!(refused(generator.vary(
        &images(2).into(),
        &[request(0)],
        Variation::new(0.0, 1)
    )));
    assert!(refused(generator.vary(
        &ImageBatch::empty(8, 4).into(),
        &[],
        Variation::new(0.0, 1)
    )));
    let out_of_range = SampleRequest {
        condition: Condition(10),
        ..request(0)
    };
    assert!(refused(generator.random(&[out_of_range])));
}

#[test]
fn initial_conditions_follow_the_map_and_the_keys() {
    let requests = |class: Option<&'static str>| -> Vec<ConditionRequest<'static>> {
        let rng_key = |sample| RngKey {
            phase: Phase::Condition,
            sample,
            ..KEY
        };
        let request = |sample| ConditionRequest {
            class,
            rng_key: rng_key(sample),
        };
        (0..400).map(request).collect()
    };
    let count = |conditions: &[Condition], label: u32| {
        let same = conditions.iter().filter(|condition| condition.0 == label);
        same.count()
    };

    // 400 choices of ten: 40 of each, within five standard deviations of 6.
    let free = generator("")
        .initial_conditions(&requests(Some("cat")))
        .unwrap();
    assert!((0..10).all(|label| (10..=70).contains(&count(&free, label))));

    let mapped = generator("[class_labels]\ncat = [2, 5]\ndog = [7]\n");
    let cats = mapped.initial_conditions(&requests(Some("cat"))).unwrap();
    assert_eq!(count(&cats, 2) + count(&cats, 5), 400);
    assert!((150..=250).contains(&count(&cats, 2)));
    let dogs = mapped.initial_conditions(&requests(Some("dog"))).unwrap();
    assert_eq!(count(&dogs, 7), 400);
    let described = mapped.describe_conditions(Some("cat"));
    assert_eq!(described, ["class label 2", "class label 5"]);
    assert!(generator("").describe_conditions(None)[0].contains("10 class labels"));
    for class in [Some("bird"), None] {
        match mapped.initial_conditions(&requests(class)) {
            Err(GeneratorError::Config(error)) => assert_eq!(error.key, "class_labels"),
            other => panic!("{class:?}: {other:?}"),
        }
    }
}

#[test]
fn an_unconditional_model_has_one_condition() {
    let config = TINY.replace("class_cond = true", "");
    let config: Config = toml::from_str(&config).unwrap();
    let vb = VarBuilder::from_backend(Box::new(RandomWeights), DType::F32, Device::Cpu);
    let unet = UNet::new(&config.unet().unwrap(), &vb).unwrap();
    let generator = ImprovedDiffusion::new(&config, unet, &Device::Cpu).unwrap();
    let request_of_cat = ConditionRequest {
        class: Some("cat"),
        rng_key: KEY,
    };
    assert_eq!(
        generator.initial_conditions(&[request_of_cat]).unwrap(),
        [Condition(0)]
    );
    assert_eq!(generator.random(&[request(0)]).unwrap().len(), 1);
    assert!(generator.random(&[request(1)]).is_err());
}
