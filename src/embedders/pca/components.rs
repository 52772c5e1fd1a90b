//! Mean, principal components and variances, and their file.

/// The first principal components of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Components {
    mean: Vec<f64>,
    /// `[components, numbers of an image]`: orthonormal, by decreasing variance.
    directions: Vec<f64>,
    /// The variance of the images along each component.
    variances: Vec<f64>,
}

impl Components {
    /// Combines a mean with directions, `[variances, numbers of the mean]`; `None` if the numbers
    /// do not fit or are not finite.
    #[must_use]
    pub fn new(mean: Vec<f64>, directions: Vec<f64>, variances: Vec<f64>) -> Option<Self> {
        let fits = !mean.is_empty() && directions.len() == mean.len() * variances.len();
        let all = mean.iter().chain(&directions).chain(&variances);
        let is_finite = all.into_iter().all(|value| value.is_finite());
        (fits && is_finite).then_some(Self {
            mean,
            directions,
            variances,
        })
    }

    /// Returns the number of components.
    #[must_use]
    pub fn count(&self) -> usize {
        self.variances.len()
    }

    /// Returns the mean of the images.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Iterates over the components and their variances.
    pub fn iter(&self) -> impl Iterator<Item = (&[f64], f64)> {
        let directions = self.directions.chunks_exact(self.mean.len());
        directions.zip(self.variances.iter().copied())
    }

    /// Returns the bytes of a file with `components` components of `numbers` numbers.
    #[must_use]
    pub(super) fn file_len(components: usize, numbers: usize) -> usize {
        (numbers + components * numbers + components) * size_of::<f64>()
    }

    /// Returns the mean, the directions and the variances as little-endian bytes.
    #[must_use]
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let all = self.mean.iter().chain(&self.directions);
        let all = all.chain(&self.variances);
        all.flat_map(|value| value.to_le_bytes()).collect()
    }

    /// Reads what [`Components::to_bytes`] wrote; `None` if it is something else.
    #[must_use]
    pub(super) fn from_bytes(bytes: &[u8], components: usize, numbers: usize) -> Option<Self> {
        if bytes.len() != Self::file_len(components, numbers) {
            return None;
        }
        let values = bytes.as_chunks().0.iter();
        let values: Vec<f64> = values.map(|value| f64::from_le_bytes(*value)).collect();
        let (mean, rest) = values.split_at_checked(numbers)?;
        let (directions, variances) = rest.split_at_checked(components * numbers)?;
        Self::new(mean.to_vec(), directions.to_vec(), variances.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_other_bytes_are_not() {
        let components = Components::new(vec![1.0, 2.0], vec![0.6, 0.8], vec![3.5]).unwrap();
        let bytes = components.to_bytes();
        assert_eq!(bytes.len(), Components::file_len(1, 2));
        assert_eq!(Components::from_bytes(&bytes, 1, 2).unwrap(), components);
        assert!(Components::from_bytes(&bytes, 3, 1).is_none());
        assert!(Components::from_bytes(&bytes[8..], 1, 2).is_none());
        let nan = [f64::NAN.to_le_bytes().as_slice(), &bytes[8..]].concat();
        assert!(Components::from_bytes(&nan, 1, 2).is_none());
    }
}
