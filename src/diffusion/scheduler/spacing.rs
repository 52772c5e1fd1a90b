//! Choice of the training timesteps of a denoising loop.

use super::TimestepSpacing;

/// Returns `steps` of `trained` timesteps as integers, the least noisy first, as PNDM and DDIM of
/// diffusers choose them.
pub(super) fn whole(
    spacing: TimestepSpacing,
    steps: usize,
    trained: usize,
    steps_offset: i64,
) -> Vec<i64> {
    let mut timesteps: Vec<i64> = match spacing {
        TimestepSpacing::Linspace => linspace(trained as f64 - 1.0, steps)
            .map(|t| t.round_ties_even() as i64)
            .collect(),
        TimestepSpacing::Leading => {
            let stride = (trained / steps.max(1)) as i64;
            (0..steps as i64)
                .map(|i| i * stride + steps_offset)
                .collect()
        }
        TimestepSpacing::Trailing => {
            let stride = trained as f64 / steps as f64;
            (0..steps)
                .rev()
                .map(|i| (trained as f64 - i as f64 * stride).round_ties_even() as i64 - 1)
                .collect()
        }
    };
    timesteps.sort_unstable();
    timesteps
}

/// Returns `count` evenly spaced numbers from 0 to `last`.
pub(super) fn linspace(last: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = last / (count.max(2) - 1) as f64;
    (0..count).map(move |index| {
        if index + 1 == count && count > 1 {
            last
        } else {
            index as f64 * step
        }
    })
}

/// Interpolates `table` linearly at a fractional index.
pub(super) fn interpolate(table: &[f64], index: f64) -> f64 {
    let below = index.floor().max(0.0) as usize;
    let last = table.last().copied().unwrap_or(f64::NAN);
    let low = table.get(below).copied().unwrap_or(last);
    let high = table.get(below + 1).copied().unwrap_or(last);
    low + (index - below as f64) * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_spacings() {
        let of = |spacing| whole(spacing, 10, 1000, 1);
        assert_eq!(
            of(TimestepSpacing::Leading),
            [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]
        );
        assert_eq!(
            of(TimestepSpacing::Trailing),
            [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
        );
        assert_eq!(
            of(TimestepSpacing::Linspace),
            [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
        );
        assert_eq!(whole(TimestepSpacing::Linspace, 1, 1000, 0), [0]);
    }

    #[test]
    fn tables_are_read_between_their_entries() {
        let table = [0.0, 1.0, 4.0];
        assert_eq!(interpolate(&table, 1.5), 2.5);
        assert_eq!(interpolate(&table, 2.0), 4.0);
        assert_eq!(interpolate(&table, 0.0), 0.0);
    }
}
