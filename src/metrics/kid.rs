//! Kernel distance (KID).
