//! Which class of a test set a sample's label means.

use std::collections::BTreeSet;

use super::DownstreamError;

/// The samples' classes as places among `test`, the test set's sorted class names.
///
/// A label of a run's samples is a place among the run's own class names: `names`, where they are known.
/// Where they are not, it is the place among the test set's, and the labels must be exactly those.
///
/// # Errors
/// [`DownstreamError::Classes`] when names or labels do not match, or there are fewer than two classes.
pub fn match_classes(
    labels: &[i64],
    names: Option<&[String]>,
    test: &[String],
) -> Result<Vec<u32>, DownstreamError> {
    let refuse = |message: String| Err(DownstreamError::Classes { message });
    if test.len() < 2 {
        return refuse(format!(
            "the test set has {} class: expected at least 2",
            test.len()
        ));
    }
    let given = names.unwrap_or(test);
    let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    if sorted(given) != sorted(test) {
        return refuse(format!(
            "the samples' classes are [{}], the test set's [{}]",
            given.join(", "),
            test.join(", ")
        ));
    }
    let place = |label: &i64| {
        let name = usize::try_from(*label).ok().and_then(|at| given.get(at))?;
        let at = test.iter().position(|other| other == name)?;
        u32::try_from(at).ok()
    };
    let mut places = Vec::with_capacity(labels.len());
    for label in labels {
        match place(label) {
            Some(place) => places.push(place),
            None => {
                return refuse(format!(
                    "a sample has label {label}: expected 0 to {}, the place among the classes [{}]",
                    given.len() - 1,
                    given.join(", ")
                ));
            }
        }
    }
    let found = places.iter().collect::<BTreeSet<_>>().len();
    if names.is_none() && found < test.len() {
        return refuse(format!(
            "the samples have {found} different labels, the test set {} classes [{}]",
            test.len(),
            test.join(", ")
        ));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn labels_follow_names_where_there_are_any() {
        let test = names("2 9 10");
        assert_eq!(match_classes(&[2, 0, 1], None, &test).unwrap(), [2, 0, 1]);
        let own = names("10 2 9");
        assert_eq!(match_classes(&[0, 1], Some(&own), &test).unwrap(), [2, 0]);
    }

    #[test]
    fn classes_that_do_not_match_are_told() {
        let refused = |labels: &[i64], own: Option<&str>, test: &str| {
            let own = own.map(names);
            match_classes(labels, own.as_deref(), &names(test))
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&[0], None, "all").contains("at least 2"));
        assert!(refused(&[0, 1], None, "a b c").contains("2 different labels"));
        assert!(refused(&[0, 2], None, "a b").contains("label 2: expected 0 to 1"));
        assert!(refused(&[-1], None, "a b").contains("label -1"));
        let text = refused(&[0], Some("a b"), "a c");
        assert!(text.contains("[a, b], the test set's [a, c]"), "{text}");
        assert!(refused(&[0], Some("a b"), "a b c").contains("[a, b, c]"));
    }
}
