//! A run with a model on this machine opens no socket: private images cannot leave through one.
//!
//! The kernel ends the process at the first call of `socket`; the filter needs no privilege and no
//! tool. Where the architecture has no such filter, the tests are not compiled.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use crate::support::seccomp::{Action, output_without};
use crate::support::{RunFixture, write_clip};

/// The calls by which a process obtains a socket or uses one that it inherited.
const SOCKETS: [i64; 5] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_sendto,
];
/// The signal of a process that the filter ended.
const SIGSYS: i32 = 31;

fn run_without_sockets(fixture: &RunFixture, arguments: &[&str]) -> Output {
    output_without(fixture.command(arguments), &SOCKETS, Action::KillProcess)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_run_opens_no_socket() {
    let fixture = RunFixture::new();
    write_clip(&fixture.path("clip.safetensors"));
    // Everything that a run can do: lookahead, pictures, metrics with an embedder of their own.
    let everything = [
        "--set",
        "output.plot_images=true",
        "--set",
        "evaluation.metrics=[\"fid\", \"memorization\"]",
        "--set",
        "evaluation.embedder={type = \"clip\", weights = \"clip.safetensors\", resolution = 8}",
    ];
    let output = run_without_sockets(&fixture, &everything);
    assert!(
        output.status.success(),
        "{} {}",
        output.status,
        text(&output)
    );
    let again = [&everything[..], &["--resume"]].concat();
    let output = run_without_sockets(&fixture, &again);
    assert!(
        output.status.success(),
        "{} {}",
        output.status,
        text(&output)
    );
    // Nor does a run that is refused.
    let output = run_without_sockets(&fixture, &["--set", "privacy.delta=0.5", "--out", "other"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

/// The filter works: the same program with a hosted model is ended by it.
#[test]
fn a_run_with_a_hosted_model_is_ended_by_the_same_filter() {
    let fixture = RunFixture::new();
    let config = std::fs::read_to_string(fixture.path("run.toml")).unwrap();
    let (before, rest) = config.split_once("[model]").unwrap();
    let (_, rest) = rest.split_once("[embedder]").unwrap();
    let model = "[model]\ntype = \"openai-images\"\nmodel = \"house-model\"\nsize = \"8x8\"\n\
                 base_url = \"http://127.0.0.1:9\"\napi_key_env = \"\"\n\
                 prompts = { cat = \"a cat\", dog = \"a dog\" }\n\n[embedder]";
    std::fs::write(fixture.path("run.toml"), format!("{before}{model}{rest}")).unwrap();
    let output = run_without_sockets(&fixture, &[]);
    assert_eq!(output.status.signal(), Some(SIGSYS), "{}", text(&output));
}
