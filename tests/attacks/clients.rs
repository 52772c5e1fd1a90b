//! Attacks on the unit `client`: data sets that differ in all images of one client.

use std::path::Path;

use dpsyn::internals::images::{ImageBatch, SamplesWriter, png};

use super::compare::{MARK, assert_indistinguishable, marked, published};
use crate::support::{CLASSES, NOISELESS, RunFixture, SIZE, lattice, private_image};

const CLIENT: [&str; 2] = ["--set", "privacy.unit=client"];
const PATTERN: [&str; 2] = ["--set", "data.clients.pattern='^[a-z]+_(p[0-9]+)_'"];
/// One vote in units of the lattice.
const ONE: i64 = 1 << 20;

/// Client, class and index of each image of the pictures of the support module: eight clients with
/// one cat and one dog each, and perhaps client 42 with three cats and two dogs.
fn images(with: bool) -> Vec<(u32, usize, usize)> {
    let others =
        (0..8).flat_map(|client| [(client, 0, client as usize), (client, 1, client as usize)]);
    let one = [(42, 0, 3), (42, 0, 9), (42, 0, 9), (42, 1, 1), (42, 1, 11)];
    others.chain(one.into_iter().filter(|_| with)).collect()
}

fn name(index: usize, (client, class, _): (u32, usize, usize)) -> String {
    format!("{}_p{client:02}_{index:02}.png", CLASSES[class])
}

fn fixture(with: bool) -> RunFixture {
    let fixture = RunFixture::new();
    std::fs::remove_dir_all(fixture.path("data")).unwrap();
    std::fs::create_dir(fixture.path("data")).unwrap();
    for (index, image) in images(with).into_iter().enumerate() {
        let pixels = private_image(image.1, image.2);
        let batch = ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap();
        let path = fixture.path("data").join(name(index, image));
        std::fs::write(path, png(&batch).unwrap()).unwrap();
    }
    fixture
}

/// The histogram of the first vote without noise, in units of the lattice.
fn votes(fixture: &RunFixture, out: &str, arguments: &[&str]) -> Vec<i64> {
    let out_of = ["--out", out];
    fixture.succeed(&[&out_of[..], &CLIENT, &NOISELESS, arguments].concat());
    lattice(&fixture.path(out), 1).unwrap()
}

/// The squared L2 distance of two histograms.
fn squared_distance(one: &[i64], other: &[i64]) -> i64 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a - b).pow(2)).sum()
}

