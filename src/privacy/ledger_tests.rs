use std::fs;
use std::sync::OnceLock;

use proptest::prelude::*;

use serde_json::Value;

use super::lines::TITLE;
use super::*;
use crate::privacy::noise_source::NoiseOrigin;
use crate::privacy::{
    Adjacency, EarlierRun, NonPrivateConsent, PrivacyConfig, Unit, VoteCounts, check_carried,
    release, sha256_hex,
};

const RELEASES: u32 = 3;

fn config() -> PrivacyConfig {
    PrivacyConfig {
        noise_multiplier: Some((5.0 * 2f64.sqrt()).into()),
        epsilon: None,
        delta: 1e-5,
        adjacency: Adjacency::AddRemove,
        unit: Unit::Image,
        budget: None,
        pad_release_to: None,
    }
}

fn terms() -> ResolvedPrivacy {
    config().resolve(RELEASES, 1, None, None).unwrap()
}

fn data(bytes: &[u8]) -> Sensitive<Fingerprint> {
    Sensitive::new(Fingerprint::of([bytes]))
}

/// The digest of the population that iteration `iteration` votes on.
fn candidates(iteration: u32) -> String {
    sha256_hex(&iteration.to_le_bytes())
}

/// The key of all runs that share `complete()`.
const KEY: [u8; 32] = [7; 32];

fn histogram(iteration: u32) -> NoisyHistogram {
    NoisyHistogram::from_lattice(vec![i64::from(iteration), -5, 1 << 40])
}

/// A result folder.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn private(&self) -> PrivateFolder {
        PrivateFolder::create(self.path().join("private")).unwrap()
    }

    fn open_as(&self, terms: &ResolvedPrivacy, digest: &str) -> Result<Ledger, PrivacyError> {
        Ledger::open(
            self.path(),
            terms,
            digest,
            &self.private(),
            &data(b"images"),
        )
    }

    fn open(&self) -> Result<Ledger, PrivacyError> {
        self.open_as(&terms(), &sha256_hex(b"config"))
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path().join(LEDGER)).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    /// The same private folder and another ledger.
    fn with_ledger(bytes: &[u8]) -> Self {
        let folder = Self::new();
        let private = folder.private();
        private
            .write_fingerprint(FINGERPRINT, &data(b"images"))
            .unwrap();
        fs::write(private.path().join(NOISE_KEY), KEY).unwrap();
        fs::write(folder.path().join(LEDGER), bytes).unwrap();
        folder
    }
}

/// Goes on to the end as the run does: what is published is confirmed, the rest is charged, drawn
/// and recorded.
fn finish(ledger: &mut Ledger, published: u32) {
    for iteration in 1..=RELEASES {
        if iteration > published {
            let charge = ledger.charge(iteration, &candidates(iteration)).unwrap();
            assert_eq!(charge.iteration(), iteration);
            ledger
                .record_drawn(iteration, &histogram(iteration))
                .unwrap();
        }
        ledger
            .confirm_published(iteration, &histogram(iteration))
            .unwrap();
    }
}

/// The ledger of a run that was never interrupted.
fn complete() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let folder = Folder::new();
        fs::write(folder.private().path().join(NOISE_KEY), KEY).unwrap();
        finish(&mut folder.open().unwrap(), 0);
        folder.bytes()
    };
    BYTES.get_or_init(make).clone()
}

