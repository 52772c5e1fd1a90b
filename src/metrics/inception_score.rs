//! Inception Score.
