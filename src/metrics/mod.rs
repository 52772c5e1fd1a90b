//! How good synthetic images are: figures that compare a population with a reference set.
//!
//! In: two sets of images as feature vectors (see [`crate::embedders`]). Out: figures, each with what it
//! compared. The functions are pure; whether the reference is private, and so where the figures may
//! go, is decided by whoever calls them.
//!
//! | file | job |
//! |---|---|
//! | `moments` | mean and covariance of features, streamed |
//! | `frechet` | Fréchet distance (FID) between two means and covariances |
//! | `kid` | kernel distance (KID) with its interval |
//! | `precision_recall` | improved precision and recall |
//! | `inception_score` | Inception Score, where the weights have a classifier |

pub mod frechet;
pub mod inception_score;
pub mod kid;
pub mod moments;
pub mod precision_recall;
