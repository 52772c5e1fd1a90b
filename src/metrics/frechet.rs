//! Fréchet distance between two means and covariances.
