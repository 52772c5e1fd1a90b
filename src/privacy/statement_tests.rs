use serde_json::Value;

use super::*;
use crate::privacy::{
    Fingerprint, NonPrivateConsent, PrivacyConfig, PrivateFolder, Sensitive, sha256_hex,
};

fn inputs() -> PublicInputs {
    PublicInputs {
        declared_size: Some(50_000),
        declared_clients: None,
        image_size: [32, 32],
        samples: 1000,
        class_names: vec!["cat".to_owned(), "dog".to_owned()],
        class_shares: vec![0.5, 0.5],
        conditions: vec![ClassConditions {
            class: Some("cat".to_owned()),
            conditions: vec!["281".to_owned()],
        }],
        prompts: vec!["a cat".to_owned()],
        selection: "all images of the source".to_owned(),
        num_samples: None,
        model_weights_sha256: Some(sha256_hex(b"model")),
        embedder_weights_sha256: None,
        initial_samples_sha256: None,
    }
}

const CPU: EmbeddingDevice<'_> = EmbeddingDevice {
    name: "cpu",
    is_checked: false,
};

/// Returns the statement after `executed` of 20 releases, as it is read back from its file.
fn written(config: &PrivacyConfig, executed: u32, non_private: Option<NonPrivateConsent>) -> Value {
    written_with(config, executed, non_private, inputs(), CPU)
}

fn written_with(
    config: &PrivacyConfig,
    executed: u32,
    non_private: Option<NonPrivateConsent>,
    inputs: PublicInputs,
    device: EmbeddingDevice<'_>,
) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let privacy = config.resolve(20, 4, Some(50_000), non_private).unwrap();
    let ledger = ledger(folder.path(), &privacy, executed);
    let fallback = UniformFallback {
        iteration: 2,
        class: Some("dog".to_owned()),
    };
    let statement = Statement::new(&ledger, inputs, vec![fallback], device);
    let path = folder.path().join("privacy.json");
    statement.write(&path).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(statement.summary()));
    serde_json::from_str(&text).unwrap()
}

/// Returns the ledger of a run after `executed` releases.
fn ledger(folder: &Path, privacy: &ResolvedPrivacy, executed: u32) -> Ledger {
    let private = PrivateFolder::create(folder.join("private")).unwrap();
    let data = Sensitive::new(Fingerprint::of([b"images".as_slice()]));
    let digest = sha256_hex(b"config");
    let mut ledger = Ledger::open(folder, privacy, &digest, &private, &data).unwrap();
    for iteration in 1..=executed {
        let _charge = ledger
            .charge(iteration, &sha256_hex(b"population"))
            .unwrap();
        let histogram = NoisyHistogram::from_lattice(vec![1]);
        ledger.record_drawn(iteration, &histogram).unwrap();
    }
    ledger
}

fn config(noise_multiplier: f64, adjacency: Adjacency) -> PrivacyConfig {
    PrivacyConfig {
        noise_multiplier: Some(noise_multiplier.into()),
        epsilon: None,
        delta: 1e-5,
        adjacency,
        unit: Unit::Image,
        budget: None,
        pad_release_to: None,
    }
}

#[test]
fn every_epsilon_has_its_unit_adjacency_and_delta() {
    let sigma = 5.0 * 2f64.sqrt();
    let json = written(&config(sigma, Adjacency::AddRemove), 20, None);
    let guarantees = json["guarantees"].as_array().unwrap();
    assert_eq!(guarantees.len(), 40);
    for guarantee in guarantees {
        assert_eq!(guarantee["unit"], "image");
        assert_eq!(guarantee["delta"], 1e-5);
        assert_eq!(
            guarantee["declared"],
            guarantee["adjacency"] == "add-remove"
        );
        assert!(guarantee["epsilon"].as_f64().unwrap() > 0.49);
    }
    assert_eq!(guarantees[0]["epsilon"], 0.496_976);
    assert_eq!(guarantees[38]["after_iteration"], 20);
    assert_eq!(guarantees[38]["epsilon"], 2.594_384);
    assert_eq!(guarantees[39]["adjacency"], "replace-one");
    assert!((guarantees[39]["epsilon"].as_f64().unwrap() - 3.849).abs() < 1e-3);
    // T/(2σ²) = 20/100
    assert!((guarantees[38]["zcdp_rho"].as_f64().unwrap() - 0.2).abs() < 1.1e-6);
    let summary = json["summary"].as_str().unwrap();
    assert!(
        summary.contains("After 20 of 20 planned releases"),
        "{summary}"
    );
    assert!(
        summary.contains("(2.595, 0.00001)-differentially private"),
        "{summary}"
    );
    assert!(
        summary.contains("unit one image, adjacency add-remove"),
        "{summary}"
    );
}

#[test]
fn the_mechanism_is_described_by_numbers() {
    let json = written(&config(2.0, Adjacency::ReplaceOne), 2, None);
    let mechanism = &json["mechanism"];
    assert_eq!(mechanism["noise_multiplier"], 2.0);
    assert_eq!(mechanism["nearest_neighbors"], 4);
    assert_eq!(mechanism["noise_parameter_votes"], 4.0);
    assert_eq!(mechanism["l2_sensitivity_votes"][0]["l2"], 2.0);
    assert_eq!(
        mechanism["l2_sensitivity_votes"][1]["adjacency"],
        "replace-one"
    );
    assert_eq!(mechanism["lattice_spacing_votes"], 1.0 / 1_048_576.0);
    assert_eq!(mechanism["lattice_sigma"], "4194305");
    assert!(
        mechanism["noise"]
            .as_str()
            .unwrap()
            .contains("keyed once per run by the operating system")
    );
    assert_eq!(json["releases_planned"], 20);
    assert_eq!(json["releases_executed"], 2);
    assert_eq!(json["adjacency"], "replace-one");
    assert_eq!(json["non_private"], Value::Null);
    assert_eq!(json["declared_public"]["declared_size"], 50_000);
    assert_eq!(json["declared_public"]["class_names"][1], "dog");
    assert_eq!(json["uniform_fallbacks"][0]["iteration"], 2);
    assert_eq!(json["run_id"].as_str().unwrap().len(), 32);
    assert!(json["assumptions"].as_array().unwrap().len() > 5);
}

