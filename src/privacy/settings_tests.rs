use super::*;

fn parse(text: &str) -> Result<PrivacyConfig, toml::de::Error> {
    toml::from_str(text)
}

fn refusal(text: &str, releases: u32, neighbors: u32, n: Option<usize>) -> String {
    match parse(text).unwrap().resolve(releases, neighbors, n, None) {
        Ok(resolved) => panic!("{text} resolved to {resolved:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn defaults_and_unknown_keys() {
    let config = parse("noise_multiplier = 7.071\ndelta = 1e-5").unwrap();
    assert_eq!(config.adjacency, Adjacency::AddRemove);
    assert_eq!(config.unit, Unit::Image);
    let all = "epsilon = 1.0\ndelta = 1e-5\nadjacency = \"replace-one\"\nunit = \"image\"";
    assert_eq!(parse(all).unwrap().adjacency, Adjacency::ReplaceOne);
    for (text, named) in [
        ("epsilom = 1.0\ndelta = 1e-5", "epsilom"),
        ("epsilon = 1.0", "delta"),
        ("epsilon = 1.0\ndelta = 1e-5\nunit = \"person\"", "person"),
        (
            "epsilon = 1.0\ndelta = 1e-5\nadjacency = \"remove\"",
            "remove",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn a_table_survives_being_written_and_read() {
    let text = "epsilon = 1.0\ndelta = 1e-5\nadjacency = \"replace-one\"";
    let config = parse(text).unwrap();
    let again = parse(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(config, again);
}

#[test]
fn a_target_epsilon_is_kept() {
    let config = parse("epsilon = 1.0\ndelta = 1e-5").unwrap();
    let resolved = config.resolve(10, 3, Some(50_000), None).unwrap();
    assert!((resolved.noise_multiplier_of(1).unwrap() - 11.797_293_077_1).abs() < 1e-6);
    assert!(resolved.epsilon_after(10, Adjacency::AddRemove) <= 1.0);
    assert_eq!(resolved.non_private(), None);
}

#[test]
fn what_cannot_be_private_is_refused() {
    let sigma = |sigma: &str| format!("noise_multiplier = {sigma}\ndelta = 1e-5");
    assert!(refusal("delta = 1e-5", 1, 1, None).contains("missing"));
    let both = "noise_multiplier = 1.0\nepsilon = 1.0\ndelta = 1e-5";
    assert!(refusal(both, 1, 1, None).contains("conflicts"));
    for bad in ["-1.0", "nan", "inf", "0.01", "1e9"] {
        let error = refusal(&sigma(bad), 1, 1, None);
        assert!(error.starts_with("noise_multiplier: expected"), "{error}");
    }
    for zero in ["0.0", "-0.0"] {
        assert!(refusal(&sigma(zero), 1, 1, None).contains("--non-private"));
    }
    for delta in ["0.0", "-1e-5", "1.0", "nan"] {
        let text = format!("noise_multiplier = 1.0\ndelta = {delta}");
        assert!(refusal(&text, 1, 1, None).starts_with("delta: "));
    }
    // δ = 1/n exactly is too large.
    assert!(refusal(&sigma("1.0"), 1, 1, Some(100_000)).contains("1/n = 1/100000"));
    // Also if n times the rounded 1/n is less than 1.
    for n in [49, 98, 103, 107] {
        let text = format!("noise_multiplier = 1.0\ndelta = {}", 1.0 / n as f64);
        assert!(
            refusal(&text, 1, 1, Some(n)).contains("less than 1/n"),
            "{n}"
        );
    }
    let config = parse(&sigma("1.0")).unwrap();
    let resolved = config.resolve(1, 1, Some(99_999), None).unwrap();
    assert!(resolved.check_units(100_000).is_err());
    assert!(refusal(&sigma("1.0"), 1, 0, None).starts_with("nearest_neighbors"));
    assert!(refusal(&sigma("1.0"), 1, 70_000, None).starts_with("nearest_neighbors"));
    assert!(refusal(&sigma("0.07"), 1_000_000, 1, None).contains("too small"));
    assert!(
        refusal("epsilon = 1.0\ndelta = 1e-5", 0, 1, None).contains("at least one planned release")
    );
}

#[test]
fn a_non_private_run_requires_consent_and_no_noise() {
    let consent = || Some(NonPrivateConsent::given());
    let config = parse("noise_multiplier = 0.0\ndelta = 1e-5").unwrap();
    let resolved = config.resolve(1, 1, None, consent()).unwrap();
    assert!(resolved.non_private().is_some());
    assert_eq!(
        resolved.epsilon_after(1, Adjacency::AddRemove),
        f64::INFINITY
    );
    let config = parse("noise_multiplier = 1.0\ndelta = 1e-5").unwrap();
    assert!(config.resolve(1, 1, None, consent()).is_err());
}
