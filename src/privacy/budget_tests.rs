use super::*;
use crate::privacy::{NonPrivateConsent, PrivacyConfig, PrivateFolder, epsilon, sha256_hex};

const LIMIT: BudgetTerms = BudgetTerms {
    epsilon: 4.0,
    delta: 1e-5,
    adjacency: Adjacency::AddRemove,
    unit: Unit::Image,
};

fn images(bytes: &[u8]) -> Sensitive<Fingerprint> {
    Sensitive::new(Fingerprint::of([bytes]))
}

fn terms(noise_multiplier: f64, releases: u32) -> ResolvedPrivacy {
    config(noise_multiplier)
        .resolve(releases, 1, None, None)
        .unwrap()
}

fn config(noise_multiplier: f64) -> PrivacyConfig {
    let text = format!("noise_multiplier = {noise_multiplier:?}\ndelta = 1e-6");
    toml::from_str(&text).unwrap()
}

/// A folder with a budget and result folders.
struct Owner(tempfile::TempDir);

impl Owner {
    fn new() -> Self {
        let owner = Self(tempfile::tempdir().unwrap());
        Budget::create(&owner.file(), LIMIT, &images(b"a")).unwrap();
        owner
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("budget.toml")
    }

    fn budget(&self) -> Budget {
        Budget::at(&self.file())
    }

    fn ledger(&self, name: &str, privacy: &ResolvedPrivacy) -> Ledger {
        let folder = self.0.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let private = PrivateFolder::create(folder.join("private")).unwrap();
        let digest = sha256_hex(b"config");
        Ledger::open(&folder, privacy, &digest, &private, &images(b"a")).unwrap()
    }

    fn content(&self) -> Content {
        let budget = self.budget();
        budget.read(&budget.real().unwrap()).unwrap()
    }

    fn total(&self) -> f64 {
        self.content().epsilon()
    }

    /// The releases with which the run counts.
    fn counted(&self, run_id: &str) -> u32 {
        let content = self.content();
        let mut runs = content.run.iter();
        runs.find(|run| run.run_id == run_id).unwrap().releases
    }

    fn abandon(&self, name: &str) -> Result<AbandonedRun, PrivacyError> {
        let folder = self.0.path().join(name);
        AbandonedRun::open(&folder, &folder.join("private")).map(Option::unwrap)
    }

    fn close(&self, name: &str) -> Result<String, PrivacyError> {
        self.budget().close_abandoned(&self.abandon(name)?)
    }
}