fn error_of<T>(result: Result<T, PrivacyError>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn lines_say_what_was_charged() {
    let text = String::from_utf8(complete()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1 + 2 * RELEASES as usize);
    assert_eq!(lines[0]["noise_multiplier"], 7.071_067_811_865_475_5);
    assert_eq!(lines[0]["delta"], 1e-5);
    assert_eq!(lines[0]["adjacency"], "add-remove");
    assert_eq!(lines[0]["unit"], "image");
    assert_eq!(lines[0]["non_private"], Value::Null);
    assert_eq!(lines[0]["planned_releases"], RELEASES);
    assert_eq!(lines[0]["config_sha256"], sha256_hex(b"config"));
    assert_eq!(lines[0]["noise_key_sha256"], sha256_hex(&KEY));
    assert_eq!(lines[0]["earlier_runs"], Value::Array(Vec::new()));
    assert!(text.starts_with(TITLE));
    // 0.49698, 0.72552, 0.90584: rounded up, and with unit and adjacency beside.
    for (line, epsilon) in [(1, 0.496_976), (3, 0.725_522), (5, 0.905_837)] {
        assert_eq!(lines[line]["record"], "charge");
        assert_eq!(lines[line]["epsilon_so_far"], epsilon);
        assert_eq!(lines[line]["adjacency"], "add-remove");
        assert_eq!(lines[line]["unit"], "image");
        assert_eq!(lines[line + 1]["record"], "drawn");
        assert_eq!(lines[line]["candidates_sha256"].as_str().unwrap().len(), 64);
    }
}

#[test]
fn the_charge_is_on_disk_before_it_is_handed_out() {
    let folder = Folder::new();
    let mut ledger = folder.open().unwrap();
    let _charge = ledger.charge(1, &candidates(1)).unwrap();
    assert_eq!(folder.text().matches("\"record\":\"charge\"").count(), 1);
}

/// A crash at any byte of the file's growth: nothing complete is lost, nothing is charged twice,
/// and the resumed run ends with the very ledger that the uninterrupted one has.
#[test]
fn survives_truncation_at_every_byte() {
    let complete = complete();
    let header = complete.iter().position(|b| *b == b'\n').unwrap() + 1;
    let folder = Folder::with_ledger(&complete);
    let near_end = |at: &usize| complete.get(*at) == Some(&b'\n');
    for length in 0..=complete.len() {
        let is_near = (length.saturating_sub(2)..=length + 2).any(|at| near_end(&at));
        // Each opening syncs several files: every byte around the end of a line, and every fifth
        // one elsewhere.
        if !is_near && length % 5 != 0 {
            continue;
        }
        let cut = &complete[..length];
        fs::write(folder.path().join(LEDGER), cut).unwrap();
        // The copy in the private folder never has more lines than the ledger.
        let _ = fs::remove_file(folder.path().join("private").join(LEDGER));
        if length < header {
            // The fingerprint is written after the header, so it is not there yet.
            let _ = fs::remove_file(folder.path().join("private").join(FINGERPRINT));
        }
        let mut ledger = folder.open().unwrap_or_else(|e| panic!("{length}: {e}"));
        let whole = cut.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let whole_text = String::from_utf8_lossy(&cut[..whole]);
        let charged = whole_text.matches("\"charge\"").count() as u32;
        let drawn = whole_text.matches("\"drawn\"").count() as u32;
        assert_eq!(ledger.charged(), charged, "{length}");
        if length >= header {
            assert_eq!(folder.bytes(), &complete[..whole], "{length}");
        }
        if charged > drawn {
            let charge = ledger.charge(charged, &candidates(charged)).unwrap();
            assert!(charge.is_resumed());
            assert_eq!(
                folder.bytes(),
                &complete[..whole],
                "{length}: no second charge"
            );
        }
        // Going on to the end syncs a dozen times: not from every byte, but from all around each
        // line's end.
        if length % 50 == 0 || is_near {
            if charged > drawn {
                ledger.record_drawn(charged, &histogram(charged)).unwrap();
            }
            finish(&mut ledger, charged);
            if length >= header {
                assert_eq!(folder.bytes(), complete, "{length}");
            } else {
                assert_eq!(folder.bytes().len(), complete.len(), "{length}");
            }
        }
    }
}

#[test]
fn zeros_after_a_crash_are_cut_off() {
    let complete = complete();
    let folder = Folder::with_ledger(&[&complete[..complete.len() - 40], &[0; 200]].concat());
    let mut ledger = folder.open().unwrap();
    ledger.record_drawn(RELEASES, &histogram(RELEASES)).unwrap();
    finish(&mut ledger, RELEASES);
    assert_eq!(folder.bytes(), complete);
}

#[test]
fn another_file_is_not_touched() {
    for content in ["notes", "notes\n", "{}\n", "{\"ledger\":\"other\"}\n"] {
        let folder = Folder::new();
        fs::write(folder.path().join(LEDGER), content).unwrap();
        let error = error_of(folder.open());
        assert!(error.contains("ledger.jsonl, line 1"), "{error}");
        assert_eq!(folder.text(), content);
    }
}

#[test]
fn lines_may_not_be_moved_removed_or_repeated() {
    let complete = String::from_utf8(complete()).unwrap();
    let lines: Vec<&str> = complete.split_inclusive('\n').collect();
    let refused = |lines: &[&str]| {
        let folder = Folder::with_ledger(lines.concat().as_bytes());
        assert!(folder.open().is_err(), "{lines:?}");
        assert_eq!(
            folder.text(),
            lines.concat(),
            "a refused ledger is left as it is"
        );
    };
    for index in 0..lines.len() {
        let mut changed = lines.clone();
        changed.remove(index);
        if index + 1 < lines.len() {
            refused(&changed);
        }
        let mut changed = lines.clone();
        changed.insert(index, lines[index]);
        refused(&changed);
        for other in 0..index {
            let mut changed = lines.clone();
            changed.swap(index, other);
            refused(&changed);
        }
    }
    let mut longer = lines.clone();
    longer.push("\n");
    refused(&longer);
    longer.pop();
    longer.push("{\"record\":\"charge\",\"iteration\":4");
    refused(&longer);
}

proptest! {
    /// Any printable byte in place of another is noticed when the ledger is opened; in the digest
    /// of a histogram or of candidates, when that histogram is read or those candidates are
    /// charged. (The run's id is only a name.)
    #[test]
    fn edits_are_noticed(at in 0usize..10_000, byte in 0x20u8..0x7f) {
        let mut bytes = complete();
        let at = at % bytes.len();
        let id = TITLE.len() + "\"run_id\":\"".len();
        prop_assume!(bytes[at] != byte && !(id..id + 32).contains(&at));
        bytes[at] = byte;
        let folder = Folder::with_ledger(&bytes);
        let noticed = folder.open().and_then(|mut ledger| {
            (1..=RELEASES).try_for_each(|i| {
                let _charge = ledger.charge(i, &candidates(i))?;
                ledger.confirm_published(i, &histogram(i))
            })
        });
        prop_assert!(noticed.is_err());
    }

    #[test]
    fn arbitrary_files_are_refused_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        prop_assume!(bytes.iter().any(|b| *b != 0));
        let folder = Folder::new();
        fs::write(folder.path().join(LEDGER), &bytes).unwrap();
        // The header's first bytes, by chance, would be a torn header.
        prop_assume!(!TITLE.as_bytes().starts_with(&bytes));
        prop_assert!(folder.open().is_err());
    }
}

