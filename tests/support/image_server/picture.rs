//! Images that carry numbers in their pixels.

/// Returns the number that represents a prompt in images.
pub fn prompt_code(prompt: &str) -> u32 {
    let mix = |code: u32, byte: u8| code.wrapping_mul(31).wrapping_add(u32::from(byte));
    prompt.bytes().fold(7, mix) & 0xff_ffff
}

/// Returns an image `[side, side, 3]` with three numbers in its first pixels and a texture that
/// depends on the first number.
pub fn picture(side: usize, number: u32, parent: u32, prompt: u32) -> Vec<u8> {
    let mut pixels: Vec<u8> = (0..side * side * 3)
        .map(|at| (number.wrapping_mul(2_654_435_761) >> (at % 3 * 8)) as u8 ^ (at / 3) as u8)
        .collect();
    for (at, value) in [number, parent, prompt].into_iter().enumerate() {
        pixels[at * 3..at * 3 + 3].copy_from_slice(&value.to_be_bytes()[1..]);
    }
    pixels
}

/// Returns the numbers of an image, of its parent and of its prompt.
pub fn numbers(pixels: &[u8]) -> [u32; 3] {
    [0, 1, 2].map(|at| {
        let bytes = &pixels[at * 3..at * 3 + 3];
        u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])
    })
}
