//! Real processes: small programs of the shell that behave well or badly.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::generators::Parameters;
use crate::images::ImageSize;
use crate::streams::{Phase, RngKey};

/// The parts of a program: the first messages, and functions that read and answer requests. An
/// image has 12 bytes, all of them the last digit of the seed.
const GOOD: &str = r#"
read -r hello || exit 0
echo '{"type":"hello","version":1}'
next() {
    read -r line || exit 0
    id=${line#*'"id":'}; id=${id%%,*}
    seed=${line#*'"seed":'}; seed=${seed%%,*}
    digit=$(( seed % 10 ))
}
answer() {
    echo '{"type":"image","id":'$1',"parameters":{"seed":'$seed'},"raw":12}'
    printf "$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit"
}
"#;

fn config(script: &str) -> Config {
    Config {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        version: Some("1".to_owned()),
        files: None,
        image_size: ImageSize::square(2),
        pixels: false,
        processes: 1,
        batch_size: 4,
        timeout_seconds: 20.0,
        restarts: 2,
        environment: Vec::new(),
        classes: None,
    }
}

/// A program that begins as a good one.
fn good(then: &str) -> Config {
    config(&format!("{GOOD}{then}"))
}

fn samples(count: u64) -> Vec<SampleRequest> {
    let sample = |sample| SampleRequest {
        condition: Condition::UNCONDITIONAL,
        rng_key: RngKey {
            seed: 1,
            phase: Phase::Random,
            iteration: 0,
            repeat: 0,
            sample,
        },
    };
    (0..count).map(sample).collect()
}

fn random(config: &Config, count: u64) -> Result<Generated, GeneratorError> {
    Program::start(config)?.random(&samples(count))
}

/// The error of a program, within a few seconds.
fn error(config: &Config) -> String {
    let begun = Instant::now();
    let error = random(config, 6).err().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{error}");
    error.to_string()
}

/// Asserts that all images are those of their requests.
fn assert_right(generated: &Generated, count: u64) {
    assert_eq!(generated.len() as u64, count);
    for (index, (image, request)) in generated.images.iter().zip(samples(count)).enumerate() {
        let seed = request.rng_key.rng().below(1 << 53);
        let digit = b'0' + (seed % 10) as u8;
        assert_eq!(image, vec![digit; 12], "{index}");
        let parameters: BTreeMap<String, u64> = generated.parameters(index).read().unwrap();
        assert_eq!(parameters["seed"], seed);
    }
}

const LOOP: &str = "while true; do next; answer $id; done";

#[test]
fn images_do_not_depend_on_processes_and_batches() {
    for (processes, batch_size) in [(1, 1), (1, 64), (3, 2), (4, 5)] {
        let config = Config {
            processes,
            batch_size,
            ..good(LOOP)
        };
        let program = Program::start(&config).unwrap();
        for count in [1, 2, 23] {
            assert_right(&program.random(&samples(count)).unwrap(), count);
        }
        assert!(program.random(&[]).unwrap().is_empty());
        assert!(program.drain_warnings().is_empty());
    }
}

#[test]
fn answers_of_a_batch_may_come_in_any_order() {
    // It answers when the batch is complete, the last request first.
    let script = r#"
    ids=; seeds=
    while true; do
        next; ids="$id $ids"; seeds="$seed $seeds"
        case $line in *'"remaining":0'*)
            set -- $seeds
            for id in $ids; do seed=$1; shift; digit=$(( seed % 10 )); answer $id; done
            ids=; seeds=
        esac
    done"#;
    assert_right(&random(&good(script), 10).unwrap(), 10);
}

#[test]
fn a_program_that_dies_is_started_again_and_asked_for_the_rest() {
    // Each process answers two requests; the end of the second answer is not flushed twice.
    for end in ["exit 3", "kill -9 $$"] {
        let program = Program::start(&good(&format!(
            "for n in 1 2; do next; answer $id; done; next; {end}"
        )))
        .unwrap();
        assert_right(&program.random(&samples(9)).unwrap(), 9);
        let notes = program.drain_warnings().join("\n");
        assert!(
            notes.contains("ended") && notes.contains("started again"),
            "{notes}"
        );
    }
    // In the middle of an answer.
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let script = format!(
        "next; if [ ! -e {mark} ]; then : > {mark}; \
         echo '{{\"type\":\"image\",\"id\":'$id',\"raw\":12}}'; printf 12345; exit 0; fi; \
         answer $id; {LOOP}",
        mark = mark.display()
    );
    let program = Program::start(&good(&script)).unwrap();
    assert_right(&program.random(&samples(6)).unwrap(), 6);
    let notes = program.drain_warnings().join("\n");
    assert!(notes.contains("in the middle of an answer"), "{notes}");
}

#[test]
fn an_answer_begins_the_count_of_restarts_anew() {
    let config = Config {
        restarts: 1,
        ..good("next; answer $id; exit 7")
    };
    assert_right(&random(&config, 6).unwrap(), 6);
}

#[test]
fn a_program_that_never_answers_is_given_up() {
    let text = error(&good("next; echo \"trouble with $id\" >&2; exit 7"));
    for part in [
        "program `/bin/sh -c",
        "a random image: ended (exit status: 7), 3 times in succession",
        "the end of its standard error:\n  | trouble with 1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let hangs = Config {
        timeout_seconds: 0.3,
        restarts: 1,
        ..good("next; echo waiting >&2; sleep 100")
    };
    let text = error(&hangs);
    assert!(
        text.contains("within 0.3 s (model.timeout_seconds), 2 times"),
        "{text}"
    );
    assert!(text.contains("| waiting"), "{text}");
    // The process that does not read gets more than a pipe holds.
    let never_reads = Config {
        timeout_seconds: 0.5,
        restarts: 0,
        batch_size: 4096,
        ..good("sleep 100")
    };
    let error = random(&never_reads, 4096).err().unwrap().to_string();
    assert!(error.contains("within 0.5 s"), "{error}");
}

#[test]
fn the_first_message_is_checked_when_a_run_begins() {
    for (script, expected) in [
        (
            "exit 1",
            "the first message: ended (exit status: 1); it wrote nothing",
        ),
        (
            "echo Loading; sleep 100",
            "wrote \"Loading\" to standard output",
        ),
        (
            "echo '{\"type\":\"hello\",\"version\":9}'; sleep 100",
            "version 9",
        ),
        (
            "echo '{\"type\":\"image\",\"id\":1,\"raw\":12}123456789012'",
            "standard output",
        ),
        (
            "echo '{\"type\":\"error\",\"id\":0,\"message\":\"no weights\"}'; sleep 100",
            "cannot answer it: no weights",
        ),
        (
            "echo '{\"type\":\"hello\",\"version\":1,\"pixels\":\"raw\"}'; sleep 100",
            "expected model.pixels = true",
        ),
    ] {
        let text = error(&config(script));
        assert!(text.contains(expected), "{script}: {text}");
    }
    let text = error(&Config {
        pixels: true,
        ..good(LOOP)
    });
    assert!(
        text.contains("takes no pixels, but model.pixels is true"),
        "{text}"
    );
    let absent = Config {
        command: vec!["no-such-program-of-dpsyn".to_owned()],
        ..config("")
    };
    let error = random(&absent, 1).err().unwrap();
    assert!(matches!(error, GeneratorError::Config(_)), "{error}");
    assert!(error.to_string().contains("cannot be started"), "{error}");
}

#[test]
fn nonsense_ends_the_run_at_once() {
    for (then, expected) in [
        ("next; echo done; sleep 100", "wrote \"done\""),
        (
            "next; answer 99; sleep 100",
            "answered request 99, which is answered already",
        ),
        (
            "next; answer $id; answer $id; sleep 100",
            "request 1, which is answered already",
        ),
        ("next; answer $id; echo; sleep 100", "wrote \"\""),
        (
            "next; echo '{\"type\":\"hello\",\"version\":1}'; sleep 100",
            "repeated its first",
        ),
        ("yes | tr -d '\\n'", "a line of more than"),
        (
            "next; next; echo '{\"type\":\"error\",\"id\":'$id',\"message\":\"no such class\"}'; \
             sleep 100",
            "cannot answer it: no such class",
        ),
    ] {
        let text = error(&good(then));
        assert!(text.contains(expected), "{then}: {text}");
        assert!(!text.contains("in succession"), "{text}");
    }
    // Trailing bytes of the last answer are found by the next request.
    let program = Program::start(&good("next; answer $id; echo more; sleep 100")).unwrap();
    program.random(&samples(1)).unwrap();
    let error = program.random(&samples(1)).err().unwrap().to_string();
    assert!(error.contains("wrote \"more\""), "{error}");
}

#[test]
fn a_flood_of_standard_error_blocks_nothing() {
    let script = format!("yes 'a warning' | head -n 200000 >&2; {LOOP}");
    let program = Program::start(&good(&script)).unwrap();
    assert_right(&program.random(&samples(5)).unwrap(), 5);
    let notes = program.drain_warnings();
    assert!(notes.len() < 30, "{}", notes.len());
    assert_eq!(notes[0], "program: a warning");
    assert!(notes.last().unwrap().contains("further lines"), "{notes:?}");
}

#[test]
fn a_program_receives_the_listed_variables_only() {
    // A variable that every test process has, and that no program receives unless it is named.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let show = "echo \"<$CARGO_MANIFEST_DIR|$GIVEN|${PATH:+path}>\" >&2; exit 1";
    let text = error(&Config {
        environment: vec!["GIVEN=a=b".to_owned()],
        ..config(show)
    });
    assert!(text.contains("<|a=b|path>"), "{text}");
    let text = error(&Config {
        environment: vec!["CARGO_MANIFEST_DIR".to_owned(), "NOT_SET_AT_ALL".to_owned()],
        ..config(show)
    });
    assert!(!text.contains("<|") && text.contains("||path>"), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_inherits_no_open_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = error(&config("ls -l /proc/$$/fd >&2; exit 1"));
    assert!(text.contains("pipe:"), "{text}");
    let name = file.path().file_name().unwrap().to_str().unwrap();
    assert!(!text.contains(name), "{text}");
}

#[test]
fn a_program_ends_with_its_input_and_is_killed_if_it_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ended");
    let script = format!("{LOOP_TO_END}; : > {}", mark.display());
    let program = Program::start(&good(&script)).unwrap();
    program.random(&samples(2)).unwrap();
    drop(program);
    assert!(mark.exists(), "it was killed before it could end by itself");
    // This one ignores the end of its input, and so does the process that it waits for.
    let script = format!(
        "{LOOP_TO_END}; trap '' TERM INT HUP; sleep 100; : > {}",
        mark.display()
    );
    let program = Program::start(&good(&script)).unwrap();
    let begun = Instant::now();
    drop(program);
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(6),
        "{took:?}"
    );
}

