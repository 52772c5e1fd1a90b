//! Tensors as the operators take them.

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, WithDType, bail};

use super::avx512_bf16::Avx512Bf16Token;

/// Returns true if the operators of this module can take `x`.
pub(in crate::kernels) fn supports(x: &Tensor) -> bool {
    #[cfg(test)]
    if crate::kernels::composing::composing() {
        return false;
    }
    let type_fits = match x.dtype() {
        DType::F32 => true,
        DType::BF16 => Avx512Bf16Token::current().is_ok(),
        _ => false,
    };
    type_fits && x.device().is_cpu()
}

/// Returns true if the operators of this module can take all of `parts`, which also means that they
/// have one type.
pub(in crate::kernels) fn supports_all(parts: &[&Tensor]) -> bool {
    let one_type = parts
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.dtype() == b.dtype()));
    one_type && parts.iter().all(|part| supports(part))
}

/// Checks that this process can run layers in bf16 on the CPU.
///
/// # Errors
/// The CPU lacks AVX512_BF16, or `DPSYN_CPU` excludes AVX-512.
pub fn check_bf16_on_cpu() -> Result<()> {
    Avx512Bf16Token::current().map(|_| ())
}

/// Returns `[n, c, h, w]` as a contiguous `[n, h, w, c]`; copies unless `x` is the result of one of
/// these operators.
pub(in crate::kernels) fn channels_last(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 2, 3, 1))?.contiguous()
}

/// Returns `[n, h, w, c]` as `[n, c, h, w]`, without a copy.
pub(in crate::kernels) fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))
}

/// Returns the elements of a contiguous argument.
pub(super) fn contiguous<'a, E: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [E]> {
    let data = storage.as_slice::<E>()?;
    match layout
        .contiguous_offsets()
        .and_then(|(start, end)| data.get(start..end))
    {
        Some(elements) => Ok(elements),
        None => bail!("an argument with layout {layout:?} is not contiguous"),
    }
}
