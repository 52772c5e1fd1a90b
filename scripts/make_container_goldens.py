#!/usr/bin/env python3
"""Makes tests/goldens/containers.{json,safetensors} and the files in tests/goldens/containers.

    pip install numpy==2.* pillow==13.* pyarrow==26.* safetensors
    python scripts/make_container_goldens.py

Six images are written by the libraries that people use: IDX as MNIST is published, tar shards in the layout of
WebDataset, and Parquet in the layout of the hub's image data sets. The case has their pixels and classes.
"""

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save_file

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
FOLDER = GOLDENS / "containers"
SIZE = 8
CLASSES = ["cat", "dog", "été"]
LABELS = [2, 0, 1, 1, 0, 2]
CLIENTS = ["p1", "p2", "p1", "p3", "p3", "p1"]


def pixels():
    """Returns uint8 [6, 8, 8, 3]; no two images are equal."""
    values = np.arange(len(LABELS) * SIZE * SIZE * 3, dtype=np.uint32)
    return ((values * values // 7 + values // 64) % 256).astype(np.uint8).reshape(-1, SIZE, SIZE, 3)


def png(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def write(name, data):
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def idx(gray):
    """Train images gzipped, test images (the first two) plain."""

    def array(values):
        return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()

    labels = np.array(LABELS, np.uint8)
    write("idx/train-images-idx3-ubyte.gz", gzip.compress(array(gray), mtime=0))
    write("idx/train-labels-idx1-ubyte.gz", gzip.compress(array(labels), mtime=0))
    write("idx/t10k-images-idx3-ubyte", array(gray[:2]))
    write("idx/t10k-labels-idx1-ubyte", array(labels[:2]))


def shard(name, form, files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        folder = tarfile.TarInfo("images")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for path, data in files:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    write(name, out.getvalue())


def webdataset(images):
    """Two shards: classes in .cls under long pax names, and in .json under long GNU names."""
    key = "images/" + "é" * 60 + "/{:06}"
    first, second = [], []
    for index, image in enumerate(images):
        name = CLASSES[LABELS[index]]
        if index < 3:
            path = key.format(index)
            first += [(path + ".png", png(image)), (path + ".cls", f"{name}\n".encode())]
        else:
            path = "images/" + "long" * 30 + f"/{index:06}"
            fields = json.dumps({"label": name, "width": SIZE, "client": CLIENTS[index]})
            second += [(path + ".json", fields.encode()), (path + ".PNG", png(image))]
    shard("webdataset/train-000000.tar", tarfile.PAX_FORMAT, first)
    shard("webdataset/train-000001.tar", tarfile.GNU_FORMAT, second)


def parquet(images):
    """Tables as `datasets` writes them, and as other programs do."""
    files = [{"bytes": png(image), "path": f"{index}.png"} for index, image in enumerate(images)]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)

    def hub(rows):
        columns = [pa.array(files[rows], image), pa.array(LABELS[rows], pa.int64())]
        return pa.table(columns, schema=schema)

    folder = FOLDER / "hub" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in [(0, slice(0, 4)), (1, slice(4, 6))]:
        path = folder / f"train-{part:05}-of-00002.parquet"
        pq.write_table(hub(rows), path, compression="snappy", row_group_size=3)
    pq.write_table(hub(slice(0, 1)), folder / "test-00000-of-00001.parquet", compression="snappy")
    names = [CLASSES[label] for label in LABELS]
    plain = pa.table({"client": CLIENTS, "img": [file["bytes"] for file in files], "fine_label": names})
    for name, options in {
        "zstd": {"compression": "zstd"},
        "plain": {"compression": "none", "data_page_version": "2.0", "use_dictionary": False},
        "gzip": {"compression": "gzip"},
    }.items():
        pq.write_table(plain, FOLDER / f"{name}.parquet", **options)


def main():
    images = pixels()
    gray = images[:, :, :, 0].copy()
    idx(gray)
    webdataset(images)
    parquet(images)
    tensors = {"images": images, "gray": np.repeat(gray[..., None], 3, axis=3)}
    save_file(tensors, GOLDENS / "containers.safetensors")
    (GOLDENS / "containers.safetensors").chmod(0o644)
    names = [CLASSES[label] for label in LABELS]
    numbers = [str(label) for label in LABELS]
    entries = [
        {"path": "idx", "format": "idx", "split": "train", "images": "gray", "labels": numbers},
        {"path": "idx", "format": "idx", "split": "test", "images": "gray", "labels": numbers[:2]},
        {"path": "webdataset", "format": "webdataset", "split": "train", "images": "images", "labels": names},
        {"path": "hub", "format": "parquet", "split": "train", "images": "images", "labels": names},
        {"path": "hub", "format": "parquet", "split": "test", "images": "images", "labels": names[:1]},
        {"path": "zstd.parquet", "images": "images", "labels": names, "clients": CLIENTS},
        {"path": "plain.parquet", "images": "images", "labels": names, "clients": CLIENTS},
        {"path": "gzip.parquet", "images": "images", "labels": names, "clients": CLIENTS},
    ]
    case = {
        "case": "containers",
        "what": f"six images of {SIZE}x{SIZE} pixels written by tarfile, pyarrow {pa.__version__} and gzip",
        "image_size": SIZE,
        "entries": entries,
    }
    (GOLDENS / "containers.json").write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