fn error_of<T>(result: Result<T, PrivacyError>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn runs_compose_as_gaussian_mechanisms() {
    let owner = Owner::new();
    assert_eq!(owner.total(), 0.0);
    let first = owner.ledger("first", &terms(8.0, 8));
    owner.budget().admit(&first, &images(b"a")).unwrap();
    // μ² = 8/64 + 2/16 = 1/4 is that of one release with σ = 2.
    let second = owner.ledger("second", &terms(4.0, 2));
    owner.budget().admit(&second, &images(b"a")).unwrap();
    let one = epsilon(2.0, 1, 1e-5, Adjacency::AddRemove).unwrap();
    assert!((owner.total() - one).abs() < 1e-9, "{}", owner.total());
    // A sum of ε would be larger by far.
    assert!(owner.total() < 0.8 * 2.0 * epsilon(4.0, 2, 1e-5, Adjacency::AddRemove).unwrap());
    // A resumed run is not counted again.
    owner.budget().admit(&second, &images(b"a")).unwrap();
    assert!((owner.total() - one).abs() < 1e-9);
}

#[test]
fn a_run_that_exceeds_the_limit_is_refused_and_leaves_the_file_as_it_is() {
    let owner = Owner::new();
    let small = terms(4.0, 4);
    let first = owner.ledger("first", &small);
    owner.budget().admit(&first, &images(b"a")).unwrap();
    let before = fs::read(owner.file()).unwrap();
    let large = terms(1.0, 2);
    let error = error_of(owner.budget().check(&large, &images(b"a")));
    assert!(error.contains("would be exceeded"), "{error}");
    let second = owner.ledger("second", &large);
    let error = error_of(owner.budget().admit(&second, &images(b"a")));
    assert!(error.contains("of 4 is spent or reserved"), "{error}");
    assert_eq!(fs::read(owner.file()).unwrap(), before);

    // The first run was abandoned after one release, which frees enough.
    owner.budget().close_at(first.run_id(), 1).unwrap();
    owner.budget().check(&terms(2.0, 1), &images(b"a")).unwrap();
    // And counts with its whole plan again if it is resumed.
    let used = owner.total();
    owner.budget().admit(&first, &images(b"a")).unwrap();
    assert!(owner.total() > used);
}

/// Runs with one noise and with a schedule share a budget. A schedule is reserved as a whole, and
/// an abandoned run counts with its first releases.
#[test]
fn runs_with_unequal_noise_compose() {
    let owner = Owner::new();
    let first = owner.ledger("first", &terms(8.0, 8));
    owner.budget().admit(&first, &images(b"a")).unwrap();
    let list = |list: &str| -> ResolvedPrivacy {
        let text = format!("noise_multiplier = {list}\ndelta = 1e-6");
        let config: PrivacyConfig = toml::from_str(&text).unwrap();
        let releases = config.noise_multiplier.as_ref().unwrap().len().unwrap();
        config.resolve(releases as u32, 1, None, None).unwrap()
    };
    let plan = list("[8, 4, 2]");
    let mut second = owner.ledger("second", &plan);
    owner.budget().admit(&second, &images(b"a")).unwrap();
    let of = |precision: f64| epsilon(precision.powf(-0.5), 1, 1e-5, Adjacency::AddRemove);
    let total = |precision: f64| {
        let (found, expected) = (owner.total(), of(precision).unwrap());
        assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
    };
    // 8/64 + 1/64 + 1/16 + 1/4
    total(29.0 / 64.0);
    // Resumed, it is not counted again, and the file has the list.
    owner.budget().admit(&second, &images(b"a")).unwrap();
    total(29.0 / 64.0);
    let text = fs::read_to_string(owner.file()).unwrap();
    assert!(text.contains("noise_multiplier = 8.0\n"), "{text}");
    assert!(
        text.contains("noise_multiplier = [8.0, 4.0, 2.0]"),
        "{text}"
    );
    // ε = 4 permits μ² = 0.85: a release with σ = 1.5 is one too many, also as the last of many.
    let error = error_of(owner.budget().check(&list("[99, 99, 1.5]"), &images(b"a")));
    assert!(error.contains("with the 3 releases of this run"), "{error}");
    owner
        .budget()
        .check(&list("[99, 99, 2]"), &images(b"a"))
        .unwrap();

    let _charge = second.charge(1, &"0".repeat(64)).unwrap();
    second
        .record_drawn(1, &crate::privacy::NoisyHistogram::from_lattice(vec![1]))
        .unwrap();
    let _charge = second.charge(2, &"0".repeat(64)).unwrap();
    let id = second.run_id().to_owned();
    drop(second);
    owner.close("second").unwrap();
    assert_eq!(owner.counted(&id), 2);
    total(13.0 / 64.0);
    let lines = owner.budget().describe().unwrap().join("\n");
    assert!(
        lines.contains("2 releases with noise multiplier [8, 4], epsilon"),
        "{lines}"
    );

    // A charge that the list does not have costs everything.
    owner.budget().close_at(&id, 4).unwrap();
    assert_eq!(owner.total(), f64::INFINITY);
}

/// No ledger has another noise for the same run; of two that differ, the smallest counts.
#[test]
fn of_two_noises_of_a_run_the_smallest_counts() {
    let owner = Owner::new();
    let mut content = owner.content();
    let mut run = EarlierRun {
        run_id: "0".repeat(32),
        noise_multiplier: Schedule::List(vec![8.0, 4.0]),
        nearest_neighbors: 1.into(),
        releases: 2,
        unit: Unit::Image,
        adjacency: Adjacency::AddRemove,
    };
    content.count(&run, true);
    content.count(&run, true);
    assert_eq!(content.run[0].noise_multiplier, run.noise_multiplier);
    run.noise_multiplier = Schedule::List(vec![4.0, 8.0]);
    content.count(&run, true);
    assert_eq!(content.run[0].noise_multiplier, 4.0.into());
    assert_eq!(content.run.len(), 1);
}

#[test]
fn what_no_budget_covers_is_refused() {
    let owner = Owner::new();
    let budget = owner.budget();
    let refused = |privacy: &ResolvedPrivacy, of: &[u8], expected: &str| {
        let error = error_of(budget.check(privacy, &images(of)));
        assert!(error.contains(expected), "{error}");
    };
    refused(&terms(8.0, 1), b"b", "budget of other images");
    budget.add_images(&images(b"b")).unwrap();
    budget.check(&terms(8.0, 1), &images(b"b")).unwrap();
    let consent = Some(NonPrivateConsent::given());
    let without = config(0.0).resolve(1, 1, None, consent).unwrap();
    refused(&without, b"a", "without noise");
    let replace = PrivacyConfig {
        adjacency: Adjacency::ReplaceOne,
        ..config(8.0)
    };
    let replace = replace.resolve(1, 1, None, None).unwrap();
    refused(&replace, b"a", "is for adjacency add-remove");
    assert!(error_of(budget.close_at("unknown", 1)).contains("has no run"));
}

#[test]
fn carried_charges_count_once() {
    let owner = Owner::new();
    let first = owner.ledger("first", &terms(4.0, 2));
    let earlier = EarlierRun {
        run_id: first.run_id().to_owned(),
        noise_multiplier: 4.0.into(),
        nearest_neighbors: 1.into(),
        releases: 2,
        unit: Unit::Image,
        adjacency: Adjacency::AddRemove,
    };
    let carrying = terms(4.0, 2).with_earlier(vec![earlier]).unwrap();
    let second = owner.ledger("second", &carrying);
    owner.budget().admit(&second, &images(b"a")).unwrap();
    let four = epsilon(4.0, 4, 1e-5, Adjacency::AddRemove).unwrap();
    assert!((owner.total() - four).abs() < 1e-9);
    owner.budget().admit(&first, &images(b"a")).unwrap();
    assert!((owner.total() - four).abs() < 1e-9);
}

/// An earlier run under replace-one adjacency may have used the first images of its source only,
/// so that an image more took the place of another one.
#[test]
fn an_earlier_run_under_replace_one_counts_twice_under_add_remove() {
    let owner = Owner::new();
    let earlier = EarlierRun {
        run_id: "0".repeat(32),
        noise_multiplier: 4.0.into(),
        nearest_neighbors: 1.into(),
        releases: 2,
        unit: Unit::Image,
        adjacency: Adjacency::ReplaceOne,
    };
    let carrying = terms(4.0, 2).with_earlier(vec![earlier]).unwrap();
    // 2 releases of this run, and 2 whose squared sensitivity is 2.
    let of = |releases, delta| epsilon(4.0, releases, delta, Adjacency::AddRemove).unwrap();
    let six = of(6, 1e-6);
    let found = carrying.epsilon_after(2, Adjacency::AddRemove);
    assert!((found - six).abs() < 1e-9, "{found} {six}");
    assert!((carrying.rho_after(2, Adjacency::AddRemove) - 6.0 / 32.0).abs() < 1e-9);
    // Under replace-one adjacency, every release has it.
    let eight = of(8, 1e-6);
    let found = carrying.epsilon_after(2, Adjacency::ReplaceOne);
    assert!((found - eight).abs() < 1e-9, "{found} {eight}");
    let ledger = owner.ledger("second", &carrying);
    owner.budget().admit(&ledger, &images(b"a")).unwrap();
    // The budget has another δ.
    assert!((owner.total() - of(6, 1e-5)).abs() < 1e-9);
}

#[test]
fn of_many_runs_at_once_no_more_than_fit_are_admitted() {
    let owner = Owner::new();
    // Each takes μ² = 1/4; ε = 4 at δ = 1e-5 permits between 2 and 4 of them.
    let privacy = terms(2.0, 1);
    let ledgers: Vec<Ledger> = (0..8)
        .map(|i| owner.ledger(&format!("run{i}"), &privacy))
        .collect();
    let admitted = std::thread::scope(|scope| {
        let threads: Vec<_> = ledgers
            .iter()
            .map(|ledger| scope.spawn(|| owner.budget().admit(ledger, &images(b"a")).is_ok()))
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.filter(|admitted| *admitted).count()
    });
    let fit = (1..=8)
        .take_while(|n| epsilon(2.0, *n, 1e-5, Adjacency::AddRemove).unwrap() <= 4.0)
        .count();
    assert!((1..8).contains(&fit), "{fit}");
    assert_eq!(admitted, fit);
    assert!(owner.total() <= 4.0);
}

#[test]
fn a_budget_is_created_once_and_a_damaged_one_is_refused() {
    let owner = Owner::new();
    let again = Budget::create(&owner.file(), LIMIT, &images(b"a"));
    assert!(error_of(again).contains("exists already"));
    for limit in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let limit = BudgetTerms {
            epsilon: limit,
            ..LIMIT
        };
        let other = Budget::create(&owner.0.path().join("other"), limit, &images(b"a"));
        assert!(error_of(other).contains("positive"));
    }
    let missing = Budget::at(&owner.0.path().join("missing"));
    assert!(error_of(missing.describe()).contains("dpsyn budget init"));
    fs::write(owner.file(), "version = 1\n").unwrap();
    assert!(error_of(owner.budget().describe()).contains("is damaged"));
}

