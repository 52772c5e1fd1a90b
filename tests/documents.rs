//! The tests, keys and files that pages name exist, so that a page does not promise what nothing
//! checks.

use std::fs;
use std::path::{Path, PathBuf};

/// Pages whose code with `::` in it names tests.
const PAGES: [&str; 2] = ["docs/privacy.md", "docs/reliability.md"];

/// A source file: the parts of its path without the extension, and its text.
struct Source {
    parts: Vec<String>,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut paths: Vec<PathBuf> = vec![root().join("src"), root().join("tests")];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().with_extension("");
            let parts = name.iter().map(|part| part.to_str().unwrap().to_owned());
            found.push(Source {
                parts: parts.collect(),
                text: fs::read_to_string(&path).unwrap(),
            });
        }
    }
    found
}

/// Returns the names of tests on a page: pieces of code that are paths of Rust in lower case.
fn named_tests(page: &str) -> Vec<String> {
    let pieces = page.split('`').skip(1).step_by(2);
    let is_path = |piece: &&str| {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:*".contains(c);
        piece.contains("::") && piece.chars().all(known) && **piece != *"module::test"
    };
    pieces.filter(is_path).map(str::to_owned).collect()
}

/// Returns true if the text has a test of this name; `*` stands for any.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let is_function = |line: &str| match name {
        "*" => line.starts_with("fn "),
        _ => line.starts_with(&format!("fn {name}(")),
    };
    let mut functions = lines.iter().enumerate().filter(|(_, l)| is_function(l));
    // Attributes stand directly above; tests of `proptest!` have the same attribute.
    functions.any(|(at, _)| {
        let above = lines[..at].iter().rev();
        let mut attributes = above.take_while(|line| line.starts_with("#["));
        attributes.any(|line| *line == "#[test]")
    })
}

/// Returns true if a file has the test: the file's path ends with the first modules of the name,
/// and the others are modules within the file.
fn exists(sources: &[Source], test: &str) -> bool {
    let parts: Vec<&str> = test.split("::").collect();
    let Some((name, modules)) = parts.split_last() else {
        return false;
    };
    sources.iter().any(|source| {
        (1..=modules.len()).any(|files| {
            let (file, within) = modules.split_at(files);
            let path: Vec<&str> = source.parts.iter().map(String::as_str).collect();
            let declared = |module: &&str| source.text.contains(&format!("mod {module} {{"));
            path.ends_with(file) && within.iter().all(declared) && has_test(&source.text, name)
        })
    })
}

#[test]
fn every_test_that_a_page_names_exists() {
    let sources = sources();
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let tests = named_tests(&text);
        assert!(tests.len() > 20, "{page} names {} tests", tests.len());
        let missing: Vec<&String> = tests.iter().filter(|t| !exists(&sources, t)).collect();
        assert!(
            missing.is_empty(),
            "{page} names tests that do not exist: {missing:#?}"
        );
    }
}

#[test]
fn names_are_found_and_others_are_not() {
    let sources = sources();
    for (name, expected) in [
        ("documents::names_are_found_and_others_are_not", true),
        ("documents::*", true),
        ("documents::named_tests", false),
        ("documents::no_such_test", false),
        ("no_such_file::names_are_found_and_others_are_not", false),
        ("style::names_are_found_and_others_are_not", false),
        ("privacy::noise_source::a_test_seed_is_a_number", true),
        (
            "privacy::noise_source::tests::a_test_seed_is_a_number",
            true,
        ),
        ("voting::noise_source::a_test_seed_is_a_number", false),
        ("privacy::lattice::noise_is_never_less_than_requested", true),
    ] {
        assert_eq!(exists(&sources, name), expected, "{name}");
    }
    let page = "`a::b`, a::c and `Sensitive::new`, `module::test`, `x::*` and `d`";
    assert_eq!(named_tests(page), ["a::b", "x::*"]);
}

/// Returns the pieces of code of a page.
fn code(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the keys that a page names, such as `data.path` in `data.path = "x"`.
fn named_keys(page: &str) -> Vec<&str> {
    const SECTIONS: [&str; 7] = [
        "data",
        "model",
        "embedder",
        "evolution",
        "privacy",
        "output",
        "evaluation",
    ];
    let keys = code(page).filter_map(|piece| {
        let end = piece.find(|c: char| !c.is_ascii_alphanumeric() && !"._".contains(c));
        let key = piece.get(..end.unwrap_or(piece.len()))?;
        let (section, name) = key.split_once('.')?;
        let is_key = SECTIONS.contains(&section) && !name.is_empty() && name != "json";
        is_key.then_some(key)
    });
    keys.collect()
}

#[test]
fn keys_and_configurations_of_the_page_about_dpsda_exist() {
    let text = page("docs/from-dpsda.md");
    let reference = page("configs/README.md");
    let rows: Vec<&str> = reference.lines().filter(|l| l.starts_with("| `")).collect();
    let keys = named_keys(&text);
    assert!(keys.len() > 50, "{}", keys.len());
    let has_row = |key: &str| {
        let cell = format!("`{key}`");
        let mut names = rows.iter().filter_map(|row| row.split(" | ").next());
        names.any(|name| name.contains(&cell))
    };
    // A key below a table, such as `evaluation.embedder.size`, may have the row of the table.
    let known = |key: &&str| {
        has_row(key)
            || key
                .rsplit_once('.')
                .is_some_and(|(table, _)| has_row(table))
    };
    let unknown: Vec<&str> = keys.into_iter().filter(|key| !known(key)).collect();
    assert!(
        unknown.is_empty(),
        "configs/README.md has no rows for {unknown:?}"
    );
    let configs = code(&text).filter(|p| p.starts_with("configs/") && p.ends_with(".toml"));
    let missing: Vec<&str> = configs.filter(|p| !root().join(p).exists()).collect();
    assert!(missing.is_empty(), "no such files: {missing:?}");
}

#[test]
fn the_reference_lists_every_configuration() {
    let reference = page("configs/README.md");
    for entry in fs::read_dir(root().join("configs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let listed = reference.contains(&format!("`{name}`"));
        assert!(
            listed || !name.ends_with(".toml"),
            "configs/README.md does not list {name}"
        );
    }
}

#[test]
fn relative_links_of_pages_lead_to_files() {
    let mut pages = vec!["README.md".to_owned(), "configs/README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        pages.push(format!(
            "docs/{}",
            entry.unwrap().file_name().to_str().unwrap()
        ));
    }
    let mut links = 0;
    let mut dead = Vec::new();
    for name in pages.iter().filter(|name| name.ends_with(".md")) {
        let text = page(name);
        let folder = root().join(name).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|s| s.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !target.contains("://") && !file.is_empty() {
                links += 1;
                if !folder.join(file).exists() {
                    dead.push(format!("{target} in {name}"));
                }
            }
        }
    }
    assert!(links > 30, "{links}");
    assert!(dead.is_empty(), "no such files: {dead:#?}");
}
