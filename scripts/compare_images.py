#!/usr/bin/env python3
"""Compares dpsyn's decoding of image files with Pillow's, and with other JPEG decoders.

    pip install pillow==13.* numpy==2.*
    cargo build --release --manifest-path benches/decoders/Cargo.toml    # --features c: also libjpeg-turbo in C
    python scripts/compare_images.py DIR...

Every file of the folders is read that Pillow or dpsyn takes for an image. Per format, and for JPEG per
decoder, the counts are of files with pixels equal to Pillow's convert("RGB"), changed by the rules of
docs/images.md that differ from it (alpha, 16-bit gray, orientation of TIFF), with at most one level of
difference, with more (the most in parentheses), refused by the decoder alone, accepted though Pillow refuses,
and refused by both. Files that are not equal are listed below the tables, those that both refuse
with --all. The corpora of docs/images.md:

    git clone --depth 1 https://github.com/python-pillow/Pillow
    git clone --depth 1 https://github.com/libjpeg-turbo/libjpeg-turbo
    git clone --depth 1 https://github.com/image-rs/image

--generate DIR first writes JPEGs of many kinds to a folder, by Pillow and, if it is there, by libjpeg-turbo's
cjpeg. --mutate N compares N files, cut and changed at random, of the JPEGs in the folders.
"""

import argparse
import collections
import random
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "benches" / "decoders" / "target" / "release" / "dpsyn-decoders"
KINDS = ("equal", "off by one", "different", "refused alone", "accepted alone", "both refuse")
SIZES = [(1, 1), (2, 2), (5, 4), (8, 8), (9, 17), (17, 6), (3, 33), (33, 3), (41, 61), (64, 100)]
FACTORS = (
    "1x1 2x1 1x2 2x2 4x1 1x4 4x2,1x1,1x1 2x4,1x1,1x1 3x1,1x1,1x1 1x3,1x1,1x1 2x1,2x1,1x1 2x2,2x1,1x2 "
    "2x2,2x2,1x1 2x2,1x2,1x2 2x2,2x1,2x1 1x1,2x1,1x1 1x1,2x2,2x2 1x1,1x2,2x2 2x1,1x2,1x1"
).split()
SCRIPTS = {"partly": "0;\n1,2;\n", "components": "0;\n1;\n2;\n", "pair": "0,1;\n2;\n"}


class Decoders:
    """Asks the program of benches/decoders."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        listed = subprocess.run([program, "list"], capture_output=True, text=True, check=True)
        self.names = listed.stdout.split()

    def decode(self, name, path):
        """Returns the pixels, or the words of a refusal."""
        self.process.stdin.write(f"{name} {path}\n".encode())
        self.process.stdin.flush()
        answer = self.process.stdout.readline().decode(errors="replace").strip()
        word, _, rest = answer.partition(" ")
        if word != "ok":
            return rest
        height, width = map(int, rest.split())
        pixels = self.process.stdout.read(3 * height * width)
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def by_our_rules(image):
    """Returns the pixels of an image of Pillow by the rules of docs/images.md that differ from its own.

    Alpha is composited over black, 16-bit gray keeps its high byte, and rows and columns are used as stored.
    """
    if image.format == "TIFF":
        # Pillow turns a TIFF as it loads it.
        image.getexif().pop(0x0112, None)
    image.load()
    if image.mode.startswith("I"):
        gray = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.format != "JPEG" and (image.has_transparency_data or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")):
        pixels = np.asarray(image.convert("RGBA")).astype(np.uint32)
        return ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


def pillow(path):
    """Returns Pillow's pixels or refusal, and the format."""
    kind = None
    try:
        with Image.open(path) as image:
            kind = image.format
            return by_our_rules(image), kind
    except Exception as error:  # Pillow's plugins raise many kinds
        return f"{type(error).__name__}: {error}", kind


def judge(expected, found):
    """Returns the kind of a result, and what to list with the file."""
    if isinstance(expected, str):
        return ("both refuse" if isinstance(found, str) else "accepted alone"), expected
    if isinstance(found, str):
        return "refused alone", found
    if found.shape != expected.shape:
        return "different", f"{found.shape[:2]} instead of {expected.shape[:2]}"
    most = int(np.abs(found.astype(int) - expected).max())
    return ("equal" if most == 0 else "off by one" if most == 1 else "different"), most


def compare(decoders, files):
    """Returns results by format and decoder: a list of kind, detail and file."""
    results = collections.defaultdict(list)
    for path in files:
        head = path.read_bytes()[:2]
        expected, kind = pillow(path)
        own = decoders.decode("dpsyn", path)
        if head == b"\xff\xd8":
            kind = "JPEG"
        elif kind is None and isinstance(own, str):
            continue
        results[kind or "no Pillow format", "dpsyn"].append((*judge(expected, own), path))
        for name in decoders.names[1:] if kind == "JPEG" else ():
            found = decoders.decode(name, path)
            results[kind, name].append((*judge(expected, found), path))
    return results


def report(results, everything, listed=True):
    print("| format | decoder | " + " | ".join(KINDS) + " |\n" + "|---" * 8 + "|")
    for (kind, name), rows in sorted(results.items(), key=lambda item: item[0][0] != "JPEG"):
        cells = []
        for column in KINDS:
            found = [detail for label, detail, _ in rows if label == column]
            levels = [detail for detail in found if isinstance(detail, int)]
            most = f" ({max(levels)})" if column == "different" and levels else ""
            cells.append(f"{len(found)}{most}")
        print(f"| {kind} | {name} | " + " | ".join(cells) + " |")
    for (kind, name), rows in results.items() if listed else ():
        for column in KINDS[1:] if everything else KINDS[1:5]:
            for label, detail, path in rows:
                if label == column and (name == "dpsyn" or everything):
                    print(f"{kind}, {name}, {label}: {path}: {detail}")


