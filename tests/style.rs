//! The rules of CONTRIBUTING.md that a machine can check: line lengths, file and function lengths,
//! the beginnings of doc comments, and words to avoid.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Columns that a line may have, as in `.rustfmt.toml`.
const MAX_COLUMNS: usize = 100;

/// Lines that a file may have.
const MAX_FILE: usize = 600;

/// Lines that a function may have without a comment that says why.
const MAX_FUNCTION: usize = 80;

/// First words of a doc comment that describes instead of naming.
const VAGUE: [&str; 8] = [
    "What", "Where", "Whether", "Who", "Whose", "How", "Why", "Which",
];

/// Names that this project once used as metaphors.
const METAPHORS: [&str; 11] = [
    "brood",
    "ballot",
    "electorate",
    "crew",
    "fleet",
    "desk",
    "spool",
    "poll",
    "stamp",
    "workplace",
    "walk",
];

/// Files in which a word of [`METAPHORS`] is the field's own term.
const FIELD_TERMS: &[(&str, &str)] = &[];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all files below `folder` with this extension, sorted.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"]
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(named)
        .collect()
}

fn named(path: PathBuf) -> (String, String) {
    let name = path.strip_prefix(root()).unwrap().display().to_string();
    (name, fs::read_to_string(&path).unwrap())
}

/// Panics with every violation, one a line.
fn report(rule: &str, violations: &[String]) {
    let mut text = String::new();
    for violation in violations {
        writeln!(text, "  {violation}").unwrap();
    }
    assert!(
        violations.is_empty(),
        "{rule}: {} times\n{text}",
        violations.len()
    );
}

#[test]
fn no_comment_is_too_long() {
    let mut violations = Vec::new();
    for (name, text) in sources() {
        for (line, number) in text.lines().zip(1..) {
            let columns = line.chars().count();
            // Code is the formatter's business, which leaves long string literals alone.
            let comment = line.trim_start().starts_with("//");
            // Neither tables nor links can be broken.
            let fixed = line.contains("://") || line.contains("//! |");
            if columns > MAX_COLUMNS && comment && !fixed {
                violations.push(format!("{name}:{number}: {columns} columns"));
            }
        }
    }
    report("comments with more than 100 columns", &violations);
}

#[test]
fn no_line_of_a_page_is_too_long() {
    let pages = [
        "docs", "benches", "configs", "data", "fuzz", "src", "tests", "weights",
    ]
    .iter()
    .flat_map(|folder| files(folder, "md"));
    let top = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ];
    let mut violations = Vec::new();
    for (name, text) in pages.chain(top.map(|name| root().join(name))).map(named) {
        let mut in_block = false;
        for (line, number) in text.lines().zip(1..) {
            in_block ^= line.starts_with("```");
            let columns = line.chars().count();
            // Tables, links and commands cannot be broken.
            let fixed = in_block || line.starts_with('|') || line.contains("](");
            if columns > MAX_COLUMNS && !fixed && !line.contains("://") {
                violations.push(format!("{name}:{number}: {columns} columns"));
            }
        }
    }
    report("lines with more than 100 columns", &violations);
}

#[test]
fn doc_comments_begin_with_a_verb_or_a_noun() {
    let mut violations = Vec::new();
    for (name, text) in sources() {
        let mut within = false;
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim_start();
            let doc = line.strip_prefix("///").or(line.strip_prefix("//!"));
            if let (Some(doc), false) = (doc, within) {
                let first = doc.split_whitespace().next().unwrap_or_default();
                if VAGUE.contains(&first.trim_end_matches(',')) {
                    violations.push(format!("{name}:{number}: {line}"));
                }
            }
            within = doc.is_some();
        }
    }
    report("doc comments that begin with a question word", &violations);
}

#[test]
fn no_name_is_a_metaphor() {
    let mut violations = Vec::new();
    for (name, text) in files("src", "rs").into_iter().map(named) {
        for (line, number) in text.lines().zip(1..) {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            for word in words.map(str::to_lowercase) {
                let field_term = FIELD_TERMS.contains(&(name.as_str(), word.as_str()));
                if METAPHORS.contains(&word.as_str()) && !field_term {
                    violations.push(format!("{name}:{number}: {word}: {}", line.trim()));
                }
            }
        }
    }
    report("words that are no field terms", &violations);
}

#[test]
fn no_file_is_too_long() {
    let mut violations = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > MAX_FILE {
            violations.push(format!("{name}: {lines} lines"));
        }
    }
    report("files with more than 600 lines", &violations);
}

#[test]
fn long_functions_say_why() {
    let mut violations = Vec::new();
    for (name, text) in files("src", "rs").into_iter().map(named) {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let body = line.trim_start();
            let indent = &line[..line.len() - body.len()];
            if !begins_function(body) {
                continue;
            }
            // The formatter puts the closing brace at the indentation of `fn`.
            let close = format!("{indent}}}");
            let Some(length) = lines[start..].iter().position(|line| **line == close) else {
                continue;
            };
            let explained = lines[start.saturating_sub(3)..start + 3]
                .iter()
                .any(|line| line.trim_start().starts_with("// "));
            if length + 1 > MAX_FUNCTION && !explained {
                violations.push(format!("{name}:{}: {} lines", start + 1, length + 1));
            }
        }
    }
    report(
        "functions with more than 80 lines and no reason",
        &violations,
    );
}

fn begins_function(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().take(5).collect();
    let modifiers = ["pub", "const", "async", "unsafe", "extern"];
    words
        .iter()
        .position(|word| *word == "fn")
        .is_some_and(|at| {
            words[..at]
                .iter()
                .all(|word| modifiers.contains(word) || word.starts_with("pub("))
        })
}
