//! Products against plain loops, on every instruction set of this machine.

use half::bf16;

use super::dispatch::{Dispatch, Element};
use super::dtype::Number;
use super::gemm::{Dst, Epilogue, Lhs, multiply};
use super::gemm_element::GemmElement;
use super::isa::Isa;
use super::panels::Panels;
use proptest::prelude::*;

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 + seed * 101) % 64) as f32 / 32.0 - 1.0)
        .collect()
}

/// A product whose numbers are multiples of 1/32 and few, so that bf16 has them and every sum is
/// exact.
#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    segments: usize,
    run: usize,
    columns: usize,
    gaps: (usize, usize),
    epilogue: [bool; 4],
}

prop_compose! {
    fn cases()(
        rows in 1usize..30,
        (segments, run) in (1usize..4, 0usize..20),
        columns in 1usize..120,
        gaps in (0usize..5, 0usize..5),
        epilogue in any::<[bool; 4]>(),
    ) -> Case {
        Case { rows, segments, run, columns, gaps, epilogue }
    }
}

impl Case {
    fn check<T: GemmElement, O: Element + std::fmt::Debug>(&self, token: T::Token) {
        let &Case {
            rows,
            segments,
            run,
            columns,
            ..
        } = self;
        let [with_partial, with_bias, with_residual, relu] = self.epilogue;
        let depth = segments * run;
        let segment = run + self.gaps.1;
        let row = segments * segment + self.gaps.0;
        let a: Vec<T> = numbers(rows * row, 1).into_iter().map(T::narrow).collect();
        let b = numbers(depth * columns, 2);
        let bias = numbers(columns, 3);
        let residual = numbers(rows * columns + 3, 4);
        let of_result: Vec<O> = residual.iter().map(|v| O::narrow(*v)).collect();
        let partial = numbers(rows * 48, 6);
        let before: Vec<O> = vec![O::narrow(0.5); rows * columns + 3];
        let mut data = before.clone();
        let panels = Panels::<T>::new(token, (depth, columns), run, &b, 1, |k| k * columns);
        let mut width_of = vec![(0, 0); columns];
        for panel in panels.iter() {
            let of_panel = panel.first..panel.first + panel.columns;
            width_of[of_panel.clone()].fill((panel.first, panel.width));
            let epilogue = Epilogue {
                partial: with_partial.then_some(&partial[..]),
                bias: with_bias.then(|| &bias[of_panel]),
                residual: with_residual.then_some(&of_result[..]),
                relu,
            };
            let lhs = Lhs {
                data: &a,
                row_stride: row,
                segments,
                segment_stride: segment,
                segment_len: run,
            };
            let mut dst = Dst {
                data: &mut data,
                offset: 3 + panel.first,
                row_stride: columns,
            };
            multiply(token, rows, lhs, panel, &mut dst, epilogue);
        }
        assert_eq!(&data[..3], &before[..3]);
        for r in 0..rows {
            for j in 0..columns {
                let at = 3 + r * columns + j;
                let (first, width) = width_of[j];
                let mut expected = if with_partial {
                    partial[r * width + j - first]
                } else {
                    0.0
                };
                for s in 0..segments {
                    for i in 0..run {
                        let k = s * run + i;
                        expected += a[r * row + s * segment + i].widen() * b[k * columns + j];
                    }
                }
                if with_bias {
                    expected += bias[j];
                }
                if with_residual {
                    expected += residual[at];
                }
                if relu {
                    expected = expected.max(0.0);
                }
                assert_eq!(
                    data[at],
                    O::narrow(expected),
                    "{token:?} row {r} column {j}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn products_are_exact(case in cases()) {
        for token in Isa::all() {
            case.check::<f32, f32>(token);
        }
        if let Ok(token) = bf16::token() {
            case.check::<bf16, f32>(token);
            case.check::<bf16, bf16>(token);
        }
    }

    /// Against `f64`, with numbers of all bits that bf16 has. Each sum is rounded 2⁻²⁴ of what it
    /// has come to, and so at most that of the sum of all magnitudes, at most twice for each pair.
    #[test]
    fn products_in_bf16_are_rounded_as_sums_in_f32(
        rows in 1usize..20,
        depth in 1usize..400,
        columns in 1usize..70,
        seed in any::<u64>(),
    ) {
        let Ok(token) = bf16::token() else { return Ok(()) };
        let mut state = seed;
        let mut draw = |count: usize| -> Vec<bf16> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bf16::narrow((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
            };
            (0..count).map(|_| next()).collect()
        };
        let (a, b) = (draw(rows * depth), draw(depth * columns));
        let panels = Panels::<bf16>::new(token, (depth, columns), depth, &b, 1, |k| k * columns);
        let mut data = vec![0f32; rows * columns];
        for panel in panels.iter() {
            let mut dst = Dst { data: &mut data, offset: panel.first, row_stride: columns };
            let lhs = Lhs::rows(&a, depth, depth);
            multiply(token, rows, lhs, panel, &mut dst, Epilogue::default());
        }
        for r in 0..rows {
            for j in 0..columns {
                let products = || (0..depth).map(|k| {
                    f64::from(a[r * depth + k].widen()) * f64::from(b[k * columns + j].widen())
                });
                let sum: f64 = products().sum();
                let magnitude: f64 = products().map(f64::abs).sum();
                let tolerance = (depth + 1) as f64 * magnitude * 2f64.powi(-24) + 1e-30;
                let error = (f64::from(data[r * columns + j]) - sum).abs();
                prop_assert!(error <= tolerance, "row {r} column {j}: {error:e} above {tolerance:e}");
            }
        }
    }
}

#[test]
fn relu_keeps_nan() {
    for token in Isa::all() {
        for columns in [1, 16] {
            let panels = Panels::<f32>::new(token, (1, columns), 1, &[1f32; 16], 1, |_| 0);
            let mut data = vec![0.0; columns];
            let panel = panels.iter().next().unwrap();
            let epilogue = Epilogue {
                relu: true,
                ..Epilogue::default()
            };
            let lhs = Lhs::rows(&[f32::NAN], 1, 1);
            let mut dst = Dst {
                data: &mut data,
                offset: 0,
                row_stride: columns,
            };
            multiply(token, 1, lhs, panel, &mut dst, epilogue);
            assert!(data[0].is_nan(), "{token:?}");
        }
    }
}

#[test]
#[should_panic(expected = "left-hand side")]
fn rows_beyond_their_slice_are_noticed() {
    let token = Isa::named("scalar").unwrap();
    let panels = Panels::<f32>::new(token, (2, 1), 2, &[1f32; 2], 1, |k| k);
    let panel = panels.iter().next().unwrap();
    let mut data = [0.0; 3];
    let mut dst = Dst {
        data: &mut data,
        offset: 0,
        row_stride: 1,
    };
    multiply(
        token,
        3,
        Lhs::rows(&[1.0; 5], 2, 2),
        panel,
        &mut dst,
        Epilogue::default(),
    );
}
