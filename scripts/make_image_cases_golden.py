#!/usr/bin/env python3
"""Makes tests/goldens/image_cases.{json,safetensors} with Pillow.

    pip install numpy==2.* pillow==13.* safetensors
    python scripts/make_image_cases_golden.py

The files lie in tests/goldens/image_cases, and each has one line in CASES: words of the message by which
dpsyn refuses it, or None, and then its pixels are those of Pillow's convert("RGB"), or what a function
here makes of Pillow's pixels where dpsyn has another rule (docs/images.md).
"""

import json
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"


def rgb(path):
    """Returns Pillow's pixels, [height, width, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).copy()


# File: words of the refusal, or the function that gives its pixels.
CASES = {
    "01a_cmyk_420_refused_by_panic.jpg": rgb,
    "01b_cmyk_422_wrong_pixels.jpg": rgb,
    "01d_ycck_420_off_by_7_right_edge.jpg": rgb,
    "02_arithmetic_cut_in_half_accepted.jpg": "a damaged or truncated JPEG",
    "03_duplicate_component_ids_wrong_pixels.jpg": rgb,
    "04_partly_interleaved_scans_refused.jpg": rgb,
    "06_chroma_finer_than_luma_refused.jpg": rgb,
    "07_jpeg_30000x30000_called_damaged.jpg": "has more pixels than the limit",
    "jpeg_cmyk_422_progressive.jpg": rgb,
    "jpeg_factor_three_arithmetic_restarts.jpg": rgb,
    "jpeg_gray_2x2.jpg": rgb,
    "jpeg_luma_coarser_than_chroma.jpg": rgb,
    "jpeg_mixed_factors_arithmetic_progressive.jpg": rgb,
    "jpeg_mixed_factors_progressive_restarts.jpg": rgb,
    "jpeg_partly_interleaved_1x2_restarts.jpg": rgb,
    "jpeg_partly_interleaved_arithmetic.jpg": rgb,
    "jpeg_rgb_of_unequal_factors.jpg": rgb,
    "jpeg_scan_per_component.jpg": rgb,
    "jpeg_without_end.jpg": "a damaged or truncated JPEG",
    "jpeg_without_huffman_tables.jpg": rgb,
    "jpeg_y_and_cb_then_cr.jpg": rgb,
    "jpeg_ycck_all_but_y_coarse.jpg": rgb,
}


def main():
    folder = GOLDENS / "image_cases"
    missing = sorted({path.name for path in folder.iterdir()} ^ set(CASES))
    if missing:
        raise SystemExit(f"not both in CASES and in {folder}: {', '.join(missing)}")
    tensors, entries = {}, []
    for name, expected in sorted(CASES.items()):
        if isinstance(expected, str):
            entries.append({"file": name, "refused": expected})
        else:
            tensors[name] = np.ascontiguousarray(expected(folder / name))
            entries.append({"file": name})
    save_file(tensors, GOLDENS / "image_cases.safetensors")
    (GOLDENS / "image_cases.safetensors").chmod(0o644)
    case = {
        "case": "image_cases",
        "what": f"Pillow {PIL.__version__}: open(...).convert('RGB') of each file in image_cases/, or words of dpsyn's refusal",
        "entries": entries,
    }
    (GOLDENS / "image_cases.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