/// One client with five images in two classes more, or none, and the same with a cap.
#[test]
fn a_client_is_not_visible() {
    let (without, with) = (fixture(false), fixture(true));
    let client = [&CLIENT[..], &PATTERN].concat();
    let outputs = assert_indistinguishable(&without, &with, &client);
    for (output, clients) in outputs.iter().zip(["clients: 8", "clients: 9"]) {
        let plan = if clients == "clients: 8" {
            &without
        } else {
            &with
        };
        let plan = plan.run(&[&client[..], &["--dry-run"]].concat());
        assert!(
            marked(&plan).contains(&format!("{MARK} {clients}")),
            "{plan:?}"
        );
        assert!(output.status.success());
    }
    let capped = ["--set", "data.clients.max_images=2", "--out", "capped"];
    for fixture in [&without, &with] {
        fixture.succeed(&[&client[..], &capped].concat());
    }
    let statement = |fixture: &RunFixture| {
        let bytes = std::fs::read(fixture.path("capped/privacy.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
    };
    let (one, other) = (statement(&without), statement(&with));
    assert_eq!(one["declared_public"], other["declared_public"]);
    assert_eq!(one["unit"], "client");
    assert_eq!(one["mechanism"]["l2_sensitivity_votes"][0]["l2"], 1.0);
    assert!(one["summary"].as_str().unwrap().contains("unit one client"));
    let selection = one["declared_public"]["selection"].as_str().unwrap();
    assert!(
        selection.contains("at most 2 images of each client"),
        "{selection}"
    );
}

/// Without noise, the exact histograms of the two data sets differ by at most one vote in L2 norm,
/// whatever the number of neighbors and the cap are; by image, they differ by more.
#[test]
fn a_client_changes_the_histogram_by_at_most_one_vote() {
    let (without, with) = (fixture(false), fixture(true));
    for (neighbors, cap) in [(1, 9), (3, 9), (1, 2), (3, 1)] {
        let out = format!("out-{neighbors}-{cap}");
        let neighbors = format!("evolution.nearest_neighbors={neighbors}");
        let cap = format!("data.clients.max_images={cap}");
        let set = [&PATTERN[..], &["--set", &neighbors, "--set", &cap]].concat();
        let distance = squared_distance(&votes(&without, &out, &set), &votes(&with, &out, &set));
        assert!(distance <= ONE * ONE, "{distance}");
        // Each of at most 15 bins is rounded down by less than one unit of the lattice.
        assert!(distance > ONE * ONE - 30 * ONE, "{distance}");
    }
    let by_image = |fixture: &RunFixture| {
        fixture.succeed(&[&NOISELESS[..], &["--out", "images"]].concat());
        lattice(&fixture.path("images"), 1).unwrap()
    };
    let distance = squared_distance(&by_image(&without), &by_image(&with));
    assert!(distance >= 5 * ONE * ONE, "{distance}");
}

/// The clients of a CSV file, of a pattern and of an array give the same votes, and none of them is
/// published.
#[test]
fn clients_come_from_a_table_a_pattern_or_an_array() {
    let fixture = fixture(true);
    let expected = votes(&fixture, "pattern", &PATTERN);

    let rows = images(true).into_iter().enumerate();
    let rows: String = rows
        .map(|(index, image)| format!("{},site 7,patient {}\n", name(index, image), image.0))
        .collect();
    std::fs::write(
        fixture.path("patients.csv"),
        format!("file,site,patient\n{rows}"),
    )
    .unwrap();
    let table = [
        "data.clients.csv=patients.csv",
        "data.clients.column=patient",
    ];
    let set = ["--set", table[0], "--set", table[1]];
    assert_eq!(votes(&fixture, "table", &set), expected);
    for (name, bytes) in published(&fixture.path("table")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for word in ["patient", "site 7"] {
            assert!(!text.contains(word), "{word} is in {name}");
        }
    }
    let complete = std::fs::read_to_string(fixture.path("table/private/config.toml")).unwrap();
    assert!(complete.contains("patients.csv"), "{complete}");
    for (name, bytes) in published(&fixture.path("pattern")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("p[0-9]+"), "the pattern is in {name}");
    }

    // The order of the files, which is that of their names.
    let mut sorted: Vec<_> = images(true).into_iter().enumerate().collect();
    sorted.sort_by_key(|(index, image)| name(*index, *image));
    write_npz(&fixture.path("data.npz"), &sorted);
    let array = [
        "--set",
        "data.path=data.npz",
        "--set",
        "data.clients={}",
        "--set",
        "data.classes=[\"0\", \"1\"]",
    ];
    assert_eq!(votes(&fixture, "array", &array), expected);
}

fn write_npz(path: &Path, images: &[(usize, (u32, usize, usize))]) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SamplesWriter::create(file, images.len(), SIZE, SIZE).unwrap();
    for (_, (_, class, index)) in images {
        let pixels = private_image(*class, *index);
        writer
            .push(&ImageBatch::new(pixels, 1, SIZE, SIZE).unwrap())
            .unwrap();
    }
    let of = |number: &dyn Fn(&(u32, usize, usize)) -> i64| -> Vec<i64> {
        images.iter().map(|(_, image)| number(image)).collect()
    };
    writer.i64s("labels", &of(&|image| image.1 as i64)).unwrap();
    writer
        .i64s("clients", &of(&|image| i64::from(image.0)))
        .unwrap();
    writer.finish().unwrap();
}

/// Settings that select images across clients, name no clients, or change the clients of a run are
/// refused before anything is charged.
#[test]
fn what_the_unit_does_not_cover_is_refused() {
    let fixture = fixture(true);
    let refused = |code: i32, arguments: &[&str], expected: &str| {
        let text = fixture.fail(code, arguments);
        assert!(text.contains(expected), "{text}");
    };
    let client = [&CLIENT[..], &PATTERN].concat();
    let first = [
        "--set",
        "data.num_samples=10",
        "--set",
        "privacy.adjacency=replace-one",
    ];
    refused(2, &[&client[..], &first].concat(), "data.num_samples");
    refused(2, &CLIENT, "privacy.unit: is \"client\", but");
    refused(
        2,
        &PATTERN,
        "data.clients: is given, but privacy.unit is \"image\"",
    );
    let declared = [
        "--set",
        "data.clients.declared_size=1000",
        "--set",
        "privacy.delta=1e-3",
    ];
    refused(2, &[&client[..], &declared].concat(), "1/1000");
    let other = ["--set", "data.clients.pattern='^cat_(p[0-9]+)_'"];
    let text = fixture.fail(3, &[&CLIENT[..], &other].concat());
    assert!(
        text.contains(MARK) && text.contains("its client is unknown"),
        "{text}"
    );
    assert!(!fixture.path("out").exists());

    // A run that began with other clients.
    fixture.succeed(&client);
    let halves = [
        "--set",
        "data.clients.pattern='^([a-z]+)_p[0-9]+_'",
        "--resume",
    ];
    refused(5, &[&CLIENT[..], &halves].concat(), "private images");
}
