//! Which outputs of a row see a pixel, and which see padding.

/// One column of a kernel or window sliding over a row: output `i` reads the padded row at
/// `first + i · stride`.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    first: usize,
    stride: usize,
    padding: usize,
}

impl Taps {
    pub fn new(first: usize, stride: usize, padding: usize) -> Self {
        Self {
            first,
            stride,
            padding,
        }
    }

    /// Of `outputs` outputs: how many read the padding before `row`, the part of the row that the
    /// others read (every `stride`-th element), and how many do.
    pub fn inside<'a>(&self, row: &'a [f32], outputs: usize) -> (usize, &'a [f32], usize) {
        let short = self.padding.saturating_sub(self.first);
        let before = short.div_ceil(self.stride).min(outputs);
        let begin = (self.first + before * self.stride).saturating_sub(self.padding);
        let source = row.get(begin..).unwrap_or_default();
        let count = source.len().div_ceil(self.stride).min(outputs - before);
        (before, source, count)
    }
}

/// Calls `f` with every output and the input it reads, `stride` apart.
#[inline(always)]
pub(super) fn zip_strided(
    out: &mut [f32],
    source: &[f32],
    stride: usize,
    f: impl Fn(&mut f32, f32),
) {
    // Only the first loop vectorises.
    if stride == 1 {
        out.iter_mut()
            .zip(source)
            .for_each(|(to, from)| f(to, *from));
    } else {
        let source = source.iter().step_by(stride);
        out.iter_mut()
            .zip(source)
            .for_each(|(to, from)| f(to, *from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_reads_what_the_padded_row_has() {
        let row = [1.0, 2.0, 3.0, 4.0, 5.0];
        for padding in 0..4 {
            let mut padded = vec![0.0; padding];
            padded.extend(row);
            padded.extend(vec![0.0; 20]);
            for (first, stride, outputs) in [(0, 1, 5), (2, 1, 7), (0, 2, 4), (3, 2, 4), (9, 3, 3)]
            {
                let (before, source, count) =
                    Taps::new(first, stride, padding).inside(&row, outputs);
                let mut found = vec![0.0; outputs];
                let inside = &mut found[before..before + count];
                zip_strided(inside, source, stride, |to, from| *to = from);
                let expected: Vec<f32> = (0..outputs).map(|i| padded[first + i * stride]).collect();
                assert_eq!(found, expected, "{padding} {first} {stride}");
            }
        }
    }
}