def picture(height, width, channels):
    """Returns a smooth picture with some noise."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 100 * np.sin(x / (3 + c) + c) * np.cos(y / (5 - c)) for c in range(channels)]
    noisy = np.stack(waves, -1) + rng.normal(0, 12, (height, width, channels))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def generate(folder):
    """Writes JPEGs of many kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    for height, width in SIZES:
        for mode, channels in (("RGB", 3), ("L", 1), ("CMYK", 4)):
            pixels = picture(height, width, channels)
            image = Image.frombytes(mode, (width, height), pixels.tobytes())
            for sampling in ("4:4:4", "4:2:2", "4:2:0") if channels > 1 else ("4:4:4",):
                for progressive in (False, True):
                    for quality, restart in ((30, 0), (90, 0), (90, 3)):
                        name = f"pillow_{mode}_{height}x{width}_{sampling.replace(':', '')}"
                        image.save(
                            folder / f"{name}_{'p' if progressive else 's'}{quality}_{restart}.jpg",
                            quality=quality,
                            subsampling=sampling,
                            progressive=progressive,
                            restart_marker_blocks=restart,
                        )
        if shutil.which("cjpeg"):
            generate_by_cjpeg(folder, height, width)


def generate_by_cjpeg(folder, height, width):
    header = f"P6\n{width} {height}\n255\n".encode()
    source = header + picture(height, width, 3).tobytes()
    options = {
        "sequential": [],
        "progressive": ["-progressive"],
        "arithmetic": ["-arithmetic"],
        "arithmetic-progressive": ["-arithmetic", "-progressive"],
        "rgb": ["-rgb"],
        "gray": ["-grayscale"],
    }
    with tempfile.TemporaryDirectory() as scripts:
        for name, script in SCRIPTS.items():
            path = Path(scripts) / name
            path.write_text(script)
            options[name] = ["-scans", str(path)]
            options[f"arithmetic-{name}"] = ["-arithmetic", "-scans", str(path)]
        for factors in FACTORS:
            for name, option in options.items():
                for restart in ([], ["-restart", "2B"]):
                    command = ["cjpeg", "-sample", factors, *option, *restart]
                    done = subprocess.run(command, input=source, capture_output=True)
                    # It refuses what makes no valid file.
                    if done.returncode == 0:
                        stem = f"cjpeg_{height}x{width}_{factors.replace(',', '_')}_{name}"
                        (folder / f"{stem}_{len(restart)}.jpg").write_bytes(done.stdout)


def changed(data, rng):
    """Returns a file cut or changed at random in its entropy-coded data or its headers."""
    data = bytearray(data)
    start = data.find(b"\xff\xda") + 2
    at = rng.randrange(start, len(data))
    kind = rng.choice(("cut", "end", "hole", "bit", "byte", "loss", "gain", "marker", "header"))
    if kind == "cut":
        del data[at:]
    elif kind == "end":
        data[at:] = b"\xff\xd9"
    elif kind == "hole":
        del data[at : at + rng.randrange(1, 40)]
    elif kind == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[at] = rng.randrange(256)
    elif kind == "loss":
        del data[at]
    elif kind == "gain":
        data.insert(at, rng.randrange(256))
    elif kind == "marker":
        data[at : at + 2] = bytes((0xFF, rng.choice((0, 0xD0, 0xD1, 0xD7, 0xD9, 0xFF, 0xC4))))
    else:
        data[rng.randrange(2, start)] = rng.randrange(256)
    return bytes(data)


def mutate(decoders, files, count):
    rng = random.Random(0)
    sources = [path.read_bytes() for path in files if path.stat().st_size < 20_000]
    sources = [data for data in sources if data[:2] == b"\xff\xd8"]
    results = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.jpg"
        for _ in range(count):
            path.write_bytes(changed(rng.choice(sources), rng))
            expected, _ = pillow(path)
            for name in decoders.names:
                found = decoders.decode(name, path)
                results["changed JPEG", name].append((*judge(expected, found), path))
    return results


def time(decoders, program, results):
    """Prints seconds for the JPEG files that all decoders read."""
    refused = {
        path
        for name in decoders.names
        for label, _, path in results["JPEG", name]
        if label not in KINDS[:3]
    }
    files = [path for _, _, path in results["JPEG", "dpsyn"] if path not in refused]
    print(f"seconds on one core for {len(files)} JPEGs that all read, best of three:")
    for name in decoders.names:
        command = [program, "time", name, *map(str, files)]
        runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(3)]
        print(f"| {name} | {min(float(run.stdout) for run in runs):.2f} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--program", default=DEFAULT, help="the program of benches/decoders")
    parser.add_argument("--generate", type=Path, help="write JPEGs to this folder first")
    parser.add_argument("--mutate", type=int, default=0, help="compare so many changed JPEGs instead")
    parser.add_argument("--time", action="store_true", help="time the JPEG decoders")
    parser.add_argument("--all", action="store_true", help="list the files of all decoders and kinds")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.generate:
        generate(arguments.generate)
    found = [path for folder in arguments.folders for path in sorted(folder.rglob("*"))]
    files = [path.absolute() for path in found if path.is_file() and not path.is_symlink()]
    decoders = Decoders(arguments.program)
    print(f"Pillow {PIL.__version__}, {len(files)} files")
    if arguments.mutate:
        results = mutate(decoders, files, arguments.mutate)
        report(results, False, listed=False)
    else:
        results = compare(decoders, files)
        report(results, arguments.all)
        if arguments.time:
            time(decoders, arguments.program, results)


if __name__ == "__main__":
    main()
