//! The inverse cosine transform: libjpeg-turbo's accurate integer one, to the bit.

use super::block::Block;

/// Fraction bits of the constants.
const FRACTION: u32 = 13;
/// Additional bits kept between the two passes.
const KEPT: u32 = 2;
/// A bound of the magnitude of coefficients. Sound files stay below 2,048.
const BOUND: i32 = 8192;

/// Eight rows of eight values.
type Rows = [[i16; 8]; 8];

/// Makes 8x8 samples of a block, in rows of `stride`; nothing if a coefficient is out of range.
pub(super) fn transform(
    block: &Block,
    quantizer: &[i16; 64],
    out: &mut [u8],
    stride: usize,
) -> Option<()> {
    if block[1..].iter().fold(0, |any, value| any | value) == 0 {
        return flat(i32::from(block[0]) * i32::from(quantizer[0]), out, stride);
    }
    let mut rows: Rows = [[0; 8]; 8];
    let mut beyond = 0;
    let values = rows.as_flattened_mut().iter_mut();
    for ((value, coefficient), step) in values.zip(block).zip(quantizer) {
        let product = i32::from(*coefficient) * i32::from(*step);
        beyond |= (product + BOUND) as u32;
        *value = product as i16;
    }
    if beyond >= 2 * BOUND as u32 {
        return None;
    }
    let rows = pass::<{ FRACTION - KEPT }>(&rows);
    let columns = pass::<{ FRACTION + KEPT + 3 }>(&transposed(&rows));
    let mut samples = [0; 64];
    for (sample, value) in samples.iter_mut().zip(transposed(&columns).as_flattened()) {
        *sample = ((*value).clamp(-128, 127) + 128) as u8;
    }
    for (line, row) in out.chunks_mut(stride).zip(samples.as_chunks::<8>().0) {
        *line.first_chunk_mut()? = *row;
    }
    Some(())
}

/// Makes 8x8 samples of a block that has a DC coefficient only.
fn flat(dc: i32, out: &mut [u8], stride: usize) -> Option<()> {
    if !(-BOUND..BOUND).contains(&dc) {
        return None;
    }
    let level = ((((dc << KEPT) + 16) >> 5) + 128).clamp(0, 255) as u8;
    for line in out.chunks_mut(stride).take(8) {
        line.first_chunk_mut::<8>()?.fill(level);
    }
    Some(())
}

fn transposed(rows: &Rows) -> Rows {
    std::array::from_fn(|y| std::array::from_fn(|x| rows[x][y]))
}

/// Returns a constant with [`FRACTION`] bits.
const fn fixed(value: f64) -> i16 {
    let scaled = value * (1 << FRACTION) as f64;
    (if scaled < 0.0 {
        scaled - 0.5
    } else {
        scaled + 0.5
    }) as i16
}

const C_0_298: i16 = fixed(0.298_631_336);
const C_0_390: i16 = fixed(0.390_180_644);
const C_0_541: i16 = fixed(0.541_196_100);
const C_0_765: i16 = fixed(0.765_366_865);
const C_0_899: i16 = fixed(0.899_976_223);
const C_1_175: i16 = fixed(1.175_875_602);
const C_1_501: i16 = fixed(1.501_321_110);
const C_1_847: i16 = fixed(1.847_759_065);
const C_1_961: i16 = fixed(1.961_570_560);
const C_2_053: i16 = fixed(2.053_119_869);
const C_2_562: i16 = fixed(2.562_915_447);
const C_3_072: i16 = fixed(3.072_711_026);

/// Transforms the eight columns, drops `SHIFT` bits, and saturates. Sums of two inputs wrap at 16
/// bits, as in the vector code of libjpeg-turbo.
fn pass<const SHIFT: u32>(input: &Rows) -> Rows {
    let times = |value: i16, constant: i16| i32::from(value) * i32::from(constant);
    let two = |a: i16, by_a: i16, b: i16, by_b: i16| times(a, by_a).wrapping_add(times(b, by_b));
    let scaled = |value: i32| {
        let value = value.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
        value.clamp(i16::MIN.into(), i16::MAX.into()) as i16
    };
    let mut output = [[0; 8]; 8];
    for x in 0..8 {
        let [i0, i1, i2, i3, i4, i5, i6, i7] = std::array::from_fn(|y| input[y][x]);
        let even2 = two(i2, C_0_541, i6, C_0_541 - C_1_847);
        let even3 = two(i2, C_0_541 + C_0_765, i6, C_0_541);
        let sum = i32::from(i0.wrapping_add(i4)) << FRACTION;
        let difference = i32::from(i0.wrapping_sub(i4)) << FRACTION;
        let (a, b) = (i7.wrapping_add(i3), i5.wrapping_add(i1));
        let z3 = two(a, C_1_175 - C_1_961, b, C_1_175);
        let z4 = two(a, C_1_175, b, C_1_175 - C_0_390);
        let odd0 = two(i1, C_1_501 - C_0_899, i7, -C_0_899).wrapping_add(z4);
        let odd1 = two(i3, C_3_072 - C_2_562, i5, -C_2_562).wrapping_add(z3);
        let odd2 = two(i5, C_2_053 - C_2_562, i3, -C_2_562).wrapping_add(z4);
        let odd3 = two(i7, C_0_298 - C_0_899, i1, -C_0_899).wrapping_add(z3);
        let (even0, even3) = (sum.wrapping_add(even3), sum.wrapping_sub(even3));
        let (even1, even2) = (
            difference.wrapping_add(even2),
            difference.wrapping_sub(even2),
        );
        output[0][x] = scaled(even0.wrapping_add(odd0));
        output[1][x] = scaled(even1.wrapping_add(odd1));
        output[2][x] = scaled(even2.wrapping_add(odd2));
        output[3][x] = scaled(even3.wrapping_add(odd3));
        output[4][x] = scaled(even3.wrapping_sub(odd3));
        output[5][x] = scaled(even2.wrapping_sub(odd2));
        output[6][x] = scaled(even1.wrapping_sub(odd1));
        output[7][x] = scaled(even0.wrapping_sub(odd0));
    }
    output
}