#[test]
fn other_terms_are_refused_by_name() {
    let folder = Folder::new();
    folder.open().unwrap();
    let with = |change: fn(&mut PrivacyConfig), releases, neighbors| {
        let mut config = config();
        change(&mut config);
        config.resolve(releases, neighbors, None, None).unwrap()
    };
    let cases = [
        (
            "noise_multiplier",
            with(|c| c.noise_multiplier = Some(7.0.into()), RELEASES, 1),
        ),
        ("delta", with(|c| c.delta = 1e-6, RELEASES, 1)),
        (
            "adjacency",
            with(|c| c.adjacency = Adjacency::ReplaceOne, RELEASES, 1),
        ),
        ("planned_releases", with(|_| (), 4, 1)),
        ("nearest_neighbors", with(|_| (), RELEASES, 2)),
    ];
    for (key, terms) in cases {
        let error = error_of(folder.open_as(&terms, &sha256_hex(b"config")));
        assert!(error.contains(&format!("`{key}`")), "{key}: {error}");
    }
    let error = error_of(folder.open_as(&terms(), &sha256_hex(b"other")));
    assert!(error.contains("`config_sha256`"), "{error}");
    // The last digit of σ counts.
    let next = f64::from_bits((5.0 * 2f64.sqrt()).to_bits() + 1);
    let close = PrivacyConfig {
        noise_multiplier: Some(next.into()),
        ..config()
    };
    let close = close.resolve(RELEASES, 1, None, None).unwrap();
    assert!(folder.open_as(&close, &sha256_hex(b"config")).is_err());
    folder.open().unwrap();
}

