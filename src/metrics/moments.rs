//! Mean and covariance of features, streamed.