/// With the first images of a source only, an image more takes the place of another one.
#[test]
fn a_truncated_source_has_no_row_under_add_remove() {
    let truncated = PublicInputs {
        num_samples: Some(100),
        ..inputs()
    };
    let replace = config(2.0, Adjacency::ReplaceOne);
    let json = written_with(&replace, 2, None, truncated, CPU);
    let rows = json["guarantees"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["adjacency"], "replace-one");
        assert_eq!(row["declared"], true);
    }
    let sensitivities = json["mechanism"]["l2_sensitivity_votes"].as_array();
    assert_eq!(sensitivities.unwrap().len(), 1);
    assert_eq!(json["declared_public"]["num_samples"], 100);
    assert!(!json["summary"].as_str().unwrap().contains("add-remove"));
    // Without truncation, the other relation is given for information.
    let whole = written(&replace, 2, None);
    assert_eq!(whole["guarantees"].as_array().unwrap().len(), 4);
    assert_eq!(whole["declared_public"]["num_samples"], Value::Null);
}

#[test]
fn the_device_of_private_images_and_its_check_are_stated() {
    let assumption = |device: EmbeddingDevice<'_>| {
        let config = config(2.0, Adjacency::AddRemove);
        let json = written_with(&config, 1, None, inputs(), device);
        let all = json["assumptions"].as_array().unwrap().clone();
        let about = all.iter().filter_map(Value::as_str);
        let about: Vec<&str> = about.filter(|text| text.contains("vector")).collect();
        assert_eq!(about.len(), 1, "{about:?}");
        about[0].to_owned()
    };
    let on_cpu = assumption(CPU);
    assert!(on_cpu.contains("on cpu: there the program computes each image by itself"));
    let on_gpu = assumption(EmbeddingDevice {
        name: "cuda:1",
        is_checked: true,
    });
    assert!(on_gpu.contains("on cuda:1: before the run, public images were embedded there"));
    assert!(on_gpu.contains("a test and no proof"), "{on_gpu}");
}

#[test]
fn a_run_without_noise_claims_nothing() {
    let non_private = Some(NonPrivateConsent::given());
    let json = written(&config(0.0, Adjacency::AddRemove), 1, non_private);
    assert!(json["summary"].as_str().unwrap().starts_with("NOT PRIVATE"));
    assert!(json["non_private"].as_str().is_some());
    assert_eq!(json["guarantees"], Value::Array(Vec::new()));
    assert_eq!(json["mechanism"]["lattice_sigma"], Value::Null);
}

#[test]
fn a_schedule_is_stated_as_lists_with_epsilon_after_each_iteration() {
    let config = PrivacyConfig {
        noise_multiplier: Some(Schedule::List(vec![2.0, 8.0, 4.0])),
        ..config(1.0, Adjacency::AddRemove)
    };
    let neighbors = Schedule::List(vec![1, 4, 9]);
    let privacy = config.resolve(3, neighbors, None, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(folder.path(), &privacy, 2);
    let statement = Statement::new(&ledger, inputs(), Vec::new(), CPU);
    let json = serde_json::to_value(&statement).unwrap();
    let mechanism = &json["mechanism"];
    let list = |values: [f64; 3]| serde_json::json!(values);
    assert_eq!(mechanism["noise_multiplier"], list([2.0, 8.0, 4.0]));
    assert_eq!(mechanism["nearest_neighbors"], serde_json::json!([1, 4, 9]));
    assert_eq!(mechanism["noise_parameter_votes"], list([2.0, 16.0, 12.0]));
    let l2 = &mechanism["l2_sensitivity_votes"][0]["l2"];
    assert_eq!(*l2, list([1.0, 2.0, 3.0]));
    assert_eq!(
        mechanism["lattice_sigma"][1],
        ((16u32 << 20) + 1).to_string()
    );
    let accounting = mechanism["accounting"].as_str().unwrap();
    assert!(accounting.contains("the sum of s^2/noise_multiplier^2 over the releases"));
    // 1/4, and 1/4 + 1/64 under both adjacencies.
    let guarantees = json["guarantees"].as_array().unwrap();
    assert_eq!(guarantees.len(), 4);
    for (row, precision) in [(0, 0.25), (1, 0.5), (2, 17.0 / 64.0), (3, 17.0 / 32.0)] {
        let row = &guarantees[row];
        let one =
            crate::privacy::epsilon(f64::powf(precision, -0.5), 1, 1e-5, Adjacency::AddRemove);
        let above = row["epsilon"].as_f64().unwrap() - one.unwrap();
        assert!((-1e-9..1.1e-6).contains(&above), "{row}");
        let above = row["zcdp_rho"].as_f64().unwrap() - precision / 2.0;
        assert!((0.0..1.1e-6).contains(&above), "{row}");
    }
    let votes = json["assumptions"].as_array().unwrap().iter();
    let mut votes = votes.filter_map(Value::as_str);
    assert!(votes.any(|text| text.contains("one vote in each of at most 9 bins")));
    assert!(
        statement
            .summary()
            .contains("After 2 of 3 planned releases")
    );
}
