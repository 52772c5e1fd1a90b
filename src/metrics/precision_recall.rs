//! Improved precision and recall.
