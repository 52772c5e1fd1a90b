//! The declared classes of a run: `data.classes`, or the tables by class of other sections.

use super::document::Locations;
use super::error::ConfigError;
use crate::generators::ModelSection;
use crate::images::{DataConfig, Format, missing_classes};
use crate::pe::EvolutionConfig;

/// A table by class: its key, and the names of its classes.
type Table<'a> = (&'static str, Vec<&'a str>);

/// Returns the declared classes in the order of labels; `None` in an unconditional run.
///
/// They are those of `data.classes`. Without that key, they are the keys of the first table by
/// class, sorted: by number if they are numbers in a file of many images, and by name otherwise. No
/// image is read, so the classes cannot depend on one.
///
/// # Errors
/// Returns [`ConfigError::Value`] if there is no declaration, or if a table lacks a class or has
/// another one.
pub(super) fn declared_classes(
    data: &DataConfig,
    evolution: &EvolutionConfig,
    model: &ModelSection,
    locations: &Locations,
) -> Result<Option<Vec<String>>, ConfigError> {
    if !data.class_conditional {
        return Ok(None);
    }
    let tables = tables(evolution, model);
    let (origin, classes) = match (&data.classes, tables.first()) {
        (Some(classes), _) => ("data.classes", classes.clone()),
        (None, Some((key, names))) => (*key, sorted(names, data.format() != Format::Images)),
        (None, None) => return Err(locations.invalid("data", missing_classes())),
    };
    for (key, names) in &tables {
        let refuse = |message: String| Err(locations.error(key, message));
        let missing = classes
            .iter()
            .find(|class| !names.contains(&class.as_str()));
        if let Some(class) = missing {
            return refuse(format!(
                "has no entry for class `{class}` of {origin}: expected one for each of {}",
                classes.join(", ")
            ));
        }
        let other = names
            .iter()
            .find(|name| !classes.iter().any(|class| class == *name));
        if let Some(name) = other {
            return refuse(format!(
                "has an entry for `{name}`, which is not a class of {origin}: expected one for \
                 each of {}",
                classes.join(", ")
            ));
        }
    }
    Ok(Some(classes))
}

/// Returns the tables by class of a configuration, in the order of precedence.
fn tables<'a>(evolution: &'a EvolutionConfig, model: &'a ModelSection) -> Vec<Table<'a>> {
    let shares = evolution.class_shares.as_ref();
    let shares = shares.map(|shares| {
        let names = shares.keys().map(String::as_str).collect();
        ("evolution.class_shares", names)
    });
    shares
        .into_iter()
        .chain(model.section().classes())
        .collect()
}

/// Sorts names by number if they are all numbers in a file of many images, and by their bytes
/// otherwise.
fn sorted(names: &[&str], many: bool) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let numbers: Option<Vec<i64>> = names.iter().map(|name| name.parse().ok()).collect();
    match numbers {
        Some(_) if many => names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default()),
        _ => names.sort(),
    }
    names
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::sources::ConfigSources;

    const DIFFUSION: &str = "type = 'improved-diffusion'\ncheckpoint = 'm.pt'\nimage_size = 8\n\
                             channel_mult = [1]\nattention_resolutions = []\nclass_cond = true\n";

    /// The declared classes of a small configuration with other settings.
    fn classes(overrides: &[&str]) -> Result<Option<Vec<String>>, String> {
        classes_with(DIFFUSION, overrides)
    }

    fn classes_with(model: &str, overrides: &[&str]) -> Result<Option<Vec<String>>, String> {
        let text = format!(
            "[data]\npath = 'x'\nimage_size = 8\nclass_conditional = true\n[model]\n{model}\
             [embedder]\ntype = 'pixels'\n\
             [evolution]\nnum_samples = 4\nvariation_degree = 0\niterations = 1\n\
             [privacy]\nepsilon = 1\ndelta = 1e-3\n[output]\nfolder = 'o'\n"
        );
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        let sources = ConfigSources::new("c.toml".into(), text, &overrides);
        let loaded = Settings::check(&sources.unwrap()).map_err(|error| error.to_string())?;
        Ok(loaded.data.classes)
    }

    #[test]
    fn classes_are_declared_in_their_order_or_taken_from_a_table() {
        let names = |text: &str| Some(text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(classes(&["data.classes=['b', 'a']"]), Ok(names("b a")));
        let shares = "evolution.class_shares={b = 1, a = 2}";
        assert_eq!(classes(&[shares]), Ok(names("a b")));
        assert_eq!(
            classes(&[shares, "data.classes=['b', 'a']"]),
            Ok(names("b a"))
        );
        let labels = "model.class_labels={10 = [1], 2 = [2]}";
        assert_eq!(classes(&[labels]), Ok(names("10 2")));
        assert_eq!(classes(&[labels, "data.path=x.npz"]), Ok(names("2 10")));
        let prompts = "type = 'stable-diffusion'\ncheckpoint = 'm'\nimage_size = 8\n\
                       prompts = {b = ['x'], a = ['y', 'z']}\n";
        assert_eq!(classes_with(prompts, &[]), Ok(names("a b")));
        assert_eq!(classes(&["data.class_conditional=false"]), Ok(None));
    }

    #[test]
    fn a_missing_or_contradicting_declaration_names_its_key() {
        let refused = |overrides: &[&str], parts: &[&str]| {
            let text = classes(overrides).unwrap_err();
            for part in parts {
                assert!(text.contains(part), "`{part}` is not in: {text}");
            }
        };
        refused(&[], &["data.classes: missing", "dpsyn classes"]);
        let declared = "data.classes=['a', 'b']";
        for (key, table) in [
            ("evolution.class_shares", "evolution.class_shares={a = 1}"),
            ("model.class_labels", "model.class_labels={a = [1]}"),
        ] {
            refused(
                &[declared, table],
                &[key, "no entry for class `b` of data.classes"],
            );
        }
        refused(
            &[
                "data.classes=['a']",
                "model.class_labels={a = [1], c = [2]}",
            ],
            &["model.class_labels: has an entry for `c`"],
        );
        refused(
            &[
                "evolution.class_shares={a = 1}",
                "model.class_labels={b = [1]}",
            ],
            &["model.class_labels: has no entry for class `a` of evolution.class_shares"],
        );
    }
}
