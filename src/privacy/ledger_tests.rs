use std::fs;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::privacy::{NonPrivateConsent, PrivacyConfig, release, sha256_hex};

const RELEASES: u32 = 3;

fn config() -> PrivacyConfig {
    PrivacyConfig {
        noise_multiplier: Some(5.0 * 2f64.sqrt()),
        epsilon: None,
        delta: 1e-5,
        adjacency: Adjacency::AddRemove,
        unit: Unit::Image,
        pad_release_to: None,
    }
}

fn terms() -> ResolvedPrivacy {
    config().resolve(RELEASES, 1, None, None).unwrap()
}

fn data(bytes: &[u8]) -> Sensitive<Fingerprint> {
    Sensitive::new(Fingerprint::of([bytes]))
}

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
        fs::write(folder.path().join(LEDGER), bytes).unwrap();
        folder
    }
}

/// Goes on to the end as the run does: what is stored is confirmed, the rest is charged and stored.
fn finish(ledger: &mut Ledger, stored: u32) {
    for iteration in 1..=RELEASES {
        if iteration > stored {
            let charge = ledger.charge(iteration).unwrap();
            assert_eq!(charge.iteration(), iteration);
        }
        ledger
            .confirm_stored(iteration, &histogram(iteration))
            .unwrap();
    }
}

/// The ledger of a run that was never interrupted.
fn complete() -> Vec<u8> {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let folder = Folder::new();
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
    assert!(text.starts_with(TITLE));
    // 0.49698, 0.72552, 0.90584: rounded up, and with unit and adjacency beside.
    for (line, epsilon) in [(1, 0.496_976), (3, 0.725_522), (5, 0.905_837)] {
        assert_eq!(lines[line]["record"], "charge");
        assert_eq!(lines[line]["epsilon_so_far"], epsilon);
        assert_eq!(lines[line]["adjacency"], "add-remove");
        assert_eq!(lines[line]["unit"], "image");
        assert_eq!(lines[line + 1]["record"], "stored");
    }
}

#[test]
fn the_charge_is_on_disk_before_it_is_handed_out() {
    let folder = Folder::new();
    let mut ledger = folder.open().unwrap();
    let _charge = ledger.charge(1).unwrap();
    assert_eq!(folder.text().matches("\"record\":\"charge\"").count(), 1);
}

