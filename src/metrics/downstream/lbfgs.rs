//! L-BFGS minimization of a smooth convex function (Nocedal & Wright, *Numerical Optimization*, 2nd
//! edition, algorithms 7.4 and 3.1).
//!
//! Written by hand because argmin and its math backend would add six crates for these hundred
//! lines.

use std::collections::VecDeque;

/// Number of last steps from which the curvature is estimated.
const MEMORY: usize = 10;
/// A step must reduce the function by at least this share of the linear prediction (Armijo
/// condition).
const SUFFICIENT: f64 = 1e-4;
/// Halvings of a step after which the point counts as optimal up to rounding.
const HALVINGS: usize = 30;

/// A point with the value and the gradient of the function.
struct Point {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// Minimizes `function` (value and gradient) from `start` until no component of the gradient
/// exceeds `tolerance`, no step reduces the function any more, or `max_iterations` steps were made.
///
/// # Errors
/// Errors of `function`.
pub(super) fn minimize<E>(
    start: Vec<f64>,
    max_iterations: usize,
    tolerance: f64,
    mut function: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>), E>,
) -> Result<Vec<f64>, E> {
    let (value, gradient) = function(&start)?;
    let mut point = Point {
        x: start,
        value,
        gradient,
    };
    // Differences of points and of gradients, the latest last.
    let mut history: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
    for _ in 0..max_iterations {
        if point.gradient.iter().all(|g| g.abs() <= tolerance) {
            break;
        }
        let direction = direction(&point.gradient, &history);
        let slope = dot(&direction, &point.gradient);
        let Some(next) = search(&point, &direction, slope, &mut function)? else {
            break;
        };
        let step: Vec<f64> = difference(&next.x, &point.x);
        let change = difference(&next.gradient, &point.gradient);
        // A pair without positive curvature, possible by rounding only, would make the estimate
        // indefinite.
        if dot(&step, &change) > 1e-12 * dot(&change, &change) {
            if history.len() == MEMORY {
                history.pop_front();
            }
            history.push_back((step, change));
        }
        point = next;
    }
    Ok(point.x)
}

/// Line search: halves the step until the Armijo condition holds.
fn search<E>(
    from: &Point,
    direction: &[f64],
    slope: f64,
    function: &mut impl FnMut(&[f64]) -> Result<(f64, Vec<f64>), E>,
) -> Result<Option<Point>, E> {
    let mut length = 1.0;
    for _ in 0..HALVINGS {
        let x: Vec<f64> = from
            .x
            .iter()
            .zip(direction)
            .map(|(x, d)| x + length * d)
            .collect();
        let (value, gradient) = function(&x)?;
        if value < from.value && value <= from.value + SUFFICIENT * length * slope {
            return Ok(Some(Point { x, value, gradient }));
        }
        length /= 2.0;
    }
    Ok(None)
}

/// Returns the search direction: minus the gradient times the estimated inverse Hessian (two-loop
/// recursion).
fn direction(gradient: &[f64], history: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut q = gradient.to_vec();
    let mut weights = Vec::with_capacity(history.len());
    for (step, change) in history.iter().rev() {
        let weight = dot(step, &q) / dot(step, change);
        add_scaled(&mut q, change, -weight);
        weights.push(weight);
    }
    // Without an estimate of the curvature, the step has length 1 at most.
    let scale = match history.back() {
        Some((step, change)) => dot(step, change) / dot(change, change),
        None => 1.0 / dot(gradient, gradient).sqrt().max(1.0),
    };
    for value in &mut q {
        *value *= scale;
    }
    for ((step, change), weight) in history.iter().zip(weights.into_iter().rev()) {
        let other = dot(change, &q) / dot(step, change);
        add_scaled(&mut q, step, weight - other);
    }
    for value in &mut q {
        *value = -*value;
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn add_scaled(to: &mut [f64], from: &[f64], factor: f64) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ill_conditioned_valley_is_minimized() {
        // Rosenbrock's function: 0 at (1, 1).
        let minimum = minimize(vec![-1.2, 1.0], 500, 1e-9, |x| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            let gradient = vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b];
            Ok::<_, ()>((a * a + 100.0 * b * b, gradient))
        })
        .unwrap();
        assert!((minimum[0] - 1.0).abs() < 1e-6 && (minimum[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_quadratic_of_many_scales_is_solved() {
        let center = |i: usize| i as f64 - 10.0;
        let scale = |i: usize| 10f64.powi(i as i32 % 5);
        let minimum = minimize(vec![0.0; 20], 1000, 1e-8, |x| {
            let far: Vec<f64> = x.iter().enumerate().map(|(i, x)| x - center(i)).collect();
            let value = far.iter().enumerate().map(|(i, d)| scale(i) * d * d / 2.0);
            let gradient = far.iter().enumerate().map(|(i, d)| scale(i) * d);
            Ok::<_, ()>((value.sum(), gradient.collect()))
        })
        .unwrap();
        for (i, x) in minimum.iter().enumerate() {
            assert!((x - center(i)).abs() < 1e-6, "{i}: {x}");
        }
    }

    #[test]
    fn errors_stop_the_search() {
        assert_eq!(minimize(vec![0.0], 5, 1e-3, |_| Err("no")), Err("no"));
    }
}
