//! `dpsyn classes`: proposes the declaration of classes from the names of files or the labels of an
//! `.npz` file, for the owner of the images.

use super::args::ClassesArguments;
use super::error::CliError;
use super::output::print;
use crate::dataset::PrivateImages;
use crate::images::{DataConfig, OccurringClasses, shown_text};
use crate::privacy::{PrivateEvaluationConsent, print_marked_private};

/// Executes `dpsyn classes`.
pub(super) fn run(arguments: &ClassesArguments) -> Result<(), CliError> {
    let layout = arguments.layout.layout();
    let config = DataConfig::with_layout(&arguments.path, 1, &layout);
    let classes = PrivateImages::occurring_classes(&config)?;
    // The owner called a command whose only purpose is to show the classes.
    let consent = PrivateEvaluationConsent::given_by_owner();
    print_marked_private(&consent, &classes, describe, &mut |line| print(&line));
    Ok(())
}

/// Returns the proposed line for `[data]`, the number of images of each class, and warnings about
/// names that may belong to persons.
fn describe(classes: &OccurringClasses) -> Vec<String> {
    let names = classes.names().into_iter().map(toml::Value::String);
    let mut lines = vec![format!("classes = {}", toml::Value::Array(names.collect()))];
    let counts = classes.counts.iter();
    lines.extend(counts.map(|(name, count)| format!("class {}: {count}", shown_text(name))));
    if classes.unnamed > 0 {
        lines.push(format!(
            "images without a class: {} (--labels tells where the classes are: prefix, folder, \
             leaf-folder or csv)",
            classes.unnamed
        ));
    }
    lines.extend(classes.remarks.iter().cloned());
    let total: usize = classes.counts.iter().map(|(_, count)| count).sum();
    let number = classes.counts.len();
    let single = classes.counts.iter().filter(|(_, count)| *count == 1);
    let single = single.count();
    if number > 1 && number * 10 >= total || single > 0 {
        lines.push(format!(
            "warning: {number} classes of {total} images, {single} of them with one image: the names \
             may be those of persons, such as patient numbers, which must not be declared, because \
             declared names are published"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(counts: &[(&str, usize)], unnamed: usize) -> Vec<String> {
        let counts = counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count));
        describe(&OccurringClasses {
            counts: counts.collect(),
            unnamed,
            remarks: Vec::new(),
        })
    }

    #[test]
    fn the_proposal_is_valid_toml_with_a_line_for_each_class() {
        let found = lines(&[("a \"b\"", 40), ("c", 60)], 2);
        let parsed: toml::Table = found[0].parse().unwrap();
        assert_eq!(parsed["classes"][0].as_str(), Some("a \"b\""));
        assert_eq!(found[1..3], ["class a \"b\": 40", "class c: 60"]);
        assert!(
            found[3].starts_with("images without a class: 2"),
            "{found:?}"
        );
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn names_that_may_be_those_of_persons_are_warned_about() {
        let patients: Vec<(String, usize)> = (0..20).map(|n| (format!("MRN{n}"), 10)).collect();
        let patients: Vec<(&str, usize)> = patients.iter().map(|(n, c)| (n.as_str(), *c)).collect();
        let warned = |counts: &[(&str, usize)]| {
            let found = lines(counts, 0);
            found.iter().any(|line| line.contains("patient numbers"))
        };
        assert!(warned(&patients));
        assert!(warned(&[("a", 400), ("b", 1)]));
        assert!(!warned(&[("a", 400), ("b", 400)]));
        assert!(!warned(&[("a", 5)]));
    }
}