#[test]
fn a_run_that_is_going_on_is_not_closed() {
    let owner = Owner::new();
    let plan = terms(4.0, 4);
    let mut run = owner.ledger("run", &plan);
    owner.budget().admit(&run, &images(b"a")).unwrap();
    let id = run.run_id().to_owned();
    let _charge = run.charge(1, &"0".repeat(64)).unwrap();
    let error = error_of(owner.close("run"));
    assert!(error.contains("in use by another process"), "{error}");
    assert_eq!(owner.counted(&id), 4);
    drop(run);

    // While it is closed, it cannot go on.
    let abandoned = owner.abandon("run").unwrap();
    let folder = owner.0.path().join("run");
    let private = PrivateFolder::create(folder.join("private")).unwrap();
    let digest = sha256_hex(b"config");
    let error = error_of(Ledger::open(
        &folder,
        &plan,
        &digest,
        &private,
        &images(b"a"),
    ));
    assert!(error.contains("in use by another process"), "{error}");
    let text = owner.budget().close_abandoned(&abandoned).unwrap();
    assert!(
        text.contains("1 charged releases, no longer with the 4"),
        "{text}"
    );
    drop(abandoned);
    assert_eq!(owner.counted(&id), 1);
    owner.ledger("run", &plan);
}

#[test]
fn a_run_is_closed_with_its_own_charges_also_if_it_has_none() {
    let owner = Owner::new();
    let mut first = owner.ledger("first", &terms(4.0, 4));
    owner.budget().admit(&first, &images(b"a")).unwrap();
    let _charge = first.charge(1, &"0".repeat(64)).unwrap();
    let earlier = EarlierRun {
        run_id: first.run_id().to_owned(),
        noise_multiplier: 4.0.into(),
        nearest_neighbors: 1.into(),
        releases: 1,
        unit: Unit::Image,
        adjacency: Adjacency::AddRemove,
    };
    let carrying = terms(4.0, 2).with_earlier(vec![earlier]).unwrap();
    let second = owner.ledger("second", &carrying);
    owner.budget().admit(&second, &images(b"a")).unwrap();
    let (first_id, second_id) = (first.run_id().to_owned(), second.run_id().to_owned());
    // The first one is going on, the second one failed before its first charge.
    drop(second);
    owner.close("second").unwrap();
    assert_eq!(owner.counted(&first_id), 4);
    assert_eq!(owner.counted(&second_id), 0);
    let four = epsilon(4.0, 4, 1e-5, Adjacency::AddRemove).unwrap();
    assert!((owner.total() - four).abs() < 1e-9);
    let absent = owner.0.path().join("absent");
    assert!(AbandonedRun::open(&absent, &absent).unwrap().is_none());
    assert!(!absent.exists(), "nothing is created");
}

