//! Decodes image files by several decoders, for `scripts/compare_images.py`.
//!
//! `serve` reads lines `DECODER PATH` from standard input, and answers each with `ok HEIGHT WIDTH`
//! and the RGB pixels, or with `refused MESSAGE`. `time DECODER PATH...` prints seconds for all
//! files, those that are refused left out.

use std::io::{BufRead, Write};
use std::panic::catch_unwind;
use std::time::Instant;

use libjpeg_turbo_rs::PixelFormat;

/// Rows, columns and RGB pixels.
type Decoded = Result<(usize, usize, Vec<u8>), String>;

/// Name of a decoder, and the function.
type Named = (&'static str, fn(&[u8]) -> Decoded);

const DECODERS: &[Named] = &[
    ("dpsyn", dpsyn),
    ("libjpeg-turbo-rs", turbo_rs),
    ("zune-jpeg", zune),
    ("jpeg-decoder", jpeg_decoder),
    #[cfg(feature = "c")]
    ("turbojpeg", turbo_c),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Panics are refusals here.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve(),
        ["list"] => DECODERS.iter().for_each(|(name, _)| println!("{name}")),
        ["time", decoder, ref files @ ..] => time(decoder, files),
        _ => panic!("usage: serve | list | time DECODER PATH..."),
    }
}

fn by(name: &str, bytes: &[u8]) -> Decoded {
    let known = DECODERS.iter().find(|(known, _)| *known == name);
    let (_, decoder) = known.ok_or("no such decoder")?;
    catch_unwind(|| decoder(bytes)).unwrap_or_else(|_| Err("panicked".into()))
}

fn serve() {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (name, path) = line.split_once(' ').unwrap();
        match by(name, &std::fs::read(path).unwrap()) {
            Ok((height, width, pixels)) => {
                assert_eq!(pixels.len(), 3 * height * width);
                writeln!(out, "ok {height} {width}").unwrap();
                out.write_all(&pixels).unwrap();
            }
            Err(message) => writeln!(out, "refused {}", message.replace('\n', " ")).unwrap(),
        }
        out.flush().unwrap();
    }
}

fn time(name: &str, files: &[&str]) {
    let files: Vec<_> = files
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let readable: Vec<_> = files
        .iter()
        .filter(|bytes| by(name, bytes).is_ok())
        .collect();
    let begin = Instant::now();
    for bytes in readable {
        let _ = std::hint::black_box(by(name, bytes));
    }
    println!("{:.3}", begin.elapsed().as_secs_f64());
}

fn dpsyn(bytes: &[u8]) -> Decoded {
    use dpsyn::internals::images::{DecodeOptions, decode};
    let decoded = decode(bytes, &DecodeOptions::default()).map_err(|error| error.to_string())?;
    let image = decoded.image;
    Ok((image.height, image.width, image.pixels))
}

fn turbo_rs(bytes: &[u8]) -> Decoded {
    let decoder = libjpeg_turbo_rs::Decoder::new(bytes).map_err(|error| error.to_string())?;
    let image = decoder
        .with_output_format(PixelFormat::Rgb)
        .decode_image()
        .map_err(|error| error.to_string())?;
    Ok((image.height, image.width, image.data))
}

fn zune(bytes: &[u8]) -> Decoded {
    use zune_core::colorspace::ColorSpace;
    use zune_core::options::DecoderOptions;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let bytes = std::io::Cursor::new(bytes);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(bytes, options);
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("no header")?;
    Ok((info.height.into(), info.width.into(), pixels))
}

fn jpeg_decoder(bytes: &[u8]) -> Decoded {
    use jpeg_decoder::PixelFormat;
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("no header")?;
    let pixels = match info.pixel_format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.iter().flat_map(|level| [*level; 3]).collect(),
        PixelFormat::CMYK32 => from_ink(&pixels),
        PixelFormat::L16 => return Err("16 bits".into()),
    };
    Ok((info.height.into(), info.width.into(), pixels))
}

#[cfg(feature = "c")]
fn turbo_c(bytes: &[u8]) -> Decoded {
    use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat};
    let error = |error: turbojpeg::Error| error.to_string();
    let mut decompressor = Decompressor::new().map_err(error)?;
    let header = decompressor.read_header(bytes).map_err(error)?;
    let ink = matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
    let (format, depth) = if ink {
        (PixelFormat::CMYK, 4)
    } else {
        (PixelFormat::RGB, 3)
    };
    let (height, width) = (header.height, header.width);
    let mut image = Image {
        pixels: vec![0; depth * height * width],
        width,
        pitch: depth * width,
        height,
        format,
    };
    decompressor
        .decompress(bytes, image.as_deref_mut())
        .map_err(error)?;
    let pixels = if ink {
        from_ink(&image.pixels)
    } else {
        image.pixels
    };
    Ok((height, width, pixels))
}

/// Converts inverted CMYK, as Pillow.
fn from_ink(pixels: &[u8]) -> Vec<u8> {
    let light = |level: u8, white: u8| {
        let (ink, white) = (255 - i32::from(level), i32::from(white));
        let product = ink * white + 128;
        (white - (((product >> 8) + product) >> 8)) as u8
    };
    let pixels = pixels.as_chunks::<4>().0;
    let pixel = |[c, m, y, k]: &[u8; 4]| [light(*c, *k), light(*m, *k), light(*y, *k)];
    pixels.iter().flat_map(pixel).collect()
}