#[test]
fn charges_come_in_order_and_within_the_plan() {
    let folder = Folder::new();
    let mut ledger = folder.open().unwrap();
    assert!(error_of(ledger.charge(0, &candidates(0))).contains("out of order"));
    assert!(error_of(ledger.charge(2, &candidates(2))).contains("iteration 1 is due"));
    assert!(error_of(ledger.charge(1, "no digest")).contains("not a SHA-256"));
    let _first = ledger.charge(1, &candidates(1)).unwrap();
    assert!(error_of(ledger.charge(1, &candidates(1))).contains("already used"));
    assert!(error_of(ledger.charge(2, &candidates(2))).contains("is not recorded"));
    assert!(ledger.record_drawn(2, &histogram(2)).is_err());
    ledger.record_drawn(1, &histogram(1)).unwrap();
    finish(&mut ledger, 1);
    let beyond = ledger.charge(RELEASES + 1, &candidates(4));
    assert!(error_of(beyond).contains("only 3 releases are planned"));
    assert_eq!(ledger.charged(), RELEASES);
}

#[test]
fn one_charge_has_one_histogram_and_one_population() {
    let folder = Folder::new();
    finish(&mut folder.open().unwrap(), 0);
    let mut ledger = folder.open().unwrap();
    for iteration in 1..=RELEASES {
        let other = ledger.charge(iteration, &candidates(99));
        assert!(error_of(other).contains("is not the one that was charged"));
        // It may be drawn again, because its noise is the same.
        assert!(
            ledger
                .charge(iteration, &candidates(iteration))
                .unwrap()
                .is_resumed()
        );
        let error = error_of(ledger.record_drawn(iteration, &histogram(99)));
        assert!(error.contains("differs from the recorded one"), "{error}");
        ledger
            .record_drawn(iteration, &histogram(iteration))
            .unwrap();
    }
    let error = error_of(ledger.confirm_published(2, &histogram(1)));
    assert!(
        error.contains("is not the one that was released"),
        "{error}"
    );
    assert_eq!(folder.text().lines().count(), 1 + 2 * RELEASES as usize);
}

#[test]
fn a_histogram_that_was_never_recorded_is_not_adopted() {
    let folder = Folder::new();
    let mut ledger = folder.open().unwrap();
    let _charge = ledger.charge(1, &candidates(1)).unwrap();
    let error = error_of(ledger.confirm_published(1, &histogram(1)));
    assert!(error.contains("no record that it was drawn"), "{error}");
}

#[test]
fn a_ledger_of_an_earlier_state_is_refused() {
    let folder = Folder::new();
    finish(&mut folder.open().unwrap(), 0);
    let complete = folder.bytes();
    assert_eq!(
        fs::read(folder.path().join("private").join(LEDGER)).unwrap(),
        complete
    );
    let ends = complete
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n');
    for (end, _) in ends {
        fs::write(folder.path().join(LEDGER), &complete[..=end]).unwrap();
        if end + 1 == complete.len() {
            folder.open().unwrap();
        } else {
            let error = error_of(folder.open());
            assert!(error.contains("its copy"), "{error}");
            assert_eq!(folder.bytes(), &complete[..=end]);
        }
    }
}

#[test]
fn a_missing_or_another_noise_key_is_refused() {
    let folder = Folder::new();
    let _charge = folder.open().unwrap().charge(1, &candidates(1)).unwrap();
    let key = folder.path().join("private").join(NOISE_KEY);
    let kept = fs::read(&key).unwrap();
    fs::write(&key, [9; 32]).unwrap();
    assert!(error_of(folder.open()).contains("`noise_key_sha256`"));
    fs::remove_file(&key).unwrap();
    assert!(error_of(folder.open()).contains("noise-key is missing"));
    assert!(!key.exists(), "a new key would give new noise");
    fs::write(&key, kept).unwrap();
    folder.open().unwrap();
}

#[test]
fn a_ledger_of_version_1_is_refused_and_not_touched() {
    let old = "{\"ledger\":\"dpsyn privacy ledger\",\"version\":1,\
               \"run_id\":\"0123456789abcdef0123456789abcdef\"}\n";
    let folder = Folder::with_ledger(old.as_bytes());
    let error = error_of(folder.open());
    assert!(error.contains("an earlier version of dpsyn"), "{error}");
    assert_eq!(folder.text(), old);
}

