//! Translation of sample labels to the classes of a test set.

use std::collections::BTreeSet;

use super::DownstreamError;

/// Translates the labels of samples to indices into `test`, the sorted class names of the test set.
///
/// A label of a run's samples is an index into the class names of the run: `names`, if they are
/// known. Otherwise it is an index into `test`, and every class of the test set must occur.
///
/// # Errors
/// [`DownstreamError::Classes`] when names or labels do not match, or there are fewer than two
/// classes.
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
    let index_of = |label: &i64| {
        let name = usize::try_from(*label).ok().and_then(|at| given.get(at))?;
        let at = test.iter().position(|other| other == name)?;
        u32::try_from(at).ok()
    };
    let mut indices = Vec::with_capacity(labels.len());
    for label in labels {
        match index_of(label) {
            Some(index) => indices.push(index),
            None => {
                return refuse(format!(
                    "a sample has label {label}: expected 0 to {}, an index into the classes [{}]",
                    given.len() - 1,
                    given.join(", ")
                ));
            }
        }
    }
    let found = indices.iter().collect::<BTreeSet<_>>().len();
    if names.is_none() && found < test.len() {
        return refuse(format!(
            "the samples have {found} different labels, the test set {} classes [{}]",
            test.len(),
            test.join(", ")
        ));
    }
    Ok(indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn labels_are_matched_by_name_if_names_are_known() {
        let test = names("2 9 10");
        assert_eq!(match_classes(&[2, 0, 1], None, &test).unwrap(), [2, 0, 1]);
        let own = names("10 2 9");
        assert_eq!(match_classes(&[0, 1], Some(&own), &test).unwrap(), [2, 0]);
    }

    #[test]
    fn classes_that_do_not_match_are_refused() {
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
