//! Whole releases: drawn, recorded, published, repeated and carried on.

use super::*;

#[test]
fn a_whole_release_and_its_resumption() {
    let folder = Folder::new();
    let path = folder.path().join("votes");
    let release_one = |ledger: &mut Ledger| {
        let counts = Sensitive::new(VoteCounts::of_images(&[3, 0, 7], 1));
        release(counts, ledger.charge(1, &candidates(1)).unwrap()).unwrap()
    };
    let fill = |histogram: &NoisyHistogram, file: &mut io::BufWriter<&mut File>| {
        file.write_all(format!("{:?}", histogram.lattice()).as_bytes())
    };
    {
        // Drawn, and killed while the file was written.
        let mut ledger = folder.open().unwrap();
        let drawn = release_one(&mut ledger);
        let stored = drawn.store(&mut ledger, &folder.private(), &path, |_, file| {
            file.write_all(b"half")?;
            Err(io::Error::other("killed"))
        });
        assert!(error_of(stored).contains("killed"));
        assert!(!path.exists() && !folder.private().drawn_votes(1).exists());
    }
    let store = || {
        let mut ledger = folder.open().unwrap();
        assert_eq!(ledger.charged(), 1);
        let drawn = release_one(&mut ledger);
        drawn
            .store(&mut ledger, &folder.private(), &path, fill)
            .unwrap()
    };
    let histogram = store();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("{:?}", histogram.lattice()));
    // A lost file comes back with the same noise, and nothing is charged again.
    fs::remove_file(&path).unwrap();
    assert_eq!(store(), histogram);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(folder.text().matches("\"charge\"").count(), 1);
}

/// A copy of the folder, or one that was restored after more was done, repeats the same release.
#[test]
fn copies_draw_the_same_noise() {
    let (first, copy) = (Folder::new(), Folder::new());
    first.open().unwrap();
    copy.private();
    for name in ["ledger.jsonl", "private/noise-key", "private/fingerprint"] {
        fs::copy(first.path().join(name), copy.path().join(name)).unwrap();
    }
    let draw = |folder: &Folder, votes: &[u64], candidates: &str| {
        let mut ledger = folder.open().unwrap();
        let counts = Sensitive::new(VoteCounts::of_images(votes, 1));
        let charge = ledger.charge(1, candidates).unwrap();
        let path = folder.path().join("votes");
        let drawn = release(counts, charge).unwrap();
        drawn.store(&mut ledger, &folder.private(), &path, |_, _| Ok(()))
    };
    let one = draw(&first, &[3, 0, 7], &candidates(1)).unwrap();
    assert_eq!(draw(&copy, &[3, 0, 7], &candidates(1)).unwrap(), one);
    // Other counts under the same charge are refused, and nothing of them is published.
    let published = fs::metadata(copy.path().join("votes"))
        .unwrap()
        .modified()
        .unwrap();
    let error = error_of(draw(&copy, &[3, 0, 8], &candidates(1)));
    assert!(error.contains("differs from the recorded one"), "{error}");
    assert_eq!(
        fs::metadata(copy.path().join("votes"))
            .unwrap()
            .modified()
            .unwrap(),
        published
    );
}

#[test]
fn charges_of_earlier_runs_are_read_and_carried_on() {
    let first = Folder::new();
    finish(&mut first.open().unwrap(), 0);
    let earlier = EarlierRun::read(first.path()).unwrap();
    assert_eq!(earlier.len(), 1);
    assert_eq!(
        (earlier[0].releases, earlier[0].unit, earlier[0].adjacency),
        (RELEASES, Unit::Image, Adjacency::AddRemove)
    );
    assert!(
        EarlierRun::carried_by(first.path())
            .unwrap()
            .unwrap()
            .is_empty()
    );

    let terms = terms().with_earlier(earlier.clone()).unwrap();
    let second = Folder::new();
    let mut ledger = second.open_as(&terms, &sha256_hex(b"config")).unwrap();
    let _charge = ledger.charge(1, &candidates(1)).unwrap();
    // Four releases of one noise multiplier, in two runs.
    let together = crate::privacy::epsilon(5.0 * 2f64.sqrt(), 4, 1e-5, Adjacency::AddRemove);
    let found = terms.epsilon_after(1, Adjacency::AddRemove);
    assert!(
        (found - together.unwrap()).abs() < 1e-9
            && found >= terms.epsilon_after(0, Adjacency::AddRemove)
    );
    assert_eq!(
        EarlierRun::carried_by(second.path()).unwrap(),
        Some(earlier)
    );
    let all = EarlierRun::read(second.path()).unwrap();
    assert_eq!(
        all.iter().map(|run| run.releases).collect::<Vec<_>>(),
        [RELEASES, 1]
    );
    // A run that is moved aside for a new one: it is not going on, and nothing was added to it
    // after its charges were read.
    assert!(error_of(check_carried(second.path(), &all)).contains("in use by another process"));
    drop(ledger);
    check_carried(second.path(), &all).unwrap();
    let error = error_of(check_carried(second.path(), &all[..1]));
    assert!(error.contains("went on with it"), "{error}");
    let mut stale = all.clone();
    stale[0].releases -= 1;
    let error = error_of(check_carried(second.path(), &stale));
    assert!(error.contains("and had fewer"), "{error}");
    // The claim of a run cannot lose them.
    assert!(error_of(second.open()).contains("`earlier_runs`"));
    // Nothing in a folder without a ledger.
    assert!(EarlierRun::read(second.private().path()).is_ok());
    assert!(
        EarlierRun::read(&second.path().join("absent"))
            .unwrap()
            .is_empty()
    );
}
