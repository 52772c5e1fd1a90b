//! The map in `src/lib.rs` is true: every module is in it, a module imports only what stands
//! below it, and no two files of a module import each other in a circle. Test code is not
//! checked.
//!
//! The imports are read from the source text, as cargo has no command for them. A module file and
//! the files below it (`a.rs` and `a/b.rs`) count as one: the parent declares and re-exports its
//! children, which in turn use its types.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The path of a module from the crate root, for example `["images", "resize"]`.
type ModulePath = Vec<String>;

/// The text of a module without comments, literals and tests, and the names that it imports.
struct Module {
    code: String,
    /// Name in this module → path from the crate root.
    imports: BTreeMap<String, ModulePath>,
}

type Modules = BTreeMap<ModulePath, Module>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns the modules in the order of the map, top first.
fn map() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("//! | [`")?.split_once("`]"))
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn read_modules() -> Modules {
    let mut modules = Modules::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !(name == "tests" || name == "testing" || name.ends_with("_tests"))
            {
                let relative = path.strip_prefix(source()).unwrap().with_extension("");
                let mut module: ModulePath = relative
                    .iter()
                    .map(|part| part.to_str().unwrap().to_owned())
                    .collect();
                if name == "mod" {
                    module.pop();
                }
                if module == ["lib"] || module == ["main"] {
                    continue;
                }
                let code = without_tests(&without_comments(&fs::read_to_string(&path).unwrap()));
                let imports = imports(&code, &module);
                modules.insert(module, Module { code, imports });
            }
        }
    }
    modules
}

/// Blanks out comments, strings and character literals.
fn without_comments(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with('"') {
            end_of_string(rest)
        } else if rest.starts_with("'\\") || rest.starts_with("'\"'") {
            2 + rest[2..].find('\'').unwrap() + 1
        } else {
            0
        };
        if skipped == 0 {
            let character = rest.chars().next().unwrap();
            code.push(character);
            at += character.len_utf8();
        } else {
            code.push(' ');
            at += skipped;
        }
    }
    code
}

/// Returns the length of the string literal at the start of `text`.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Removes each item that is compiled for tests only.
fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(start) = ["#[cfg(test)]", "#[cfg(all(test"]
        .iter()
        .filter_map(|attribute| rest.find(attribute))
        .min()
    {
        kept.push_str(&rest[..start]);
        rest = &rest[start + end_of_item(&rest[start..])..];
    }
    kept + rest
}

/// Returns the length of the item at the start of `code`, attributes included.
fn end_of_item(code: &str) -> usize {
    let mut depth = 0;
    for (at, character) in code.char_indices() {
        match character {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => {
                depth -= 1;
                if depth == 0 && character == '}' {
                    return at + 1;
                }
            }
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Resolves `crate`, `super` and `self` at the beginning of a path in `module`.
fn absolute(path: &[&str], module: &[String]) -> ModulePath {
    let mut base = module.to_vec();
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match *first {
            "crate" => base.clear(),
            "super" => {
                base.pop();
            }
            "self" => {}
            _ => break,
        }
        rest = after;
    }
    base.extend(rest.iter().map(|part| (*part).to_owned()));
    base
}

/// Returns the names that `use` declarations bring into `module`.
fn imports(code: &str, module: &[String]) -> BTreeMap<String, ModulePath> {
    let mut names = BTreeMap::new();
    let words = code.match_indices("use ");
    for (at, word) in words {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let tree = &code[at + word.len()..];
        let tree = &tree[..tree.find(';').unwrap_or(tree.len())];
        let mut leaves = Vec::new();
        expand(tree.trim(), &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            let parts: Vec<&str> = path.iter().map(String::as_str).collect();
            names.insert(name, absolute(&parts, module));
        }
    }
    names
}

/// Expands `a::{b, c::d as e}` into paths and the names that they get.
fn expand(tree: &str, prefix: &mut ModulePath, leaves: &mut Vec<(ModulePath, String)>) {
    if let Some((head, group)) = tree.split_once('{')
        && !head.contains(',')
    {
        let parts = head.split("::").map(str::trim).filter(|p| !p.is_empty());
        let length = prefix.len();
        prefix.extend(parts.map(str::to_owned));
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        let (mut depth, mut start) = (0, 0);
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(group[start..at].trim(), prefix, leaves);
                    start = at + 1;
                }
                _ => {}
            }
        }
        expand(group[start..].trim(), prefix, leaves);
        prefix.truncate(length);
        return;
    }
    if tree.is_empty() {
        return;
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut full = prefix.clone();
    full.extend(path.split("::").map(|part| part.trim().to_owned()));
    if full.last().is_some_and(|last| last == "self") {
        full.pop();
    }
    let last = full.last().cloned().unwrap_or_default();
    let name = match alias.trim() {
        "" => last,
        alias => alias.to_owned(),
    };
    leaves.push((full, name));
}

