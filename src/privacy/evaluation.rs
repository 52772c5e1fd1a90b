//! The door for figures about private images: to their owner's terminal, marked.

use super::sensitive::Sensitive;

/// What stands before every such line.
pub const PRIVATE_MARK: &str = "[private, not for release]";

/// Says that the owner of the private images asked for figures about them, which no privacy budget
/// covers. [`print_marked_private`] takes it, so that nothing is shown by accident.
#[derive(Debug)]
#[must_use]
pub struct PrivateEvaluationConsent(());

impl PrivateEvaluationConsent {
    /// Call this only where the configuration or the command line asks for an evaluation.
    pub fn given_by_owner() -> Self {
        Self(())
    }
}

/// Shows lines about a sensitive value to its owner, each behind [`PRIVATE_MARK`]. Beside files in the
/// [`PrivateFolder`](super::PrivateFolder), this is the only way in which an evaluation leaves the
/// wall. `show` must write to the terminal of whoever asked, never to a file of the result folder.
///
/// `lines` is a plain function, not a closure: it gets the value and can carry nothing else away.
pub fn print_marked_private<T>(
    _asked: &PrivateEvaluationConsent,
    value: &Sensitive<T>,
    lines: fn(&T) -> Vec<String>,
    show: &mut dyn FnMut(&str),
) {
    for line in lines(value.expose()) {
        show(&format!("{PRIVATE_MARK} {line}"));
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
