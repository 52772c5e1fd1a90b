#!/usr/bin/env python3
"""Compares dpsyn's reading of DICOM files with pydicom's.

    pip install pydicom==3.* pillow==13.* numpy==2.*
    cargo build --release --manifest-path benches/decoders/Cargo.toml
    python scripts/compare_dicom.py [DIR...]

Without folders, the files are those that come with pydicom. Counts and lists are as of
scripts/compare_images.py. pydicom gives the stored values, the modality's and those of the window, which are
scaled to 0 to 255; a lossy JPEG is decoded by Pillow, as pydicom's plugins for it disagree.
"""

import argparse
import collections
import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
from compare_images import DEFAULT, KINDS, Decoders
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")


def levels(part):
    return np.clip(np.floor(255 * part + 0.5), 0, 255).astype(np.uint8)


def lossy_color(dataset):
    frames = int(dataset.get("NumberOfFrames", 1))
    image = Image.open(io.BytesIO(next(generate_frames(dataset.PixelData, number_of_frames=frames))))
    if dataset.PhotometricInterpretation == "RGB":
        # Samples as they are: without Adobe's marker, Pillow takes them for YCbCr.
        if image.info.get("adobe_transform") is None:
            image.draft("YCbCr", image.size)
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def by_pydicom(path):
    dataset = pydicom.dcmread(path)
    if dataset.SamplesPerPixel == 3 and dataset.file_meta.TransferSyntaxUID in LOSSY:
        return lossy_color(dataset)
    stored = dataset.pixel_array
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        stored = stored[0]
    bits = dataset.BitsStored
    if dataset.SamplesPerPixel == 3:
        return levels(stored / (2**bits - 1))
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(stored, dataset)
        return (colors >> 8).astype(np.uint8) if colors.dtype == np.uint16 else colors
    values = apply_modality_lut(stored, dataset)
    ends = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if dataset.PixelRepresentation else [0, 2**bits - 1]
    slope = float(dataset.get("RescaleSlope", 1) or 1)
    low, high = sorted(end * slope + float(dataset.get("RescaleIntercept", 0) or 0) for end in ends)
    if "ModalityLUTSequence" in dataset:
        low, high = 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    if "VOILUTSequence" in dataset:
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    gray = levels((apply_voi_lut(values, dataset).astype(float) - low) / (high - low))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        gray = 255 - gray
    return np.repeat(gray[..., None], 3, 2)


def compare(found, path):
    """Returns the kind of a file and words about it; `found` has pixels or a refusal."""
    try:
        expected = by_pydicom(path)
    except Exception as error:
        return ("both refuse" if isinstance(found, str) else "accepted alone"), repr(error)[:90]
    if isinstance(found, str):
        return "refused alone", found
    if found.shape != expected.shape:
        return "different", f"{found.shape}, {expected.shape}"
    most = int(np.abs(found.astype(int) - expected).max())
    return KINDS[min(most, 2)], f"by {most}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path(pydicom.__file__).parent / "data"])
    parser.add_argument("--program", default=DEFAULT)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    pydicom.config.logger.disabled = True
    decoders = Decoders(arguments.program)
    paths = sorted(path for folder in arguments.folders for path in folder.rglob("*") if path.is_file())
    counts = collections.Counter()
    for path in paths:
        if path.open("rb").read(132)[128:] != b"DICM":
            continue
        kind, words = compare(decoders.decode("dpsyn", path), path)
        counts[kind] += 1
        if kind not in ("equal", "both refuse"):
            print(f"{kind}: {path.name}: {words}")
    print(", ".join(f"{kind} {counts[kind]}" for kind in KINDS))


if __name__ == "__main__":
    main()
