//! An empirical lower bound of ε of the mechanism, from many runs of it on public images.

mod one_run;
mod statistics;
