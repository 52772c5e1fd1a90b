//! Ledgers of runs whose noise, or whose number of votes, changes from release to release.

use super::*;
use crate::schedule::Schedule;

const SIGMAS: [f64; 3] = [2.0, 8.0, 4.0];

fn resolved(sigmas: &[f64], neighbors: &[u32]) -> ResolvedPrivacy {
    let config = PrivacyConfig {
        noise_multiplier: Some(Schedule::List(sigmas.to_vec())),
        ..config()
    };
    let neighbors = match neighbors {
        [k] => Schedule::Constant(*k),
        all => Schedule::List(all.to_vec()),
    };
    config
        .resolve(sigmas.len() as u32, neighbors, None, None)
        .unwrap()
}

fn schedule() -> ResolvedPrivacy {
    resolved(&SIGMAS, &[1, 4, 9])
}

fn open(folder: &Folder, terms: &ResolvedPrivacy) -> Result<Ledger, PrivacyError> {
    folder.open_as(terms, &sha256_hex(b"config"))
}

/// The ledger of a run with [`schedule`] that was never interrupted.
fn uninterrupted() -> Vec<u8> {
    let folder = Folder::new();
    fs::write(folder.private().path().join(NOISE_KEY), KEY).unwrap();
    finish(&mut open(&folder, &schedule()).unwrap(), 0);
    folder.bytes()
}

