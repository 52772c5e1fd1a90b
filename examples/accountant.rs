//! Computes ε from a noise multiplier, and the noise multiplier from that ε.
//!
//! ```sh
//! cargo run --release --example accountant                      # the paper's CIFAR-10 setting
//! cargo run --release --example accountant -- 7.07 20 1e-5      # noise multiplier, releases, δ
//! ```

use std::error::Error;

use dpsyn::{Adjacency, epsilon, noise_multiplier};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (sigma, releases, delta) = match arguments.as_slice() {
        [] => (5.0 * 2f64.sqrt(), 20, 1e-5),
        [sigma, releases, delta] => (sigma.parse()?, releases.parse()?, delta.parse()?),
        _ => return Err("expected no arguments, or: NOISE_MULTIPLIER RELEASES DELTA".into()),
    };
    println!("{releases} releases with noise multiplier {sigma:.4}, δ = {delta}");
    for adjacency in Adjacency::ALL {
        let epsilon = epsilon(sigma, releases, delta, adjacency)?;
        println!("{adjacency}: ε = {epsilon:.4}");
        // An ε of 0 or infinity has no single noise multiplier.
        if epsilon.is_finite() && epsilon > 0.0 {
            let needed = noise_multiplier(epsilon, releases, delta, adjacency)?;
            println!("{adjacency}: ε = {epsilon:.4} needs noise multiplier {needed:.4}");
            // Both directions round toward more noise, never toward less.
            assert!(needed >= sigma * (1.0 - 1e-6) && needed <= sigma * (1.0 + 1e-6));
        }
    }
    Ok(())
}
