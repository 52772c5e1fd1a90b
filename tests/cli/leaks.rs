//! Nothing that is derived from private images leaves but through the mechanism.

use dpsyn::internals::images::SamplesReader;

use crate::support::{CLASSES, PER_CLASS, RunFixture, private_image, released};

/// The votes before noise, computed here from the released samples and the private images.
fn clean_counts(fixture: &RunFixture, iteration: usize) -> Vec<u64> {
    let path = fixture.path(&format!("out/{}/samples.npz", iteration - 1));
    let mut reader = SamplesReader::open(&path).unwrap();
    let images = reader.read(0..reader.len()).unwrap();
    let samples: Vec<&[u8]> = images.iter().collect();
    let per_class = samples.len() / CLASSES.len();
    let mut counts = vec![0; samples.len()];
    for class in 0..CLASSES.len() {
        for index in 0..PER_CLASS {
            let private = private_image(class, index);
            let nearest = (class * per_class..(class + 1) * per_class)
                .min_by_key(|sample| {
                    samples[*sample]
                        .iter()
                        .zip(&private)
                        .map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2))
                        .sum::<u64>()
                })
                .unwrap();
            counts[nearest] += 1;
        }
    }
    counts
}

/// Every spelling in which a vector of counts could end up in a file.
fn spellings(counts: &[u64]) -> Vec<Vec<u8>> {
    let bytes = |encode: &dyn Fn(u64) -> Vec<u8>| counts.iter().flat_map(|c| encode(*c)).collect();
    let mut all: Vec<Vec<u8>> = vec![
        bytes(&|c| (c as i64).to_le_bytes().to_vec()),
        bytes(&|c| (c as i32).to_le_bytes().to_vec()),
        bytes(&|c| (c as u16).to_le_bytes().to_vec()),
        bytes(&|c| vec![c as u8]),
        bytes(&|c| (c as f64).to_le_bytes().to_vec()),
        bytes(&|c| (c as f32).to_le_bytes().to_vec()),
        bytes(&|c| ((c << 20) as i64).to_le_bytes().to_vec()),
    ];
    for separator in [",", ", ", " ", "\n", ";", "\t"] {
        for decimal in ["", ".0"] {
            let text: Vec<String> = counts.iter().map(|c| format!("{c}{decimal}")).collect();
            all.push(text.join(separator).into_bytes());
        }
    }
    all
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[test]
fn clean_counts_appear_in_no_released_file_and_on_no_stream() {
    let fixture = RunFixture::new();
    // Twenty samples a class: no chance that twenty counts stand in a row by accident.
    let output = fixture.run(&[
        "--set",
        "evolution.lookahead_degree=0",
        "--set",
        "evolution.num_samples=40",
    ]);
    assert!(output.status.success());
    let mut places = released(&fixture.path("out"));
    places.push(("standard output".into(), output.stdout));
    places.push(("standard error".into(), output.stderr));
    for iteration in 1..=3 {
        let counts = clean_counts(&fixture, iteration);
        assert_eq!(
            counts.iter().sum::<u64>() as usize,
            CLASSES.len() * PER_CLASS
        );
        for class in counts.chunks(counts.len() / CLASSES.len()) {
            for spelling in spellings(class) {
                for (place, bytes) in &places {
                    assert!(
                        !contains(bytes, &spelling),
                        "iteration {iteration}'s clean counts are in {}",
                        place.display()
                    );
                }
            }
        }
    }
}

/// The search above can find something: without noise, the counts are what is released.
#[test]
fn without_noise_the_same_search_finds_them() {
    let fixture = RunFixture::new();
    fixture.succeed(&[
        "--set",
        "evolution.lookahead_degree=0",
        "--non-private",
        "--set",
        "privacy.noise_multiplier=0",
    ]);
    let counts = clean_counts(&fixture, 1);
    let places = released(&fixture.path("out"));
    let found = spellings(&counts)
        .iter()
        .any(|spelling| places.iter().any(|(_, bytes)| contains(bytes, spelling)));
    assert!(found);
}

#[test]
fn no_private_image_is_copied_into_the_released_folder() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let places = released(&fixture.path("out"));
    for class in 0..CLASSES.len() {
        for index in 0..PER_CLASS {
            let image = private_image(class, index);
            for (place, bytes) in &places {
                assert!(!contains(bytes, &image), "{}", place.display());
            }
        }
    }
}

