#!/usr/bin/env python3
"""Writes small valid inputs for every fuzz target to fuzz/corpus/TARGET/.

They come from the fixtures of the tests and from the inputs in fuzz/regressions/. A fuzzer that
starts from valid files reaches the code behind the first checks within seconds.
"""

import gzip
import io
import json
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ROOT / "tests" / "goldens"
CORPUS = ROOT / "fuzz" / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def npy(descr, shape, data, fortran=False):
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def archive(members, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()


def pickles():
    for path in sorted(GOLDENS.glob("pt_layouts*.pt")):
        data = path.read_bytes()
        write("pickle", path.name, data)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                for name in file.namelist():
                    if name.endswith("data.pkl"):
                        write("pickle", f"{path.stem}.pkl", file.read(name))


def safetensors():
    data = (GOLDENS / "pt_layouts.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    write("safetensors", "whole", data)
    write("safetensors", "header", data[8 : 8 + length])
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    header = {"a": entry, "__metadata__": {"format": "pt"}}
    write("safetensors", "small", json.dumps(header).encode())


def arrays():
    samples = npy("|u1", (2, 2, 2, 3), bytes(24))
    labels = npy("<i8", (2,), struct.pack("<2q", 0, 1))
    votes = npy("<f8", (2,), struct.pack("<2d", 0.5, 1))
    for name, data in [("samples", samples), ("labels", labels), ("votes", votes)]:
        write("npz", f"{name}.npy", data)
    write("npz", "fortran.npy", npy("<f4", (2, 3), bytes(24), fortran=True))
    write("npz", "big-endian.npy", npy(">i2", (3,), bytes(6)))
    members = [("samples.npy", samples), ("labels.npy", labels), ("votes.npy", votes)]
    write("npz", "stored.npz", archive(members))
    write("npz", "deflated.npz", archive(members, zipfile.ZIP_DEFLATED))


def configurations():
    for path in sorted((ROOT / "configs").glob("*.toml")):
        text = path.read_bytes()
        write("config", path.name, text)
        write("config", f"{path.name}-set", text + b"\0privacy.epsilon=1\0data.image_size=16")


def images():
    for path in sorted(GOLDENS.glob("loader*/*")):
        if path.stat().st_size < 20_000:
            write("image", path.name, path.read_bytes())


def formats():
    targets = {".webp": "webp", ".bmp": "bmp", ".tif": "tiff", ".dcm": "dicom"}
    for path in sorted((GOLDENS / "formats").iterdir()):
        write(targets.get(path.suffix, "image"), path.name, path.read_bytes())


def archives():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name in ["cookie/a.png", "x" * 120, "é" * 60]:
            info = tarfile.TarInfo(name)
            info.size = 5
            file.addfile(info, io.BytesIO(b"bytes"))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
    write("archive", "pax.tar", out.getvalue())
    write("archive", "pax.tar.gz", gzip.compress(out.getvalue(), mtime=0))
    image = (GOLDENS / "loader_special" / "x_bilevel.png").read_bytes()
    members = [("cats/cookie/a.png", image), ("cats/doudou/b.jpg", b"no image")]
    write("archive", "cats.zip", archive(members))
    write("archive", "cats-deflated.zip", archive(members, zipfile.ZIP_DEFLATED))


def texts():
    write("text", "catalogue.toml", (ROOT / "src" / "fetch" / "catalogue.toml").read_bytes())
    head = ",patient,node,x_coord,y_coord,tumor,slide,center,split\n"
    write("text", "metadata.csv", (head + "0,004,4,3328,21792,1,0,0,0\n").encode())
    write("text", "batch", b"cifar-10-batches-bin/data_batch_1.bin")
    scheduler = {
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": True,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "trained_betas": None,
    }
    write("text", "scheduler.json", json.dumps(scheduler).encode())
    unet = {
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": [32, 64],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
    }
    write("text", "unet.json", json.dumps(unet).encode())


def containers():
    for target, pattern in [
        ("idx", "idx/*-ubyte"),
        ("webdataset", "webdataset/*.tar"),
        ("parquet", "**/*.parquet"),
    ]:
        for path in sorted((GOLDENS / "containers").glob(pattern)):
            write(target, path.name, path.read_bytes())
    for path in sorted((GOLDENS / "containers" / "idx").glob("*.gz")):
        write("idx", path.name, gzip.decompress(path.read_bytes()))


def regressions():
    for path in sorted((ROOT / "fuzz" / "regressions").glob("*/*")):
        folder = CORPUS / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"regression-{path.name}")


if __name__ == "__main__":
    pickles()
    safetensors()
    arrays()
    configurations()
    images()
    formats()
    archives()
    texts()
    containers()
    regressions()
