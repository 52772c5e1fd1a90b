#!/usr/bin/env python3
"""Makes tests/goldens/formats/* and tests/goldens/formats.{json,safetensors}.

    pip install numpy==2.* pillow==13.* pydicom==3.* tifffile safetensors
    python scripts/make_formats_golden.py

Small images of every format but JPEG, written by Pillow, tifffile and pydicom, each with the pixels that
these libraries read and that dpsyn's rules (docs/images.md) make of them: alpha over a color, and 16 bits
by their high byte or a window. The four files of CASES with a digit in front are kept as they are.
"""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pydicom
import tifffile
from PIL import Image, ImageOps
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
FOLDER = GOLDENS / "formats"
HEIGHT, WIDTH = 11, 13

# Larger images are stored as a digest.
MAX_STORED = 100_000

random = np.random.default_rng(16)


def noise(*shape, high=256, kind=np.uint8):
    return random.integers(0, high, (HEIGHT, WIDTH, *shape)).astype(kind)


# Rules of dpsyn.


def over(pixels, alpha, color):
    """Composites [..., 3] with alpha [..., 1] over a color, rounded to the nearest."""
    pixels, alpha, color = pixels.astype(np.int64), alpha.astype(np.int64), np.array(color)
    return ((pixels * alpha + color * (255 - alpha) + 127) // 255).astype(np.uint8)


def window(values, low, high):
    levels = np.floor(255 * (values.astype(np.float64) - low) / (high - low) + 0.5)
    return np.clip(levels, 0, 255).astype(np.uint8)


def gray(levels):
    return np.repeat(levels[..., None], 3, 2)


def by_pillow(data, options):
    image = Image.open(io.BytesIO(data))
    if "page" in options:
        image.seek(options["page"])
    if options.get("orientation") == "exif":
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        if "sixteen_bit" in options:
            return gray(window(values, *options["sixteen_bit"]))
        return gray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return over(pixels[..., :3], pixels[..., 3:], options.get("alpha", [0, 0, 0]))
    return np.asarray(image.convert("RGB"))


def by_pydicom(data, options):
    dataset = pydicom.dcmread(io.BytesIO(data))
    stored = dataset.pixel_array
    if "NumberOfFrames" in dataset:
        stored = stored[options.get("page", 0)]
    if dataset.SamplesPerPixel == 3:
        return stored
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return (apply_color_lut(stored, dataset) >> 8).astype(np.uint8)
    values = apply_modality_lut(stored, dataset)
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = ends * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    if "sixteen_bit" in options:
        low, high = options["sixteen_bit"]
    else:
        values = apply_voi_lut(values, dataset)
    levels = window(values, low, high)
    return gray(255 - levels if dataset.PhotometricInterpretation == "MONOCHROME1" else levels)


# Files.


def pillow(pixels, format, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels, mode)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png(pixels, color, depth, *chunks):
    """Writes samples of whole bytes, with chunks before the pixels."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(f">u{depth // 8}").tobytes()
    step = len(rows) // height
    rows = b"".join(b"\0" + rows[at : at + step] for at in range(0, len(rows), step))
    header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    checked = [(name + data, len(data)) for name, data in chunks]
    parts = [struct.pack(">I", n) + data + struct.pack(">I", zlib.crc32(data)) for data, n in checked]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(pixels, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, metadata=None, software=False, **options)
    return out.getvalue()


def dicom(pixels, photometric="MONOCHROME2", stored=None, syntax=ExplicitVRLittleEndian, **elements):
    dataset = Dataset()
    dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    dataset.SOPInstanceUID = UID("1.2.826.0.1.3680043.8.498.1")
    color = photometric[0] in "RY"
    dataset.SamplesPerPixel = 3 if color else 1
    dataset.PhotometricInterpretation = photometric
    dataset.Rows, dataset.Columns = HEIGHT, WIDTH
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if color:
        dataset.PlanarConfiguration = elements.pop("PlanarConfiguration", 0)
    for name, value in elements.items():
        setattr(dataset, name, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    big = syntax == "1.2.840.10008.1.2.2"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else UID(syntax)
    dataset.file_meta = meta
    if color and dataset.PlanarConfiguration == 1:
        pixels = pixels.transpose(2, 0, 1)
    raw = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    out = io.BytesIO()
    implicit = syntax == "1.2.840.10008.1.2"
    pydicom.dcmwrite(out, dataset, enforce_file_format=True, implicit_vr=implicit, little_endian=not big)
    return out.getvalue()


def palette_lut(**elements):
    lut = {}
    for color in ["Red", "Green", "Blue"]:
        lut[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        entries = random.integers(0, 65536, 256).astype("<u2").tobytes()
        lut[f"{color}PaletteColorLookupTableData"] = entries
    return lut | elements


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def indexed():
    image = Image.fromarray(noise(high=16), "P")
    image.putpalette(random.integers(0, 256, 48).astype(np.uint8).tobytes())
    return image


def hounsfield(**elements):
    values = noise(high=3000, kind=np.int16)
    return dicom(values, stored=16, RescaleIntercept="-1024", RescaleSlope="1", **elements)


WHITE = {"alpha": [255, 255, 255]}
PURPLE = {"alpha": [200, 0, 100]}
TURNED = {"orientation": "exif"}
WINDOW = {"sixteen_bit": [100, 4000]}

# File: the bytes (None: as they are) and the options with which it is read.
FILES = {
    "08_png_70000x10_called_damaged.png": (None, [{}]),
    "10_dicom_12bit_in_16bit_black.png": (None, [{}, {"sixteen_bit": [0, 4095]}]),
    "11_bad_adler_accepted.png": (None, [{}]),
    "12_gif_background_black_not_palette.gif": (None, [{}, WHITE]),
    "gray16.png": (png(noise(kind=np.uint16, high=65536), 0, 16), [{}, WINDOW]),
    "gray16_sbit12.png": (png(noise(kind=np.uint16, high=4096) << 4, 0, 16, (b"sBIT", b"\x0c")), [{}, WINDOW]),
    "rgb16.png": (png(noise(3, kind=np.uint16, high=65536), 2, 16), [{}]),
    "rgb_one_transparent_color.png": (
        png(noise(3, high=2), 2, 8, (b"tRNS", struct.pack(">3H", 1, 0, 1))),
        [{}, PURPLE],
    ),
    "gray_alpha.png": (pillow(noise(2), "PNG", "LA"), [{}, WHITE, PURPLE]),
    "rgba.png": (pillow(noise(4), "PNG"), [{}, WHITE, PURPLE]),
    "palette_alpha.png": (pillow(indexed(), "PNG", transparency=bytes(range(0, 256, 16))), [{}, PURPLE]),
    "bilevel.png": (pillow(Image.fromarray(noise(high=2) * 255).convert("1"), "PNG"), [{}]),
    **{f"turned_{n}.png": (pillow(noise(3), "PNG", exif=exif(n)), [{}, TURNED]) for n in range(1, 9)},
    "transparent.gif": (pillow(indexed(), "GIF", transparency=3), [{}, WHITE]),
    "lossy.webp": (pillow(noise(3), "WEBP", quality=70), [{}]),
    "lossy_alpha.webp": (pillow(noise(4), "WEBP", quality=70), [{}, PURPLE]),
    "lossless.webp": (pillow(noise(4), "WEBP", lossless=True, exact=True), [{}, WHITE]),
    "turned.webp": (pillow(noise(3), "WEBP", lossless=True, exif=exif(6)), [{}, TURNED]),
    "animated.webp": (
        pillow(Image.fromarray(noise(3)), "WEBP", save_all=True, lossless=True, append_images=[Image.fromarray(noise(3))]),
        [{}],
    ),
    "rgb.bmp": (pillow(noise(3), "BMP"), [{}]),
    "gray.bmp": (pillow(noise(), "BMP"), [{}]),
    "palette.bmp": (pillow(indexed(), "BMP"), [{}]),
    "bilevel.bmp": (pillow(Image.fromarray(noise(high=2) * 255).convert("1"), "BMP"), [{}]),
    "gray16_tiles.tif": (tiff(noise(high=65536, kind=np.uint16), tile=(16, 16), compression="zlib"), [{}, WINDOW]),
    "gray16_big_endian.tif": (tiff(noise(high=65536, kind=np.uint16), byteorder=">"), [{}]),
    "big.tif": (tiff(noise(3), bigtiff=True), [{}]),
    "planes.tif": (
        tiff(noise(3).transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression="zlib", rowsperstrip=4),
        [{}],
    ),
    "predictor.tif": (pillow(noise(3), "TIFF", compression="tiff_lzw", tiffinfo={317: 2}), [{}]),
    "packbits.tif": (pillow(noise(), "TIFF", compression="packbits"), [{}]),
    "rgba.tif": (pillow(noise(4), "TIFF", compression="tiff_lzw"), [{}, PURPLE]),
    "cmyk.tif": (pillow(noise(4), "TIFF", "CMYK", compression="tiff_adobe_deflate"), [{}]),
    "palette.tif": (pillow(indexed(), "TIFF"), [{}]),
    "fax.tif": (pillow(Image.fromarray(noise(high=2) * 255).convert("1"), "TIFF", compression="group4"), [{}]),
    "pages.tif": (tiff(np.stack([noise(), noise()]), photometric="minisblack"), [{}, {"page": 1}, {"page": 2}]),
    "jpeg.tif": (pillow(noise(3), "TIFF", compression="jpeg"), [{}]),
    "ct.dcm": (hounsfield(), [{}, {"sixteen_bit": [-160, 240]}]),
    "ct_window.dcm": (hounsfield(WindowCenter=[40, 600], WindowWidth=[400, 1500]), [{}, {"sixteen_bit": [-1000, 400]}]),
    "ct_window_exact.dcm": (
        hounsfield(WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT"),
        [{}],
    ),
    "ct_window_sigmoid.dcm": (hounsfield(WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID"), [{}]),
    "mono1.dcm": (dicom(noise(high=4096, kind=np.uint16), "MONOCHROME1", 12), [{}]),
    "implicit.dcm": (dicom(noise(), syntax="1.2.840.10008.1.2"), [{}]),
    "big_endian.dcm": (dicom(noise(high=4096, kind=np.uint16), stored=12, syntax="1.2.840.10008.1.2.2"), [{}]),
    "deflated.dcm": (dicom(noise(), syntax="1.2.840.10008.1.2.1.99"), [{}]),
    "rle.dcm": (dicom(noise(high=4096, kind=np.uint16), stored=12, syntax=RLELossless), [{}]),
    "rle_rgb.dcm": (dicom(noise(3), "RGB", syntax=RLELossless), [{}]),
    "rgb_planes.dcm": (dicom(noise(3), "RGB", PlanarConfiguration=1), [{}]),
    "ybr.dcm": (dicom(noise(3), "YBR_FULL"), [{}]),
    "palette.dcm": (dicom(noise(), "PALETTE COLOR", **palette_lut()), [{}]),
    "frames.dcm": (dicom(np.stack([noise(), noise()]), NumberOfFrames=2), [{}, {"page": 1}, {"page": 2}]),
}

# Words of the refusal, by file and options.
REFUSED = {
    ("11_bad_adler_accepted.png", "{}"): "a damaged or truncated PNG",
    ("pages.tif", '{"page": 2}'): "without the page 2",
    ("jpeg.tif", "{}"): "an unsupported TIFF: JPEG compression",
    ("frames.dcm", '{"page": 2}'): "without the page 2",
}


def first_frame_on(data, options):
    """Returns the first frame of the GIF whose frame is smaller than its screen."""
    image = Image.open(io.BytesIO(data))
    left, top, right, bottom = image.tile[0].extents
    frame = np.asarray(image.convert("RGB"))[top:bottom, left:right]
    screen = np.empty((image.height, image.width, 3), np.uint8)
    screen[:] = options.get("alpha", [0, 0, 0])
    screen[top:bottom, left:right] = frame
    return screen


def expected(name, data, options):
    if name.startswith("12_"):
        return first_frame_on(data, options)
    return (by_pydicom if name.endswith(".dcm") else by_pillow)(data, options)


def main():
    FOLDER.mkdir(exist_ok=True)
    tensors, entries = {}, []
    for name, (data, choices) in FILES.items():
        if data is None:
            data = (FOLDER / name).read_bytes()
        (FOLDER / name).write_bytes(data)
        for options in choices:
            words = REFUSED.get((name, json.dumps(options)))
            entry = {"file": name, "options": options}
            if words is None:
                pixels = np.ascontiguousarray(expected(name, data, options))
                entry["shape"] = pixels.shape
                if pixels.size > MAX_STORED:
                    entry["sha256"] = hashlib.sha256(pixels.tobytes()).hexdigest()
                else:
                    entry["tensor"] = f"{name}.{len(entries)}"
                    tensors[entry["tensor"]] = pixels
            else:
                entry["refused"] = words
            entries.append(entry)
    unknown = {path.name for path in FOLDER.iterdir()} - set(FILES)
    if unknown:
        raise SystemExit(f"not in FILES: {', '.join(sorted(unknown))}")
    save_file(tensors, GOLDENS / "formats.safetensors")
    (GOLDENS / "formats.safetensors").chmod(0o644)
    versions = f"Pillow {PIL.__version__}, tifffile {tifffile.__version__}, pydicom {pydicom.__version__}"
    case = {
        "case": "formats",
        "what": f"pixels of each file in formats/ with these options of [data], by {versions}, or words of dpsyn's refusal",
        "entries": entries,
    }
    (GOLDENS / "formats.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
