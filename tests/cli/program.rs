//! Runs whose model is a program, and mixtures with one.
//!
//! The programs are scripts of the shell, which every Unix has. One test runs
//! `examples/generator.py`, where there is a Python.

use std::path::{Path, PathBuf};
use std::process::Command;

use dpsyn::internals::images::{NpzReader, SamplesReader};

use crate::support::{NOISELESS, RunFixture, SIZE, wait_for};

/// A program: an image is a decimal number, one digit for each byte. A random number has the digits
/// of the seed; a variation adds less than a hundred to its parent's.
const GENERATOR: &str = r#"
read -r hello || exit 0
echo "hello $0" >&2
echo '{"type":"hello","version":1}'
while read -r line; do
    id=${line#*'"id":'}; id=${id%%,*}
    seed=${line#*'"seed":'}; seed=${seed%%,*}
    class=${line#*'"class":'}; class=${class%%,*}
    number=$(( seed % 100000000 ))
    case $line in *'"number":'*)
        number=${line#*'"number":'}; number=${number%%\}*}
        number=$(( number + seed % 100 ))
    esac
    echo '{"type":"image","id":'$id',"parameters":{"number":'$number',"class":'$class'},"raw":192}'
    printf '%0192d' $number
done
"#;

const PROGRAM: &str = "type = 'program'\ncommand = ['/bin/sh', 'generator.sh']\nprocesses = 2\n\
                       batch_size = 3\nclasses = { cat = 'c', dog = 'd' }\n";

/// A fixture with the program, and with these sections in place of `[model]`.
fn fixture(model: &str) -> RunFixture {
    let fixture = RunFixture::new();
    std::fs::write(fixture.path("generator.sh"), GENERATOR).unwrap();
    let text = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let (data, rest) = text.split_once("[model]\n").unwrap();
    let (network, rest) = rest.split_once("[embedder]").unwrap();
    let model = model.replace("<network>", network);
    let text = format!("{data}[model]\n{model}\n[embedder]{rest}");
    std::fs::write(fixture.path("run.toml"), text).unwrap();
    fixture
}

fn one() -> RunFixture {
    fixture(&format!("{PROGRAM}image_size = {SIZE}"))
}

fn samples(fixture: &RunFixture, out: &str, population: u32) -> (Vec<Vec<u8>>, Vec<String>) {
    let path = fixture.path(&format!("{out}/{population}/samples.npz"));
    let mut reader = SamplesReader::open(&path).unwrap();
    let count = reader.len();
    let images = reader.read(0..count).unwrap();
    let parameters = NpzReader::open(&path).unwrap().texts("parameters").unwrap();
    assert_eq!(parameters.len(), count);
    (images.iter().map(<[u8]>::to_vec).collect(), parameters)
}

fn number(parameters: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(parameters).unwrap();
    value["number"].as_u64().unwrap()
}

#[test]
fn a_run_with_a_program_is_reproducible_and_keeps_its_parameters() {
    let fixture = one();
    let text = fixture.succeed(&NOISELESS);
    assert!(text.contains("program: hello generator.sh"), "{text}");
    for population in 0..=3 {
        let (images, parameters) = samples(&fixture, "out", population);
        for (index, (image, text)) in images.iter().zip(&parameters).enumerate() {
            assert_eq!(*image, format!("{:0192}", number(text)).into_bytes());
            let class = if index < 8 { "\"c\"" } else { "\"d\"" };
            assert!(text.contains(class), "{index}: {text}");
        }
    }
    let options = [
        "--out",
        "other",
        "--set",
        "model.processes=1",
        "--set",
        "model.batch_size=7",
    ];
    fixture.succeed(&[&NOISELESS[..], &options].concat());
    for population in 0..=3 {
        assert_eq!(
            samples(&fixture, "out", population),
            samples(&fixture, "other", population)
        );
    }
    // It can be resumed with other processes, but not with another program.
    let processes = ["--resume", "--set", "model.processes=5"];
    fixture.succeed(&[&NOISELESS[..], &processes].concat());
    std::fs::write(
        fixture.path("generator.sh"),
        format!("{GENERATOR}\n# changed"),
    )
    .unwrap();
    let text = fixture.fail_with_any(&[&NOISELESS[..], &["--resume"]].concat());
    assert!(
        text.contains("restore the value to resume the run"),
        "{text}"
    );
}

#[test]
fn a_program_that_dies_is_an_error_with_its_last_lines() {
    let fixture = one();
    let script = GENERATOR.replace(
        "number=$(( seed % 100000000 ))",
        "echo no paint >&2; exit 3",
    );
    std::fs::write(fixture.path("generator.sh"), script).unwrap();
    let text = fixture.fail(8, &["--set", "model.restarts=1"]);
    for part in [
        "program `/bin/sh generator.sh`: a random image: ended (exit status: 3), 2 times",
        "| no paint",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    let absent = "model.command=['no-such-program-of-dpsyn']";
    let text = fixture.fail(2, &["--out", "other", "--set", absent]);
    assert!(
        text.contains("model.command: \"no-such-program-of-dpsyn\" cannot be started"),
        "{text}"
    );
    let private = "model.command=['/bin/sh', 'generator.sh', 'data']";
    let text = fixture.fail(2, &["--out", "other", "--set", private]);
    assert!(text.contains("which is data.path or lies in it"), "{text}");
}

#[test]
fn a_program_receives_no_secrets_and_no_private_paths() {
    let fixture = one();
    let script = format!("env > environment; echo \"$0 $*\" >> environment\n{GENERATOR}");
    std::fs::write(fixture.path("generator.sh"), script).unwrap();
    let mut command = fixture.command(&["--dry-run"]);
    command
        .env("OPENAI_API_KEY", "hush-hush")
        .env("SHOWN", "shown-value");
    command.args(["--set", "model.environment=['SHOWN']"]);
    assert!(command.output().unwrap().status.success());
    let text = std::fs::read_to_string(fixture.path("environment")).unwrap();
    assert!(
        text.contains("PATH=") && text.contains("SHOWN=shown-value"),
        "{text}"
    );
    for part in ["OPENAI", "hush-hush", "data", "out", "DPSYN", "CARGO"] {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("PATH=") && !line.starts_with("HOME="));
        // The shell itself adds the folder that it runs in.
        let mut lines =
            lines.filter(|line| !line.starts_with("PWD=") && !line.starts_with("OLDPWD="));
        assert!(!lines.any(|line| line.contains(part)), "{part}: {text}");
    }
}

#[test]
fn a_killed_dpsyn_leaves_no_program_behind() {
    let fixture = one();
    let script = GENERATOR.replace(
        "while read",
        "echo $$ > new_pid; mv new_pid pid\nwhile sleep 0.2 && read",
    );
    std::fs::write(fixture.path("generator.sh"), script).unwrap();
    let mut dpsyn = fixture
        .command(&["--set", "model.processes=1"])
        .spawn()
        .unwrap();
    wait_for(&fixture.path("pid"), &mut dpsyn);
    dpsyn.kill().unwrap();
    dpsyn.wait().unwrap();
    let pid = std::fs::read_to_string(fixture.path("pid")).unwrap();
    let is_running = || {
        let mut kill = Command::new("/bin/sh");
        kill.args(["-c", &format!("kill -0 {} 2>/dev/null", pid.trim())]);
        kill.status().unwrap().success()
    };
    let begun = std::time::Instant::now();
    while is_running() {
        assert!(begun.elapsed().as_secs() < 30, "the program {pid} is left");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The configuration of a mixture of the program and the small network.
fn mixture(variations: &str) -> RunFixture {
    fixture(&format!(
        "type = 'mixture'\nvariations = {variations}\n\
         [[model.members]]\nname = 'numbers'\nshare = 1\n{PROGRAM}image_size = {SIZE}\n\
         [[model.members]]\nname = 'network'\nshare = 1\nvariation_degree = [0, 0, 1, 2]\n<network>\
         class_labels = {{ cat = [1], dog = [2, 3] }}\n"
    ))
}

#[test]
fn a_mixture_begins_with_a_program_and_goes_on_with_a_network() {
    let fixture = mixture("['parent', 'parent', 'network', 'network']");
    fixture.succeed(&NOISELESS);
    let makers = |population| {
        let (_, parameters) = samples(&fixture, "out", population);
        let count = |name: &str| parameters.iter().filter(|text| text.contains(name)).count();
        (count("\"numbers\""), count("\"network\""))
    };
    for population in [0, 1] {
        let (numbers, network) = makers(population);
        assert_eq!(numbers + network, 16);
        assert!(
            population == 1 || (numbers > 0 && network > 0),
            "{numbers} {network}"
        );
    }
    assert_eq!((makers(2), makers(3)), ((0, 16), (0, 16)));
    let options = ["--out", "other", "--set", "model.variations='parent'"];
    fixture.succeed(&[&NOISELESS[..], &options].concat());
    assert_eq!(samples(&fixture, "out", 1), samples(&fixture, "other", 1));
    // It resumes, and its configuration is read again.
    fixture.succeed(&[&NOISELESS[..], &["--resume"]].concat());
    let config = std::fs::read_to_string(fixture.path("out/config.toml")).unwrap();
    assert!(config.contains("[[model.members]]"), "{config}");
    let mut again = fixture.command(&NOISELESS);
    again.args(["--out", "third"]);
    std::fs::copy(
        fixture.path("out/private/config.toml"),
        fixture.path("run.toml"),
    )
    .unwrap();
    assert!(again.status().unwrap().success());
    assert_eq!(samples(&fixture, "out", 3), samples(&fixture, "third", 3));
}

#[test]
fn errors_of_a_mixture_name_the_member_and_the_line() {
    let fixture = mixture("'numbers'");
    let text = fixture.fail(2, &[]);
    assert!(
        text.contains("model.variations: is \"numbers\", which varies the parameters"),
        "{text}"
    );
    let text = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let text = text.replace("variations = 'numbers'", "variations = 'parent'");
    // The last line that begins so.
    let line = |text: &str, part: &str| {
        let lines: Vec<&str> = text.lines().collect();
        1 + lines
            .iter()
            .rposition(|line| line.starts_with(part))
            .unwrap()
    };
    for (from, to, expected) in [
        (
            "num_res_blocks = 1",
            "num_res_blocks = 0",
            "model.members[1].num_res_blocks",
        ),
        (
            "num_res_blocks = 1",
            "num_res_block = 1",
            "did you mean `num_res_blocks`",
        ),
        (
            "batch_size = 3",
            "batch_size = 0",
            "model.members[0].batch_size",
        ),
        (
            "type = 'program'",
            "type = 'programme'",
            "did you mean `program`",
        ),
        (
            "type = 'program'",
            "type = 'mixture'",
            "unknown model.members[0] type `mixture`",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let changed = text.replace(from, to);
        std::fs::write(fixture.path("run.toml"), &changed).unwrap();
        let error = fixture.fail(2, &[]);
        let place = format!("run.toml:{}", line(&changed, to));
        assert!(
            error.contains(expected) && error.contains(&place),
            "{place}: {error}"
        );
    }
    for (from, to, expected) in [
        ("name = 'network'\n", "", "model.members[1].name: missing"),
        (
            "share = 1\nvariation",
            "variation",
            "model.members[1].share: missing",
        ),
        (
            "[0, 0, 1, 2]\ntype",
            "[0, 1, 2]\ntype",
            "model.members[1].variation_degree: 3 entries",
        ),
        (
            "[0, 0, 1, 2]\ntype",
            "[0, 0, 1, 9]\ntype",
            "model.members[1].variation_degree: ",
        ),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(fixture.path("run.toml"), text.replace(from, to)).unwrap();
        let error = fixture.fail(2, &[]);
        assert!(
            error.contains(expected) && error.contains("run.toml:"),
            "{error}"
        );
    }
}

/// Returns a Python of at least version 3, if there is one.
fn python() -> Option<PathBuf> {
    ["python3", "python"]
        .into_iter()
        .map(PathBuf::from)
        .find(|python| {
            let mut command = Command::new(python);
            command.args(["-c", "import sys; sys.exit(sys.version_info < (3, 6))"]);
            command.status().is_ok_and(|status| status.success())
        })
}

#[test]
fn the_reference_program_generates_and_varies() {
    let Some(python) = python() else {
        eprintln!("skipped: examples/generator.py needs Python 3, which is not installed");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/generator.py");
    let fixture = fixture(&format!(
        "type = 'program'\ncommand = ['{}', '{}']\nimage_size = [{SIZE}, {SIZE}]\nprocesses = 2\n\
         classes = {{ cat = 'disc', dog = 'square' }}\n",
        python.display(),
        script.display()
    ));
    let degrees = ["--set", "evolution.variation_degree=[0, 0.5, 0.2, 0]"];
    fixture.succeed(&[&NOISELESS[..], &degrees].concat());
    for population in 0..=3 {
        let (images, parameters) = samples(&fixture, "out", population);
        for (index, text) in parameters.iter().enumerate() {
            let shape = if index < 8 { "\"disc\"" } else { "\"square\"" };
            assert!(text.contains(shape), "{text}");
        }
        assert!(
            images.iter().any(|image| image != &images[0]),
            "{population}"
        );
    }
    // A variation of degree 0 is its parent, pixel by pixel.
    let (before, _) = samples(&fixture, "out", 2);
    let (after, _) = samples(&fixture, "out", 3);
    assert!(after.iter().all(|image| before.contains(image)));
    let degrees = [
        "--out",
        "other",
        "--set",
        "evolution.variation_degree=[0, 0, 2, 0]",
    ];
    let error = fixture.fail_with_any(&degrees);
    assert!(
        error.contains("from 0 to 1, which the program states"),
        "{error}"
    );
}