/// Returns the paths from the crate root that the code of a module mentions.
fn mentioned(modules: &Modules, module: &ModulePath) -> Vec<ModulePath> {
    let Module { code, imports } = &modules[module];
    let mut paths: Vec<ModulePath> = imports.values().cloned().collect();
    for keyword in ["crate::", "super::"] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].trim_end_matches("super::");
            let start = before.len();
            if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let path: String = code[start..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                .collect();
            let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
            paths.push(absolute(&parts, module));
        }
    }
    paths
}

/// Returns the module whose file defines what `path` names, as far as re-exports tell.
fn defining_module(modules: &Modules, path: &[String]) -> ModulePath {
    let mut path = path.to_vec();
    // Each turn follows one re-export; the limit ends a circle of them.
    for _ in 0..8 {
        let mut length = 0;
        while length < path.len() && modules.contains_key(&path[..=length]) {
            length += 1;
        }
        let module = path[..length].to_vec();
        let reexport = path
            .get(length)
            .and_then(|name| modules.get(&module)?.imports.get(name));
        match reexport {
            Some(target) if target[..] != path[..=length] => {
                path = [&target[..], &path[length + 1..]].concat();
            }
            _ => return module,
        }
    }
    Vec::new()
}

#[test]
fn every_module_is_in_the_map_once() {
    let map = map();
    let distinct: BTreeSet<_> = map.iter().cloned().collect();
    assert_eq!(distinct.len(), map.len(), "{map:?}");
    let modules: BTreeSet<_> = read_modules().into_keys().map(|m| m[0].clone()).collect();
    assert_eq!(distinct, modules, "left: the map, right: the modules");
}

#[test]
fn modules_import_only_what_stands_below_them_in_the_map() {
    let map = map();
    let rank = |name: &String| map.iter().position(|module| module == name);
    let modules = read_modules();
    let mut upward = BTreeSet::new();
    for module in modules.keys() {
        for path in mentioned(&modules, module) {
            let Some(target) = path.first() else { continue };
            if rank(target).is_some_and(|target| Some(target) < rank(&module[0])) {
                upward.insert(format!("{} imports {target}", module.join("/")));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

/// The mechanism without a ledger is for the public images of an audit only.
#[test]
fn only_the_audit_releases_without_a_ledger() {
    let modules = read_modules();
    let users: BTreeSet<&str> = modules
        .iter()
        .filter(|(_, Module { code, .. })| {
            ["PublicCanaries", "Trial", "of_audit"].iter().any(|name| {
                code.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|w| w == *name)
            })
        })
        .filter_map(|(module, _)| module.first().map(String::as_str))
        .collect();
    assert_eq!(users, BTreeSet::from(["audit", "privacy"]));
}

/// Returns each file of a module with the files of the same module that it imports.
fn edges(modules: &Modules) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let mut edges = BTreeMap::new();
    for module in modules.keys() {
        let targets = mentioned(modules, module)
            .iter()
            .map(|path| defining_module(modules, path))
            .filter(|target| {
                target.first() == module.first()
                    && !target.starts_with(module)
                    && !module.starts_with(target)
            })
            .collect();
        edges.insert(module.clone(), targets);
    }
    edges
}

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let modules = read_modules();
    let mut edges = edges(&modules);
    // A file that imports nothing, or that nothing imports, is on no circle. Removing such files
    // again and again leaves the circles and what lies between them.
    loop {
        let imported: BTreeSet<ModulePath> = edges.values().flatten().cloned().collect();
        let before = edges.len();
        edges.retain(|module, targets| !targets.is_empty() && imported.contains(module));
        let left: BTreeSet<ModulePath> = edges.keys().cloned().collect();
        for targets in edges.values_mut() {
            targets.retain(|target| left.contains(target));
        }
        if edges.len() == before {
            break;
        }
    }
    let left: Vec<String> = edges
        .iter()
        .map(|(module, targets)| {
            let targets: Vec<String> = targets.iter().map(|target| target.join("/")).collect();
            format!("{} -> {}", module.join("/"), targets.join(", "))
        })
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_reader_understands_imports() {
    let module = vec!["a".to_owned(), "b".to_owned()];
    let code = "use crate::x::{self, y::{Z, W as V}};\nuse super::c::D;\nreuse crate::no;";
    let found: Vec<String> = imports(code, &module)
        .iter()
        .map(|(name, path)| format!("{name}={}", path.join("/")))
        .collect();
    assert_eq!(found, ["D=a/c/D", "V=x/y/W", "Z=x/y/Z", "x=x"]);
    let text = "a // crate::b\n\"crate::c\" 'x' '\"' d #[cfg(test)]\nmod tests { crate::e }\nf";
    let code = without_tests(&without_comments(text));
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "'x'", "d", "f"]);
}
