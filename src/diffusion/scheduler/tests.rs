//! Every scheduler on data whose exact denoiser is known.

use candle_core::{DType, Device};
use serde_json::json;

use super::*;

const KINDS: [SchedulerKind; 4] = [
    SchedulerKind::Pndm,
    SchedulerKind::Ddim,
    SchedulerKind::Euler,
    SchedulerKind::DpmSolver,
];

fn scheduler(kind: SchedulerKind, options: serde_json::Value) -> Scheduler {
    let mut file = json!({
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "clip_sample": false
    });
    for (key, value) in options.as_object().unwrap() {
        file[key] = value.clone();
    }
    Scheduler::new(&SchedulerConfig::from_json(&file).unwrap(), kind, true)
}

fn tensor(values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::new(values.as_slice(), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// ᾱ at a timestep that may be fractional, as Euler's are.
fn alpha(scheduler: &Scheduler, timestep: f32) -> f64 {
    let sigma = spacing::interpolate(&scheduler.sigmas(), f64::from(timestep));
    1.0 / (1.0 + sigma * sigma)
}

/// Data that are normal with mean 0 and variance `spread`²: the exact prediction of the noise.
fn noise_of(scheduler: &Scheduler, spread: f64, input: &Tensor, timestep: f32) -> Tensor {
    let alpha = alpha(scheduler, timestep);
    let variance = alpha * spread * spread + 1.0 - alpha;
    (input * ((1.0 - alpha).sqrt() / variance)).unwrap()
}

/// Relative error of the end of the loop against the exact solution.
fn relative_error(scheduler: &Scheduler, steps: usize, skipped: usize, spread: f64) -> f64 {
    let denoising = scheduler.start(steps, skipped).unwrap();
    let noise = tensor(&[1.0]);
    let (start, first) = if skipped == 0 {
        let start = denoising.initial(&noise).unwrap();
        (start, denoising.timesteps()[0])
    } else {
        let nothing = tensor(&[0.0]);
        (
            denoising.noised(&nothing, &noise).unwrap(),
            denoising.timesteps()[0],
        )
    };
    let input = denoising.input(&start).unwrap().unwrap().1;
    // Exact: a sample keeps its quantile, so it scales as the standard deviation does.
    let alpha_first = alpha(scheduler, first);
    let deviation = (alpha_first * spread * spread + 1.0 - alpha_first).sqrt();
    let exact = values(&input)[0] / deviation * spread;
    let end = denoising
        .run(
            start,
            |input, timestep| Ok(noise_of(scheduler, spread, input, timestep)),
            |_, _| Ok(()),
        )
        .unwrap();
    (values(&end)[0] / exact - 1.0).abs()
}

#[test]
fn the_loop_ends_where_the_exact_solution_does() {
    // The bounds are slightly above the errors of the methods themselves, in float64, with these
    // steps. The error of PNDM in many steps is from its last step, which goes beyond the first
    // timestep.
    for (kind, coarse, fine) in [
        (SchedulerKind::Pndm, 0.001, 0.002),
        (SchedulerKind::Ddim, 0.09, 0.025),
        (SchedulerKind::Euler, 0.10, 0.025),
        (SchedulerKind::DpmSolver, 0.05, 0.01),
    ] {
        let scheduler = scheduler(kind, json!({"set_alpha_to_one": true}));
        let error = |steps| relative_error(&scheduler, steps, 0, 0.7);
        assert!(error(20) < coarse, "{kind:?} in 20: {}", error(20));
        assert!(error(100) < fine, "{kind:?} in 100: {}", error(100));
    }
}

#[test]
fn a_single_image_is_found_exactly() {
    // Whatever is left of the first timestep's noise at the end belongs to it.
    for kind in [
        SchedulerKind::Ddim,
        SchedulerKind::Euler,
        SchedulerKind::DpmSolver,
    ] {
        let scheduler = scheduler(kind, json!({"set_alpha_to_one": true}));
        for (steps, skipped) in [(10, 0), (10, 6), (1, 0)] {
            let denoising = scheduler.start(steps, skipped).unwrap();
            let image = tensor(&[0.5, -2.0, 0.0]);
            let noise = tensor(&[1.0, 0.3, -1.7]);
            let start = denoising.noised(&image, &noise).unwrap();
            let predict = |input: &Tensor, timestep: f32| {
                let alpha = alpha(&scheduler, timestep);
                let rest = (input - (&image * alpha.sqrt())?)?;
                rest / (1.0 - alpha).sqrt()
            };
            let end = denoising.run(start, predict, |_, _| Ok(())).unwrap();
            for (found, expected) in values(&end).iter().zip(values(&image)) {
                assert!(
                    (found - expected).abs() < 2e-4,
                    "{kind:?} {steps} {skipped}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn predicting_the_velocity_gives_the_same_result() {
    for kind in KINDS {
        let noise = scheduler(kind, json!({}));
        let velocity = scheduler(kind, json!({"prediction_type": "v_prediction"}));
        let end = |scheduler: &Scheduler, velocity: bool| {
            let denoising = scheduler.start(12, 0).unwrap();
            let start = denoising.initial(&tensor(&[0.8, -1.5])).unwrap();
            let predict = |input: &Tensor, timestep: f32| {
                let noise = noise_of(scheduler, 0.6, input, timestep);
                if !velocity {
                    return Ok(noise);
                }
                let alpha = alpha(scheduler, timestep);
                let (signal, deviation) = (alpha.sqrt(), (1.0 - alpha).sqrt());
                let image = ((input - (&noise * deviation)?)? / signal)?;
                (noise * signal)? - (image * deviation)?
            };
            values(&denoising.run(start, predict, |_, _| Ok(())).unwrap())
        };
        // PNDM combines predictions of several timesteps, so that the method depends on the kind of
        // prediction.
        let allowed = if kind == SchedulerKind::Pndm {
            0.12
        } else {
            1e-4
        };
        for (a, b) in end(&noise, false).iter().zip(end(&velocity, true)) {
            assert!((a - b).abs() < allowed, "{kind:?}: {a} and {b}");
        }
    }
}

#[test]
fn timesteps_of_each_kind() {
    let of =
        |kind, options, steps, skipped| scheduler(kind, options).timesteps(steps, skipped).unwrap();
    assert_eq!(
        of(SchedulerKind::Pndm, json!({}), 5, 0),
        [801.0, 601.0, 601.0, 401.0, 201.0, 1.0]
    );
    assert_eq!(of(SchedulerKind::Pndm, json!({}), 5, 5), [1.0]);
    assert_eq!(of(SchedulerKind::Pndm, json!({}), 1, 0), [1.0]);
    assert_eq!(
        of(SchedulerKind::Ddim, json!({}), 5, 1),
        [601.0, 401.0, 201.0, 1.0]
    );
    // Euler's are spread from end to end unless the file says otherwise.
    assert_eq!(
        of(SchedulerKind::Euler, json!({}), 4, 0),
        [999.0, 666.0, 333.0, 0.0]
    );
    let leading = json!({"timestep_spacing": "leading"});
    assert_eq!(
        of(SchedulerKind::Euler, leading.clone(), 4, 0),
        [751.0, 501.0, 251.0, 1.0]
    );
    assert_eq!(
        of(SchedulerKind::DpmSolver, json!({}), 4, 0),
        [999.0, 749.0, 500.0, 250.0]
    );
    assert_eq!(
        of(SchedulerKind::DpmSolver, leading, 4, 0),
        [801.0, 601.0, 401.0, 201.0]
    );
}

#[test]
fn a_corrected_slice_begins_anew() {
    let file = json!({
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "skip_prk_steps": true, "steps_offset": 1
    });
    let config = SchedulerConfig::from_json(&file).unwrap();
    let corrected = Scheduler::new(&config, SchedulerKind::Pndm, false);
    let exact = Scheduler::new(&config, SchedulerKind::Pndm, true);
    assert_eq!(
        corrected.timesteps(5, 2).unwrap(),
        [401.0, 201.0, 201.0, 1.0]
    );
    assert_eq!(exact.timesteps(5, 2).unwrap(), [601.0, 401.0, 201.0, 1.0]);
    assert_eq!(
        corrected.timesteps(5, 0).unwrap(),
        exact.timesteps(5, 0).unwrap()
    );
    // What the original runs ends noisier than it should: the correction is closer to the truth.
    let error = |scheduler: &Scheduler| relative_error(scheduler, 50, 20, 0.5);
    assert!(
        error(&corrected) < error(&exact) / 2.0,
        "{} and {}",
        error(&corrected),
        error(&exact)
    );
}

#[test]
fn impossible_walks_are_refused() {
    for kind in KINDS {
        let scheduler = scheduler(kind, json!({}));
        for steps in [0, 1001] {
            let error = scheduler.timesteps(steps, 0).unwrap_err().to_string();
            assert!(error.contains("1 to 1000"), "{kind:?}: {error}");
        }
        let left_out = if kind == SchedulerKind::Pndm { 11 } else { 10 };
        assert!(scheduler.timesteps(10, left_out).is_err(), "{kind:?}");
        assert!(scheduler.timesteps(10, left_out - 1).is_ok(), "{kind:?}");
    }
    // The offset would lead beyond the last timestep.
    let scheduler = scheduler(SchedulerKind::Ddim, json!({}));
    let error = scheduler.timesteps(1000, 0).unwrap_err().to_string();
    assert!(error.contains("timestep 1000"), "{error}");
}

#[test]
fn strength_is_cut_in_float64() {
    for (steps, strength, skipped) in [
        (50, 1.0, 0),
        (50, 0.98, 1),
        (50, 0.58, 22),
        (50, 0.02, 49),
        (50, 0.0, 50),
        (10, 0.4, 6),
        (3, 1.5, 0),
    ] {
        assert_eq!(skipped_steps(steps, strength), skipped, "{strength}");
    }
}

/// Steps of diffusers' own Euler and DPM-Solver++, from predictions by formula.
#[test]
fn euler_and_dpm_solver_step_as_diffusers_does() {
    let file: serde_json::Value = serde_json::from_str(include_str!("diffusers.json")).unwrap();
    let list = |value: &serde_json::Value| -> Vec<f64> {
        let values = value.as_array().unwrap().iter();
        values.map(|v| v.as_f64().unwrap()).collect()
    };
    let close = |what: &str, found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(expected) {
            // Ten times what float32 moves the original, as in the goldens.
            let allowed = 2e-5 * expected.abs().max(1.0);
            assert!(
                (found - expected).abs() < allowed,
                "{what}: {found} for {expected}"
            );
        }
    };
    let rows = file["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 18);
    for row in rows {
        let what = format!("{} {}", row["config"], row["t_start"]);
        let config = SchedulerConfig::from_json(&row["config"]).unwrap();
        let scheduler = Scheduler::new(&config, config.kind, true);
        let number = |key: &str| row[key].as_u64().unwrap() as usize;
        let mut denoising = scheduler
            .start(number("num_inference_steps"), number("t_start"))
            .unwrap();
        let timesteps: Vec<f64> = denoising
            .timesteps()
            .iter()
            .map(|t| f64::from(*t))
            .collect();
        assert!(
            timesteps
                .iter()
                .zip(list(&row["timesteps"]))
                .all(|(found, expected)| (found - expected).abs() < 1e-3),
            "{what}: {timesteps:?}"
        );
        let mut sample = tensor(&[0.5, -1.2, 2.0]);
        let noise = tensor(&[1.0, 0.3, -1.7]);
        let initial = values(&denoising.initial(&tensor(&[1.0])).unwrap());
        close(
            &what,
            &initial,
            &[row["init_noise_sigma"].as_f64().unwrap()],
        );
        let noised = denoising.noised(&sample, &noise).unwrap();
        close(&what, &values(&noised), &list(&row["added_noise"]));
        let (_, input) = denoising.input(&sample).unwrap().unwrap();
        close(&what, &values(&input), &list(&row["scaled_model_input"]));
        let steps = row["prev_samples"].as_array().unwrap();
        assert_eq!(steps.len(), timesteps.len(), "{what}");
        for (index, expected) in steps.iter().enumerate() {
            let i = index as f64;
            let output = tensor(&[(i + 1.0).cos(), (2.0 * i + 1.0).sin(), 0.3 * i - 1.0]);
            sample = denoising.step(&output, &sample).unwrap();
            close(&what, &values(&sample), &list(expected));
        }
    }
}
