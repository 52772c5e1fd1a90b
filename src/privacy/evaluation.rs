//! Metrics of private images on their owner's terminal, each line marked as private.

use super::sensitive::Sensitive;
pub use crate::progress::PRIVATE_MARK;

/// Proof that the owner of the private images requested metrics of them, which no privacy budget
/// covers. [`print_marked_private`] requires it, so that no value is printed by accident.
#[derive(Debug)]
#[must_use]
pub struct PrivateEvaluationConsent(());

impl PrivateEvaluationConsent {
    /// Creates the proof. For callers that have read the request from the configuration or from the
    /// command line.
    pub fn given_by_owner() -> Self {
        Self(())
    }
}

/// Prints lines about a sensitive value for its owner, each with the prefix [`PRIVATE_MARK`].
///
/// Apart from files in the [`PrivateFolder`](super::PrivateFolder), this is the only output of an
/// evaluation against private images. `print` must write to the owner's terminal or into the
/// private folder, never into another file of the result folder.
///
/// `lines` is a plain function and not a closure, so it cannot store the value elsewhere.
pub fn print_marked_private<T>(
    _consent: &PrivateEvaluationConsent,
    value: &Sensitive<T>,
    lines: fn(&T) -> Vec<String>,
    print: &mut dyn FnMut(&str),
) {
    for line in lines(value.expose()) {
        print(&format!("{PRIVATE_MARK} {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_marked() {
        let value = Sensitive::new(vec![1.5, 2.5]);
        let mut shown = Vec::new();
        print_marked_private(
            &PrivateEvaluationConsent::given_by_owner(),
            &value,
            |numbers| numbers.iter().map(|n: &f64| format!("fid {n}")).collect(),
            &mut |line| shown.push(line.to_owned()),
        );
        assert_eq!(
            shown,
            [
                "[private, not for release] fid 1.5",
                "[private, not for release] fid 2.5"
            ]
        );
    }
}
