//! Smooth random displacements, which make printed characters resemble handwriting.

use super::outline::Point;

/// A displacement field on the unit square around the origin: n×n nodes with a displacement each,
/// and Catmull-Rom interpolation between them.
pub(super) struct Warp {
    nodes: Vec<Point>,
    side: usize,
}

impl Warp {
    /// Creates the field from the displacements of the nodes, row by row: of all in x, then of all
    /// in y. `None` if they are not twice a square number of at least 4 nodes, or all 0.
    pub(super) fn new(displacements: &[f64]) -> Option<Self> {
        if displacements
            .iter()
            .all(|displacement| *displacement == 0.0)
        {
            return None;
        }
        let count = displacements.len() / 2;
        let side = count.isqrt();
        if side < 2 || 2 * side * side != displacements.len() {
            return None;
        }
        let (x, y) = displacements.split_at(count);
        let nodes = x.iter().zip(y).map(|(x, y)| [*x as f32, *y as f32]);
        Some(Self {
            nodes: nodes.collect(),
            side,
        })
    }

    /// Returns a point after its displacement.
    pub(super) fn displaced(&self, point: Point) -> Point {
        let (columns, rows) = (self.taps(point[0]), self.taps(point[1]));
        let mut moved = point;
        for (row, row_weight) in rows {
            for (column, column_weight) in columns {
                let node = self.nodes.get(row * self.side + column);
                let [x, y] = node.copied().unwrap_or_default();
                moved[0] += row_weight * column_weight * x;
                moved[1] += row_weight * column_weight * y;
            }
        }
        moved
    }

    /// Returns the four nodes around a coordinate, and their weights. Beyond the outer nodes the
    /// field is constant.
    fn taps(&self, coordinate: f32) -> [(usize, f32); 4] {
        let last = self.side - 1;
        let at = ((coordinate + 0.5) * last as f32).clamp(0.0, last as f32);
        let base = (at as usize).min(last - 1);
        let t = at - base as f32;
        let weights = [
            ((2.0 - t) * t - 1.0) * t / 2.0,
            ((3.0 * t - 5.0) * t * t + 2.0) / 2.0,
            ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0,
            (t - 1.0) * t * t / 2.0,
        ];
        let mut taps = [(0, 0.0); 4];
        for (offset, (tap, weight)) in taps.iter_mut().zip(weights).enumerate() {
            *tap = ((base + offset).saturating_sub(1).min(last), weight);
        }
        taps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_displaced_as_given_and_points_between_them_smoothly() {
        let mut displacements = vec![0.0; 18];
        // The node in the middle moves right, the one at the upper left moves down.
        displacements[4] = 0.2;
        displacements[9] = 0.1;
        let warp = Warp::new(&displacements).unwrap();
        let near = |a: Point, b: Point| (a[0] - b[0]).abs() < 1e-6 && (a[1] - b[1]).abs() < 1e-6;
        assert!(near(warp.displaced([0.0, 0.0]), [0.2, 0.0]));
        assert!(near(warp.displaced([-0.5, -0.5]), [-0.5, -0.4]));
        assert!(near(warp.displaced([0.5, 0.5]), [0.5, 0.5]));
        assert!(near(warp.displaced([-0.9, -0.7]), [-0.9, -0.6]));
        let mut last = warp.displaced([-0.5, 0.0]);
        for step in 1..=1000 {
            let point = warp.displaced([step as f32 / 1000.0 - 0.5, 0.0]);
            assert!((point[0] - last[0]).abs() < 0.002);
            last = point;
        }
    }

    #[test]
    fn a_constant_field_is_a_translation() {
        let warp = Warp::new(&[[0.1; 16], [-0.2; 16]].concat()).unwrap();
        for point in [[0.0, 0.0], [0.31, -0.47], [0.5, 0.2]] {
            let moved = warp.displaced(point);
            assert!((moved[0] - point[0] - 0.1).abs() < 1e-5, "{moved:?}");
            assert!((moved[1] - point[1] + 0.2).abs() < 1e-5, "{moved:?}");
        }
    }

    #[test]
    fn nothing_to_displace_is_no_field() {
        assert!(Warp::new(&[]).is_none());
        assert!(Warp::new(&[0.0; 18]).is_none());
        assert!(Warp::new(&[0.1; 17]).is_none());
        assert!(Warp::new(&[0.1; 2]).is_none());
    }
}