/// The two logs of a run.
fn logs(fixture: &RunFixture) -> (String, String) {
    let read = |name: &str| std::fs::read_to_string(fixture.path(name)).unwrap();
    (read("out/log.txt"), read("out/private/log.txt"))
}

/// Replaces digits, so that two texts with the same form are equal.
fn form(text: &str) -> Vec<String> {
    let digit = |c: char| if c.is_ascii_hexdigit() { '#' } else { c };
    let lines = text.lines().map(|line| line.chars().map(digit).collect());
    // The noise decides whether all counts of a class are below the threshold.
    let lines = lines.filter(|line: &String| !line.contains("thr#shol#"));
    lines.collect()
}

#[test]
fn the_published_log_has_no_times_and_the_private_one_has_them() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let (public, private) = logs(&fixture);
    let units = [
        "s", "ms", "sec", "secs", "second", "seconds", "min", "minutes", "hours", "h",
    ];
    for line in public.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let number = pair[0].parse::<f64>().is_ok();
            assert!(!(number && units.contains(&pair[1])), "{line}");
        }
        for word in words {
            let digits: Vec<&str> = word.split([':', '-', 'T']).collect();
            let clock = digits.len() > 1 && digits.iter().all(|d| d.parse::<u32>().is_ok());
            let unit = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let duration = unit.len() < word.len()
                && unit.parse::<f64>().is_ok()
                && units.contains(&&word[unit.len()..]);
            assert!(!clock && !duration, "{line}");
        }
    }
    // Every public line is in the private log with its time, and the stages are there with theirs.
    for line in public.lines() {
        assert!(private.contains(line), "`{line}` is not in: {private}");
    }
    assert!(
        private.contains("stage ended") && private.contains("seconds="),
        "{private}"
    );
    assert!(
        private.lines().all(|line| line.starts_with("20")),
        "{private}"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| {
            let metadata = std::fs::metadata(fixture.path(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!(mode("out/private/log.txt"), 0o600);
        assert_eq!(mode("out/private"), 0o700);
    }
}

#[test]
fn published_logs_of_two_neighboring_data_sets_have_the_same_form() {
    let (one, other) = (RunFixture::new(), RunFixture::new());
    let image = std::fs::read(other.path("data/nested/dog_07.png")).unwrap();
    std::fs::write(other.path("data/nested/cat_03.png"), image).unwrap();
    one.succeed(&[]);
    other.succeed(&[]);
    assert_eq!(form(&logs(&one).0), form(&logs(&other).0));
}

#[test]
fn a_refused_resumption_is_in_the_private_log_only() {
    let fixture = RunFixture::new();
    fixture.succeed(&[]);
    let (public, _) = logs(&fixture);
    fixture.fail(5, &["--resume", "--set", "privacy.noise_multiplier=3"]);
    let (after, private) = logs(&fixture);
    assert_eq!(public, after);
    assert!(
        private.contains("ERROR") && private.contains("`noise_multiplier` was"),
        "{private}"
    );
}

#[test]
fn json_messages_are_one_object_per_line() {
    let fixture = RunFixture::new();
    let text = fixture.succeed(&["--log-format", "json"]);
    let mut messages = Vec::new();
    for line in text.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            event["timestamp"].is_null() && event["level"].is_string(),
            "{line}"
        );
        messages.push(event["message"].as_str().unwrap().to_owned());
    }
    assert!(
        messages.iter().any(|m| m.starts_with("device: cpu")),
        "{messages:?}"
    );
    let text = fixture.fail(6, &["--log-format", "json"]);
    let event: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(event["level"], "ERROR");
    // The published log is the same in both formats.
    assert!(logs(&fixture).0.lines().count() > 3);
}
