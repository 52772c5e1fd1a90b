//! A process that holds private images leaves no core dump.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use crate::support::{RunFixture, wait_for};

/// Starts a long run under a shell that permits core dumps of any size.
fn start(fixture: &RunFixture) -> Child {
    let run = fixture.command(&["--set", "evolution.lookahead_degree=500"]);
    let arguments = run.get_args().map(|argument| argument.to_str().unwrap());
    let mut child = Command::new("sh")
        .current_dir(fixture.root.path())
        // The limit may be lower already; `exec` keeps the process.
        .args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\""])
        .arg(run.get_program())
        .args(arguments)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The private images have been read and checked.
    wait_for(&fixture.path("out/0/grid.png"), &mut child);
    child
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Returns true if this machine dumps the core of a process that permits it.
fn machine_dumps() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("sh")
        .current_dir(folder.path())
        .args(["-c", "ulimit -c unlimited 2>/dev/null; kill -ABRT $$"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    status.core_dumped()
}

#[test]
fn an_aborted_run_leaves_no_core_dump() {
    let fixture = RunFixture::new();
    let mut child = start(&fixture);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    signal(&child, "-ABRT");
    let status = child.wait().unwrap();
    assert!(!status.success() && !status.core_dumped(), "{status}");
    if !machine_dumps() {
        println!("this machine dumps no core at all: only the limit was checked");
    }
    for entry in std::fs::read_dir(fixture.root.path()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with("core"), "{name:?}");
    }
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(4).take(2).collect();
    assert_eq!(numbers, ["0", "0"], "{line}");
}

/// As root, `/proc/<pid>` has the owner root anyway, so this test needs another user.
#[test]
fn other_processes_of_the_user_cannot_read_the_memory_of_a_run() {
    use std::os::unix::fs::MetadataExt;
    let fixture = RunFixture::new();
    let user = std::fs::metadata(fixture.root.path()).unwrap().uid();
    if user == 0 {
        println!("not checked: this test needs another user than root");
        return;
    }
    let mut child = start(&fixture);
    let process = format!("/proc/{}", child.id());
    let owner = std::fs::metadata(format!("{process}/mem")).unwrap().uid();
    let memory = std::fs::File::open(format!("{process}/mem"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(owner, 0, "the process is dumpable");
    assert!(memory.is_err());
}