#[test]
fn each_charge_says_its_own_noise() {
    let text = String::from_utf8(uninterrupted()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let header = &lines[0];
    assert_eq!(
        header["noise_multiplier"],
        serde_json::json!([2.0, 8.0, 4.0])
    );
    assert_eq!(header["nearest_neighbors"], serde_json::json!([1, 4, 9]));
    // σ·√k·2²⁰ + 1
    let lattice = [2u32, 16, 12].map(|votes| ((votes << 20) + 1).to_string());
    assert_eq!(header["lattice_sigma"], serde_json::json!(lattice));
    for (t, charge) in lines[1..].iter().step_by(2).enumerate() {
        assert_eq!(charge["noise_multiplier"], SIGMAS[t]);
        assert_eq!(charge["nearest_neighbors"], [1, 4, 9][t]);
        // ε so far has the noise of the first releases only.
        let precision: f64 = SIGMAS[..=t].iter().map(|sigma| sigma.powi(-2)).sum();
        let one = crate::privacy::epsilon(precision.powf(-0.5), 1, 1e-5, Adjacency::AddRemove);
        let so_far = charge["epsilon_so_far"].as_f64().unwrap() - one.unwrap();
        assert!((-1e-9..1e-6).contains(&so_far), "{so_far}");
    }
    // One number for all has the lines of earlier versions.
    let constant = String::from_utf8(complete()).unwrap();
    assert_eq!(constant.matches("noise_multiplier").count(), 1);
    assert!(constant.contains("\"noise_multiplier\":7.0710678118654755,\"nearest_neighbors\":1,"));
    assert!(
        constant.contains("\"lattice_sigma\":\"7414554\","),
        "{constant}"
    );
}

/// The ledger of a run with `epsilon = 5` after its second charge, of a version that knew one
/// number only (commit bde8224).
const EARLIER_VERSION: &str = "{\"ledger\":\"dpsyn privacy ledger\",\"version\":2,\
     \"run_id\":\"f15e1bc7767a69171b28964637d765a9\",\
     \"mechanism\":\"discrete gaussian on a histogram of votes\",\
     \"noise_multiplier\":1.2612921962009869,\"nearest_neighbors\":1,\"lattice_bits\":20,\
     \"lattice_sigma\":\"1322562\",\"planned_releases\":2,\"delta\":0.00001,\
     \"adjacency\":\"add-remove\",\"unit\":\"image\",\
     \"noise\":\"HMAC-SHA-256 and ChaCha20, keyed once per run by the operating system\",\
     \"noise_key_sha256\":\"9a49df51105fb407cec43c4b726099dcd4cde4e1c7930a4eabf995a1cad78b34\",\
     \"non_private\":null,\
     \"config_sha256\":\"7bae2575730401280f2e0b67c91557f9b7b1dc98325604b9949526ea9bb646cd\",\
     \"earlier_runs\":[]}\n\
     {\"record\":\"charge\",\"iteration\":1,\"release\":\"noisy histogram of votes\",\
     \"releases_so_far\":1,\"epsilon_so_far\":3.35235,\"delta\":0.00001,\
     \"adjacency\":\"add-remove\",\"unit\":\"image\",\
     \"candidates_sha256\":\"5cf75ad6de49a328562e95679e8f06beccad49d08c81e505a111aa97d377b07f\"}\n\
     {\"record\":\"drawn\",\"iteration\":1,\
     \"sha256\":\"9a8cbe6e0acd27594382fce330e138101717f6e5ebf69eee7028dc5cde26434b\"}\n\
     {\"record\":\"charge\",\"iteration\":2,\"release\":\"noisy histogram of votes\",\
     \"releases_so_far\":2,\"epsilon_so_far\":5.0,\"delta\":0.00001,\
     \"adjacency\":\"add-remove\",\"unit\":\"image\",\
     \"candidates_sha256\":\"d8ae1df6b242610de57873f9da228ae0e1d85e60fd1c805ec3fd64037b407736\"}\n";

#[test]
fn the_lines_of_an_earlier_version_are_accepted() {
    let config = PrivacyConfig {
        noise_multiplier: None,
        epsilon: Some(5.0),
        ..config()
    };
    let terms = config.resolve(2, 1, None, None).unwrap();
    let folder = Folder::new();
    fs::write(folder.path().join(LEDGER), EARLIER_VERSION).unwrap();
    let digest = "7bae2575730401280f2e0b67c91557f9b7b1dc98325604b9949526ea9bb646cd";
    // Every line is accepted: what is missing is the key of that run, which is nowhere.
    let error = error_of(folder.open_as(&terms, digest));
    assert!(error.contains("noise-key is missing"), "{error}");
    assert_eq!(folder.text(), EARLIER_VERSION);
    let edited = EARLIER_VERSION.replace("\"epsilon_so_far\":5.0", "\"epsilon_so_far\":4.0");
    fs::write(folder.path().join(LEDGER), edited).unwrap();
    let error = error_of(folder.open_as(&terms, digest));
    assert!(error.contains("line 4: expected"), "{error}");
    // Its charges are carried on as before.
    fs::write(folder.path().join(LEDGER), EARLIER_VERSION).unwrap();
    let earlier = EarlierRun::read(folder.path()).unwrap();
    assert_eq!(earlier[0].noise_multiplier, terms.noise_multiplier);
    assert_eq!((earlier[0].releases, earlier.len()), (2, 1));
    let epsilon = terms.epsilon_after(2, Adjacency::AddRemove);
    assert!(epsilon <= 5.0 && epsilon > 4.999_999, "{epsilon}");
}

/// Killed at the end of each line, within it and just before its end, a run goes on to the same
/// ledger.
#[test]
fn a_killed_run_goes_on_with_the_noise_of_its_iteration() {
    let complete = uninterrupted();
    let ends = complete.iter().enumerate().filter(|(_, b)| **b == b'\n');
    let header = complete.iter().position(|b| *b == b'\n').unwrap() + 1;
    let lengths = ends.flat_map(|(end, _)| [end - 70, end - 40, end, end + 1]);
    for length in lengths.filter(|length| *length >= header) {
        let folder = Folder::with_ledger(&complete[..length]);
        let mut ledger = open(&folder, &schedule()).unwrap();
        let charged = ledger.charged();
        if ledger.awaits_drawing() {
            let charge = ledger.charge(charged, &candidates(charged)).unwrap();
            assert!(charge.is_resumed());
            assert_eq!(sigma_of(&charge), sigma_at(charged));
            ledger.record_drawn(charged, &histogram(charged)).unwrap();
        }
        finish(&mut ledger, charged);
        assert_eq!(folder.bytes(), complete, "{length}");
    }
}

fn sigma_of(charge: &Charge) -> BigUint {
    match &charge.noise {
        Noise::DiscreteGaussian { sigma, .. } => sigma.clone(),
        Noise::Nothing => panic!("no noise"),
    }
}

fn sigma_at(iteration: u32) -> BigUint {
    let votes = [2u32, 16, 12][iteration as usize - 1];
    BigUint::from((votes << 20) + 1)
}

#[test]
fn the_charge_of_each_iteration_has_its_noise() {
    let folder = Folder::new();
    let mut ledger = open(&folder, &schedule()).unwrap();
    for t in 1..=3 {
        let charge = ledger.charge(t, &candidates(t)).unwrap();
        assert_eq!(sigma_of(&charge), sigma_at(t));
        ledger.record_drawn(t, &histogram(t)).unwrap();
    }
    assert!(error_of(ledger.charge(4, &candidates(4))).contains("only 3 releases are planned"));
}

/// The released noise itself: 40,000 bins in each of three releases, with the standard deviation
/// σ_t·√k_t votes. The standard errors are σ_t√k_t/200 for the mean and σ_t√k_t/283 for the
/// standard deviation; the bounds are six of them, so that one of the six comparisons fails by
/// chance less than once in 5·10⁷ runs.
#[test]
fn released_noise_has_the_size_of_its_iteration() {
    let folder = Folder::new();
    let mut ledger = open(&folder, &schedule()).unwrap();
    for (t, k, size) in [(1, 1, 2.0), (2, 4, 16.0), (3, 9, 12.0)] {
        let counts = Sensitive::new(VoteCounts::of_images(&[1000; 40_000], k));
        let charge = ledger.charge(t, &candidates(t)).unwrap();
        let path = folder.path().join(t.to_string());
        let drawn = release(counts, charge).unwrap();
        let drawn = drawn.store(&mut ledger, &folder.private(), &path, |_, _| Ok(()));
        let values = drawn.unwrap().values();
        let mean = values.iter().sum::<f64>() / 40_000.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 40_000.0;
        assert!((mean - 1000.0).abs() < 6.0 * size / 200.0, "{t}: {mean}");
        let off = variance.sqrt() - size;
        assert!(off.abs() < 6.0 * size / 80_000f64.sqrt(), "{t}: {variance}");
    }
}

/// Votes for the neighbors of another iteration are not covered by the noise of this one.
#[test]
fn votes_of_another_iteration_are_not_released() {
    let folder = Folder::new();
    let mut ledger = open(&folder, &schedule()).unwrap();
    let counts = |k| Sensitive::new(VoteCounts::of_images(&[5, 5], k));
    let charge = ledger.charge(1, &candidates(1)).unwrap();
    let error = error_of(release(counts(4), charge));
    assert!(
        error.contains("up to 4 votes, but 1 are charged"),
        "{error}"
    );
    ledger.record_drawn(1, &histogram(1)).unwrap();
    let charge = ledger.charge(2, &candidates(2)).unwrap();
    assert!(release(counts(4), charge).is_ok());
}

/// Other values, another order (which costs the same in the end, but not before), a constant and a
/// list of equal values are other terms.
#[test]
fn another_schedule_is_refused() {
    let folder = Folder::with_ledger(&uninterrupted());
    let refused = |terms: &ResolvedPrivacy, key: &str| {
        let error = error_of(open(&folder, terms));
        assert!(error.contains(&format!("`{key}` was [")), "{error}");
    };
    refused(&resolved(&[8.0, 2.0, 4.0], &[1, 4, 9]), "noise_multiplier");
    refused(&resolved(&[2.0, 8.0, 4.5], &[1, 4, 9]), "noise_multiplier");
    refused(&resolved(&SIGMAS, &[4, 1, 9]), "nearest_neighbors");
    refused(&resolved(&SIGMAS, &[1]), "nearest_neighbors");
    refused(&terms(), "noise_multiplier");
    open(&folder, &schedule()).unwrap();

    let constant = Folder::with_ledger(&complete());
    let equal = resolved(&[5.0 * 2f64.sqrt(); 3], &[1]);
    let error = error_of(open(&constant, &equal));
    assert!(error.contains("`noise_multiplier` was 7.07"), "{error}");
}

#[test]
fn a_charge_with_another_noise_is_refused() {
    let text = String::from_utf8(uninterrupted()).unwrap();
    for (from, to) in [
        ("\"noise_multiplier\":8.0,", "\"noise_multiplier\":9.0,"),
        ("\"noise_multiplier\":8.0,", ""),
        ("\"nearest_neighbors\":4,", "\"nearest_neighbors\":1,"),
    ] {
        assert_eq!(text.matches(from).count(), 1);
        let edited = text.replace(from, to);
        let folder = Folder::with_ledger(edited.as_bytes());
        let error = error_of(open(&folder, &schedule()));
        assert!(error.contains("line 4: expected"), "{error}");
        assert_eq!(folder.text(), edited);
    }
    // In the header, where it must equal the plan.
    let edited = text.replacen("[2.0,8.0,4.0]", "[9.0,8.0,4.0]", 1);
    let folder = Folder::with_ledger(edited.as_bytes());
    assert!(error_of(open(&folder, &schedule())).contains("`noise_multiplier` was [9.0,"));
}

#[test]
fn the_first_terms_of_an_earlier_run_are_carried_on() {
    let first = Folder::new();
    let mut ledger = open(&first, &schedule()).unwrap();
    for t in 1..=2 {
        let _charge = ledger.charge(t, &candidates(t)).unwrap();
        ledger.record_drawn(t, &histogram(t)).unwrap();
    }
    drop(ledger);
    let earlier = EarlierRun::read(first.path()).unwrap();
    assert_eq!(earlier[0].releases, 2);
    assert_eq!(earlier[0].noise_multiplier.values(), SIGMAS);
    let shown = earlier[0].to_string();
    assert_eq!(
        shown,
        "2 releases of an earlier run with noise multiplier [2, 8]"
    );
    // 1/4 + 1/64, and 3 releases with σ = 5√2: 3/50.
    let terms = terms().with_earlier(earlier.clone()).unwrap();
    let precision: f64 = 0.25 + 1.0 / 64.0 + 3.0 / 50.0;
    let one = crate::privacy::epsilon(precision.powf(-0.5), 1, 1e-5, Adjacency::AddRemove);
    let found = terms.epsilon_after(3, Adjacency::AddRemove) / one.unwrap();
    assert!((found - 1.0).abs() < 1e-12, "{found}");
    let rho = terms.rho_after(3, Adjacency::AddRemove);
    assert!((0.0..1e-14).contains(&(rho - precision / 2.0)), "{rho}");
    // Written, read back and compared byte for byte.
    let second = Folder::new();
    open(&second, &terms).unwrap();
    open(&second, &terms).unwrap();
    let carried = EarlierRun::carried_by(second.path()).unwrap();
    assert_eq!(carried, Some(earlier.clone()));
    check_carried(first.path(), &earlier).unwrap();

    // What the ledger does not say costs everything; what is no number is no ledger.
    let longer = EarlierRun {
        releases: 4,
        ..earlier[0].clone()
    };
    assert_eq!(longer.mu(Adjacency::AddRemove), f64::INFINITY);
    assert!(terms.clone().with_earlier(vec![longer]).is_err());
    for noise in [
        "[]",
        "[2.0,-8.0,4.0]",
        "\"2\"",
        "{\"start\":2,\"stop\":4,\"step\":1}",
    ] {
        let text = first.text().replacen("[2.0,8.0,4.0]", noise, 1);
        fs::write(first.path().join(LEDGER), text).unwrap();
        let error = error_of(EarlierRun::read(first.path()));
        assert!(error.contains("is not the header of a ledger"), "{error}");
        let text = first.text().replacen(noise, "[2.0,8.0,4.0]", 1);
        fs::write(first.path().join(LEDGER), text).unwrap();
    }
}

#[test]
fn an_extension_goes_on_with_the_last_noise() {
    let folder = Folder::new();
    finish(&mut open(&folder, &schedule()).unwrap(), 0);
    let private = folder.path().join("private");
    let recorded = crate::privacy::RecordedRun::read(folder.path(), &private);
    let recorded = recorded.unwrap().unwrap();
    assert!(recorded.is_complete());
    assert_eq!(recorded.noise_multiplier(), 4.0);
    assert_eq!(recorded.charges()[0].noise_multiplier.values(), SIGMAS);
}