#[test]
fn an_earlier_state_of_a_folder_lowers_no_count() {
    let owner = Owner::new();
    let plan = terms(4.0, 4);
    let mut run = owner.ledger("run", &plan);
    owner.budget().admit(&run, &images(b"a")).unwrap();
    let id = run.run_id().to_owned();
    let path = owner.0.path().join("run/ledger.jsonl");
    let before = fs::read(&path).unwrap();
    let _charge = run.charge(1, &"0".repeat(64)).unwrap();
    drop(run);
    let after = fs::read(&path).unwrap();

    // The copy in the private folder has more lines.
    fs::write(&path, &before).unwrap();
    let error = error_of(owner.close("run"));
    assert!(error.contains("lacks lines of its copy"), "{error}");
    assert_eq!(owner.counted(&id), 4);

    // A published state has no private folder.
    let old = owner.0.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("ledger.jsonl"), &before).unwrap();
    fs::write(&path, &after).unwrap();
    let text = owner.close("run").unwrap();
    assert!(text.contains("no longer with the 4 of its plan"), "{text}");
    let text = owner.close("old").unwrap();
    assert!(text.contains("an earlier state of the run"), "{text}");
    assert_eq!(owner.counted(&id), 1);
    let text = owner.close("run").unwrap();
    assert!(text.contains("was closed already"), "{text}");

    // A run that is resumed reserves its plan again, and what it has charged is known.
    let run = owner.ledger("run", &plan);
    owner.budget().admit(&run, &images(b"a")).unwrap();
    assert_eq!(owner.counted(&id), 4);
    owner.close("old").unwrap();
    assert_eq!(owner.counted(&id), 1);
    // What went on without the budget is counted afterwards.
    let charge = after.strip_prefix(&before[..]).unwrap();
    let more = [&after[..], charge, charge].concat();
    fs::write(old.join("ledger.jsonl"), more).unwrap();
    let text = owner.close("old").unwrap();
    assert!(text.contains("no longer with 1: it went on"), "{text}");
    assert_eq!(owner.counted(&id), 3);
}

#[cfg(unix)]
#[test]
fn a_budget_behind_a_link_is_one_budget() {
    let owner = Owner::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.toml");
    std::os::unix::fs::symlink(owner.file(), &link).unwrap();
    let run = owner.ledger("run", &terms(4.0, 4));
    Budget::at(&link).admit(&run, &images(b"a")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(owner.counted(run.run_id()), 4);
    assert_eq!(
        fs::read_dir(elsewhere.path()).unwrap().count(),
        1,
        "the lock is beside the file"
    );
    let again = Budget::create(&link, LIMIT, &images(b"a"));
    assert!(error_of(again).contains("exists already"));

    // The folder may be a link, too.
    let folder = elsewhere.path().join("folder");
    std::os::unix::fs::symlink(owner.0.path(), &folder).unwrap();
    Budget::create(&folder.join("new.toml"), LIMIT, &images(b"a")).unwrap();
    assert!(owner.0.path().join("new.toml.lock").exists());
    fs::remove_file(owner.file()).unwrap();
    let dangling = Budget::create(&link, LIMIT, &images(b"a"));
    assert!(error_of(dangling).contains("link to a missing file"));
    assert!(error_of(Budget::at(&link).describe()).contains("does not exist"));
}