/// A loop that ends with standard input, without the end of the process.
const LOOP_TO_END: &str = r#"while read -r line; do
    id=${line#*'"id":'}; id=${id%%,*}; seed=1; digit=1; answer $id
done"#;

#[test]
fn variations_have_parents_classes_and_degrees() {
    // It shows its request in the parameters.
    let script = r#"
    while read -r line; do
        id=${line#*'"id":'}; id=${id%%,*}
        echo '{"type":"image","id":'$id',"parameters":'$line',"raw":12}'; printf 123456789012
    done"#;
    let with = |pixels: &str| {
        GOOD.replace(
            "'{\"type\":\"hello\",\"version\":1}'",
            &format!("'{{\"type\":\"hello\",\"version\":1,\"degrees\":[0,2]{pixels}}}'"),
        )
    };
    let classes = BTreeMap::from([("a".to_owned(), json!("x")), ("b".to_owned(), json!([1]))]);
    let base = Config {
        classes: Some(classes),
        ..config(&format!("{}{script}", with("")))
    };
    let program = Program::start(&base).unwrap();
    assert_eq!(program.num_conditions(), 2);
    let requested = |class| ConditionRequest {
        class,
        rng_key: samples(1)[0].rng_key,
    };
    let conditions = program.initial_conditions(&[requested(Some("b")), requested(Some("a"))]);
    assert_eq!(conditions.unwrap(), [Condition(1), Condition(0)]);
    for class in [None, Some("c")] {
        let error = program
            .initial_conditions(&[requested(class)])
            .err()
            .unwrap();
        assert!(error.to_string().starts_with("classes: "), "{error}");
    }
    let images = ImageBatch::new(vec![65; 24], 2, 2, 2).unwrap();
    let parameters = vec![Parameters::NONE, Parameters::from_text("[3]").unwrap()];
    let parents = Generated::new(images, parameters).unwrap();
    let mut requests = samples(2);
    requests[1].condition = Condition(1);
    let variation = |degree| Variation {
        degree,
        population: 3,
    };
    let varied = program.vary(&parents, &requests, variation(1.5)).unwrap();
    let seen = |index| -> serde_json::Value { varied.parameters(index).read().unwrap() };
    for (index, class, parent) in [(0, json!("x"), json!(null)), (1, json!([1]), json!([3]))] {
        let request = seen(index);
        assert_eq!(request["type"], "vary");
        assert_eq!(
            (&request["class"], &request["parameters"]),
            (&class, &parent)
        );
        assert_eq!(
            (&request["degree"], &request["population"]),
            (&json!(1.5), &json!(3))
        );
        assert!(request.get("png").is_none() && request.get("raw").is_none());
    }
    for degree in [2.5, -1.0, f64::NAN] {
        let error = program
            .vary(&parents, &requests, variation(degree))
            .err()
            .unwrap();
        assert!(matches!(error, GeneratorError::Degree { .. }), "{error}");
    }
    let raw = Config {
        pixels: true,
        ..config(&format!("{}{}", with(",\"pixels\":\"raw\""), RAW_PARENTS))
    };
    let program = Program::start(&raw).unwrap();
    let varied = program.vary(&parents, &samples(2), variation(0.0)).unwrap();
    // Its answer is the image of the parent.
    assert!(varied.images == parents.images);
}

/// A program that reads the 12 bytes after each line, and answers with them.
const RAW_PARENTS: &str = r#"
while read -r line; do
    id=${line#*'"id":'}; id=${id%%,*}
    pixels=$(dd bs=1 count=12 2>/dev/null)
    echo '{"type":"image","id":'$id',"raw":12}'; printf "$pixels"
done"#;
