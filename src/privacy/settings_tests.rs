use super::*;

fn parse(text: &str) -> Result<PrivacyConfig, toml::de::Error> {
    toml::from_str(text)
}

fn refusal(
    text: &str,
    releases: u32,
    neighbors: impl Into<Schedule<u32>>,
    n: Option<usize>,
) -> String {
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
    for bad in ["-1.0", "0.01", "1e9"] {
        let error = refusal(&sigma(bad), 1, 1, None);
        assert!(error.starts_with("noise_multiplier: expected"), "{error}");
    }
    for bad in ["nan", "inf", "[1.0, nan]"] {
        let error = parse(&sigma(bad)).unwrap_err().to_string();
        assert!(error.contains("expected a finite number"), "{error}");
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

#[test]
fn each_iteration_has_its_own_noise_and_neighbors() {
    let config = parse("noise_multiplier = [2, 4.0, { value = 8, times = 2 }]\ndelta = 1e-5");
    let config = config.unwrap();
    let neighbors = Schedule::List(vec![1, 4, 9, 1]);
    let resolved = config.resolve(4, neighbors.clone(), None, None).unwrap();
    let of = |t| {
        (
            resolved.noise_multiplier_of(t),
            resolved.nearest_neighbors_of(t),
        )
    };
    assert_eq!(of(1), (Some(2.0), Some(1)));
    assert_eq!(of(3), (Some(8.0), Some(9)));
    assert_eq!([of(0), of(5)], [(None, None); 2]);
    assert_eq!(resolved.noise_votes().values(), [2.0, 8.0, 24.0, 8.0]);
    // On the lattice, σ·√k·2²⁰ + 1.
    let lattice = |t| resolved.lattice_sigma(t).map(|sigma| sigma.unwrap());
    assert_eq!(lattice(3).unwrap(), BigUint::from((24u32 << 20) + 1));
    let all = resolved.lattice_sigmas().unwrap();
    for t in 1..=4 {
        assert_eq!(all.values()[t as usize - 1], lattice(t).unwrap());
    }
    // No noise without a planned release.
    for t in [0, 5] {
        let error = lattice(t).unwrap_err().to_string();
        assert!(error.contains("only 4 releases are planned"), "{error}");
    }
    // 1/4 + 1/16 = 5/16, and k has no influence.
    let after = |t| resolved.epsilon_after(t, Adjacency::AddRemove);
    let two = accountant::epsilon(4.0 / 5f64.sqrt(), 1, 1e-5, Adjacency::AddRemove).unwrap();
    assert!((after(2) / two - 1.0).abs() < 1e-12);
    let rho = resolved.rho_after(2, Adjacency::ReplaceOne);
    assert!((0.0..1e-14).contains(&(rho - 5.0 / 16.0)), "{rho}");
    let one_vote = config.resolve(4, 1, None, None).unwrap();
    assert_eq!(after(4), one_vote.epsilon_after(4, Adjacency::AddRemove));
    // The reserve covers all of them together.
    assert!(resolved.deviation() > one_vote.deviation() / 4.0);
    let client = PrivacyConfig {
        unit: Unit::Client,
        ..config
    };
    let client = client.resolve(4, neighbors, None, None).unwrap();
    assert_eq!(client.noise_votes().values(), [2.0, 4.0, 8.0, 8.0]);
    let chosen = client.clone().with_replaced_images(2);
    assert_eq!(chosen.squared_votes(9), 2);
    // A target has the same noise in all iterations, whatever k is.
    let target = parse("epsilon = 1.0\ndelta = 1e-5").unwrap();
    let resolved = target.resolve(2, Schedule::List(vec![1, 4]), None, None);
    let resolved = resolved.unwrap();
    assert_eq!(resolved.noise_multiplier().len(), None);
    let votes = resolved.noise_votes();
    assert!((votes.get(1).unwrap() / votes.get(0).unwrap() - 2.0).abs() < 1e-12);
}

#[test]
fn every_entry_of_a_list_is_checked() {
    let sigmas = |list: &str| format!("noise_multiplier = {list}\ndelta = 1e-5");
    for (list, releases) in [("[1, 2, 3]", 2), ("[1, 2, 3]", 4), ("[1]", 2), ("[1]", 0)] {
        let error = refusal(&sigmas(list), releases, 1, None);
        let found = list.split(',').count();
        let named = format!("{found} entries where {releases} were expected");
        assert!(error.contains(&named) && error.starts_with("noise_multiplier"));
    }
    assert!(refusal(&sigmas("[]"), 0, 1, None).contains("an empty list"));
    for (list, named) in [
        ("[1, 0.01, 1]", "found 0.01 in iteration 2"),
        ("[1, 1, 2e6]", "found 2000000 in iteration 3"),
        ("[0, 1, 1]", "0 in iteration 1 gives no privacy"),
        ("[1, 1, -0.0]", "0 in iteration 3 gives no privacy"),
        (
            "[1, -1, 1]",
            "expected a finite number of at least 0, found -1",
        ),
    ] {
        let error = refusal(&sigmas(list), 3, 1, None);
        assert!(error.contains(named), "{error}");
    }
    let neighbors = |list: &[u32]| refusal(&sigmas("1"), 2, Schedule::List(list.to_vec()), None);
    assert!(neighbors(&[1]).starts_with("nearest_neighbors: 1 entries where 2 were expected"));
    assert!(neighbors(&[1, 0]).contains("at least 1, found 0 in iteration 2"));
    assert!(neighbors(&[65_537, 1]).contains("at most 65536, found 65537 in iteration 1"));
    // One release with very little noise is within the reserve, a thousand are not.
    let little = |count: usize| sigmas(&format!("[{{ value = 0.0625, times = {count} }}, 9]"));
    parse(&little(9))
        .unwrap()
        .resolve(10, 1, None, None)
        .unwrap();
    assert!(refusal(&little(9999), 10_000, 1, None).contains("too small for 10000 iterations"));

    let consent = || Some(NonPrivateConsent::given());
    let resolve = |list: &str| parse(&sigmas(list)).unwrap().resolve(2, 1, None, consent());
    let without = resolve("[0, -0.0]").unwrap();
    assert!(without.non_private().is_some() && !without.has_noise());
    assert_eq!(without.lattice_sigma(2).unwrap(), None);
    let error = resolve("[0, 3]").unwrap_err().to_string();
    assert!(error.contains("expected 0 with --non-private, found 3 in iteration 2"));
}