/// A crash at any byte of the file's growth: nothing complete is lost, nothing is charged twice,
/// and the resumed run ends with the very ledger that the uninterrupted one has.
#[test]
fn survives_truncation_at_every_byte() {
    let complete = complete();
    let header = complete.iter().position(|b| *b == b'\n').unwrap() + 1;
    let folder = Folder::with_ledger(&complete);
    for length in 0..=complete.len() {
        let cut = &complete[..length];
        fs::write(folder.path().join(LEDGER), cut).unwrap();
        if length < header {
            // The fingerprint is written after the header, so it is not there yet.
            let _ = fs::remove_file(folder.path().join("private").join(FINGERPRINT));
        }
        let mut ledger = folder.open().unwrap_or_else(|e| panic!("{length}: {e}"));
        let whole = cut.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let whole_text = String::from_utf8_lossy(&cut[..whole]);
        let charged = whole_text.matches("\"charge\"").count() as u32;
        let stored = whole_text.matches("\"stored\"").count() as u32;
        assert_eq!(ledger.charged(), charged, "{length}");
        if length >= header {
            assert_eq!(folder.bytes(), &complete[..whole], "{length}");
        }
        if charged > stored {
            let charge = ledger.charge(charged).unwrap();
            assert!(charge.is_resumed());
            assert_eq!(
                folder.bytes(),
                &complete[..whole],
                "{length}: no second charge"
            );
        }
        // Going on to the end syncs a dozen times: not from every byte, but from all around each
        // line's end.
        let near_end = |at: &usize| complete.get(*at) == Some(&b'\n');
        if length % 50 == 0 || (length.saturating_sub(2)..=length + 2).any(|at| near_end(&at)) {
            if charged > stored {
                ledger.confirm_stored(charged, &histogram(charged)).unwrap();
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
    finish(&mut folder.open().unwrap(), RELEASES);
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
    /// Any printable byte in place of another is noticed when the ledger is opened, or, in the
    /// digest of a stored histogram, when that histogram is read. (The run's id is only a name.)
    #[test]
    fn edits_are_noticed(at in 0usize..10_000, byte in 0x20u8..0x7f) {
        let mut bytes = complete();
        let at = at % bytes.len();
        let id = TITLE.len() + "\"run_id\":\"".len();
        prop_assume!(bytes[at] != byte && !(id..id + 32).contains(&at));
        bytes[at] = byte;
        let folder = Folder::with_ledger(&bytes);
        let noticed = folder.open().and_then(|mut ledger| {
            (1..=RELEASES).try_for_each(|i| ledger.confirm_stored(i, &histogram(i)))
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
            with(|c| c.noise_multiplier = Some(7.0), RELEASES, 1),
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
        noise_multiplier: Some(next),
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
    assert!(error_of(ledger.charge(0)).contains("out of order"));
    assert!(error_of(ledger.charge(2)).contains("iteration 1 is due"));
    let _first = ledger.charge(1).unwrap();
    assert!(error_of(ledger.charge(1)).contains("already used"));
    assert!(error_of(ledger.charge(2)).contains("is not stored"));
    assert!(ledger.confirm_stored(2, &histogram(2)).is_err());
    ledger.confirm_stored(1, &histogram(1)).unwrap();
    finish(&mut ledger, 1);
    assert!(error_of(ledger.charge(RELEASES + 1)).contains("only 3 releases are planned"));
    assert_eq!(ledger.charged(), RELEASES);
}

#[test]
fn a_released_histogram_is_not_drawn_again() {
    let folder = Folder::new();
    finish(&mut folder.open().unwrap(), 0);
    let mut ledger = folder.open().unwrap();
    for iteration in 1..=RELEASES {
        assert!(error_of(ledger.charge(iteration)).contains("already released"));
    }
    let error = error_of(ledger.confirm_stored(2, &histogram(1)));
    assert!(
        error.contains("is not the one that was released"),
        "{error}"
    );
}

#[test]
fn a_histogram_without_a_charge_is_refused() {
    let folder = Folder::new();
    let mut ledger = folder.open().unwrap();
    assert!(error_of(ledger.confirm_stored(1, &histogram(1))).contains("no charge"));
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
    let _charge = folder.open().unwrap().charge(1).unwrap();
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
    assert!(matches!(ledger.charge(1), Err(PrivacyError::Io { .. })));
    assert!(matches!(
        ledger.charge(1),
        Err(PrivacyError::LedgerBroken { .. })
    ));
    assert!(matches!(
        ledger.confirm_stored(1, &histogram(1)),
        Err(PrivacyError::LedgerBroken { .. })
    ));
}

#[test]
fn a_whole_release_and_its_resumption() {
    let folder = Folder::new();
    let path = folder.path().join("votes");
    let counts = || Sensitive::new(vec![3, 0, 7]);
    let fill = |histogram: &NoisyHistogram, file: &mut io::BufWriter<&mut File>| {
        file.write_all(format!("{:?}", histogram.lattice()).as_bytes())
    };
    {
        // Drawn, and killed while the file was written.
        let mut ledger = folder.open().unwrap();
        let drawn = release(counts(), ledger.charge(1).unwrap()).unwrap();
        let stored = drawn.store(&mut ledger, &folder.private(), &path, |_, file| {
            file.write_all(b"half")?;
            Err(io::Error::other("killed"))
        });
        assert!(error_of(stored).contains("killed"));
        assert!(!path.exists());
    }
    let mut ledger = folder.open().unwrap();
    assert_eq!(ledger.charged(), 1);
    let charge = ledger.charge(1).unwrap();
    assert!(charge.is_resumed());
    let drawn = release(counts(), charge).unwrap();
    let histogram = drawn
        .store(&mut ledger, &folder.private(), &path, fill)
        .unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{:?}", histogram.lattice())
    );
    assert_eq!(folder.text().matches("\"charge\"").count(), 1);
    drop(ledger);

    let mut ledger = folder.open().unwrap();
    ledger.confirm_stored(1, &histogram).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(error_of(ledger.charge(1)).contains("already released"));
}

#[test]
fn a_run_without_noise_is_stamped() {
    let folder = Folder::new();
    let config = PrivacyConfig {
        noise_multiplier: Some(0.0),
        ..config()
    };
    let terms = config
        .resolve(RELEASES, 1, None, Some(NonPrivateConsent::given()))
        .unwrap();
    let mut ledger = folder.open_as(&terms, &sha256_hex(b"config")).unwrap();
    let _charge = ledger.charge(1).unwrap();
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
    use crate::privacy::noise_source::NoiseOrigin;
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
