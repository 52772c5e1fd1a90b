//! The vendor of a hosted model: the requests before the first release do not depend on private
//! images, and those after it depend on noisy histograms only.

use std::fs;

use super::compare::published;
use crate::hosted::{command, hosted, house_model, rules};
use crate::support::RunFixture;
use crate::support::image_server::{ImageServer, Reply, Seen};

/// Random images of the fixture with a hosted model: one request for each of three prompts.
const RANDOM: usize = 3;
/// Lookahead requests of an iteration: one for each of 8 samples.
const LOOKAHEAD: usize = 8;

/// A run with a hosted model as its vendor sees it.
pub struct Observed {
    pub fixture: RunFixture,
    /// The requests in order: endpoint, number of images, parent, prompt.
    pub requests: Vec<(&'static str, usize, u32, String)>,
    /// Lines of `requests.jsonl`.
    pub journal: Vec<String>,
    pub stdout: Vec<u8>,
}

/// Executes a run on the images that `change` leaves, with one request at a time.
pub fn observe(change: impl Fn(&RunFixture), environment: &[(&str, &str)]) -> Observed {
    let server = ImageServer::start(rules(), |_| Reply::Good);
    let fixture = hosted(&server.base_url(), &house_model());
    change(&fixture);
    let arguments = ["--set", "model.concurrency=1"];
    let mut command = command(&fixture, &arguments);
    let output = command.envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    server.assert_no_problems();
    let seen = server.seen().into_iter();
    let requests = seen.map(|seen: Seen| (seen.endpoint, seen.n, seen.parent, seen.prompt));
    let journal = fs::read_to_string(fixture.path("out/requests.jsonl")).unwrap();
    Observed {
        requests: requests.collect(),
        journal: journal.lines().map(str::to_owned).collect(),
        stdout: output.stdout,
        fixture,
    }
}

/// Adds an image, replaces one, or adds a damaged file.
pub fn changes() -> [fn(&RunFixture); 3] {
    [
        |fixture| {
            let data = fixture.path("data/nested");
            fs::copy(data.join("dog_03.png"), data.join("cat_90.png")).unwrap();
        },
        |fixture| {
            let data = fixture.path("data/nested");
            fs::copy(data.join("dog_03.png"), data.join("cat_03.png")).unwrap();
        },
        |fixture| {
            let config = fs::read_to_string(fixture.path("run.toml")).unwrap();
            let skip = config.replace("[data]", "[data]\non_bad_image = \"skip\"");
            fs::write(fixture.path("run.toml"), skip).unwrap();
            fs::write(fixture.path("data/nested/cat_90.png"), "no image").unwrap();
        },
    ]
}

#[test]
fn the_vendor_sees_no_difference_before_the_first_release() {
    let base = observe(|_| {}, &[]);
    for change in changes() {
        let other = observe(change, &[]);
        let first = RANDOM + LOOKAHEAD;
        assert_eq!(base.requests[..first], other.requests[..first]);
        // A request has two lines: when it is sent, and when it is answered.
        assert_eq!(base.journal[..2 * first], other.journal[..2 * first]);
        // Later, the parents are those of the noisy histogram, the number of images is the plan's.
        let images = |run: &Observed| run.requests.iter().map(|(_, n, ..)| n).sum::<usize>();
        assert_eq!((images(&base), images(&other)), (72, 72));
        assert_eq!(base.stdout, other.stdout);
        // The server draws its images by itself, so populations have equal shapes only.
        let sizes = |run: &Observed| -> Vec<(String, usize)> {
            let files = published(&run.fixture.path("out")).into_iter();
            let arrays = files.filter(|(name, _)| name.ends_with(".npz"));
            arrays.map(|(name, bytes)| (name, bytes.len())).collect()
        };
        assert_eq!(sizes(&base), sizes(&other));
    }
    // Nothing of a private image was sent: the server recognizes every image by its number.
    let numbers = base.requests.iter().map(|(_, _, parent, _)| *parent);
    assert!(numbers.max().unwrap() <= 72);
}