#[test]
fn a_histogram_without_a_charge_is_refused() {
    let folder = Folder::new();
    let mut ledger = folder.open().unwrap();
    assert!(error_of(ledger.confirm_published(1, &histogram(1))).contains("no charge"));
    assert!(error_of(ledger.record_drawn(1, &histogram(1))).contains("without a charge"));
}

#[test]
fn one_process_at_a_time() {
    let folder = Folder::new();
    let first = folder.open().unwrap();
    assert!(matches!(
        folder.open(),
        Err(PrivacyError::LedgerLocked { .. })
    ));
    drop(first);
    folder.open().unwrap();
}

#[test]
fn other_private_images_are_refused() {
    let folder = Folder::new();
    let _charge = folder.open().unwrap().charge(1, &candidates(1)).unwrap();
    let digest = sha256_hex(b"config");
    let open = |bytes: &[u8]| {
        let private = folder.private();
        Ledger::open(folder.path(), &terms(), &digest, &private, &data(bytes))
    };
    assert!(error_of(open(b"others")).contains("the private images differ from those"));
    open(b"images").unwrap();

    fs::remove_file(folder.path().join("private").join(FINGERPRINT)).unwrap();
    assert!(error_of(open(b"images")).contains("is missing, so"));
}

#[test]
fn a_removed_ledger_is_noticed() {
    let folder = Folder::new();
    folder.open().unwrap();
    fs::remove_file(folder.path().join(LEDGER)).unwrap();
    assert!(error_of(folder.open()).contains("its copy"));
    fs::remove_file(folder.path().join("private").join(LEDGER)).unwrap();
    assert!(error_of(folder.open()).contains("its charges are unknown"));
}

#[test]
fn opening_removes_histograms_that_were_drawn_and_not_published() {
    let folder = Folder::new();
    fs::write(folder.private().path().join(".tmpdrawn"), "noisy").unwrap();
    folder.open().unwrap();
    assert!(!folder.path().join("private/.tmpdrawn").exists());
}

#[test]
fn after_a_failed_write_nothing_goes_on() {
    let folder = Folder::new();
    let mut ledger = folder.open().unwrap();
    // A handle that cannot be written to stands for a full disk.
    ledger.file = File::open(folder.path().join(LEDGER)).unwrap();
    assert!(matches!(
        ledger.charge(1, &candidates(1)),
        Err(PrivacyError::Io { .. })
    ));
    assert!(matches!(
        ledger.charge(1, &candidates(1)),
        Err(PrivacyError::LedgerBroken { .. })
    ));
    assert!(matches!(
        ledger.record_drawn(1, &histogram(1)),
        Err(PrivacyError::LedgerBroken { .. })
    ));
}

#[test]
fn a_run_without_noise_is_stamped() {
    let folder = Folder::new();
    let config = PrivacyConfig {
        noise_multiplier: Some(0.0.into()),
        ..config()
    };
    let terms = config
        .resolve(RELEASES, 1, None, Some(NonPrivateConsent::given()))
        .unwrap();
    let mut ledger = folder.open_as(&terms, &sha256_hex(b"config")).unwrap();
    let _charge = ledger.charge(1, &candidates(1)).unwrap();
    let text = folder.text();
    assert!(
        text.contains("\"non_private\":\"no noise was added"),
        "{text}"
    );
    assert!(text.contains("\"epsilon_so_far\":\"infinite\""), "{text}");
    drop(ledger);
    // And cannot be continued as a private one.
    assert!(error_of(folder.open()).contains("`noise_multiplier`"));
}

#[test]
fn a_test_seed_is_stamped() {
    let folder = Folder::new();
    let terms = ResolvedPrivacy {
        noise: NoiseOrigin::FixedTestSeed(1),
        ..terms()
    };
    folder.open_as(&terms, &sha256_hex(b"config")).unwrap();
    assert!(
        folder
            .text()
            .contains("\"non_private\":\"the noise came from a fixed test seed")
    );
    assert!(error_of(folder.open()).contains("`noise`"));
}

#[path = "ledger_release_tests.rs"]
mod releases;
#[path = "ledger_schedule_tests.rs"]
mod schedules;
