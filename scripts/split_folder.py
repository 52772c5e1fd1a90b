#!/usr/bin/env python3
"""Splits a folder of image files `<class>_<name>` into a public and a private half.

    python scripts/split_folder.py data/cifar10_train data/cifar10_public data/cifar10_private

Which half an image belongs to is drawn by a fixed seed and does not depend on any image. A file that is in
both halves, because the folder has copies, stays in the private half only. The public files get numbers in
place of their names, so that they have no class, unless `--public-labels` is given.

This makes data for experiments. For private images of your own, take a public set of another origin.
"""

import argparse
import random
import shutil
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of image files")
    parser.add_argument("public", type=Path, help="folder that is made for the public half")
    parser.add_argument("private", type=Path, help="folder that is made for the private half")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--public-labels", action="store_true", help="keep the names of public files")
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.source.iterdir() if not file.name.startswith("."))
    if not files:
        raise SystemExit(f"{arguments.source}: expected image files")
    order = random.Random(arguments.seed).sample(files, len(files))
    private, public = order[: len(files) // 2], order[len(files) // 2 :]
    known = {file.read_bytes() for file in private}
    public = [file for file in public if file.read_bytes() not in known]
    for folder, chosen in ((arguments.private, private), (arguments.public, public)):
        folder.mkdir(parents=True)
        for index, file in enumerate(chosen):
            numbered = folder is arguments.public and not arguments.public_labels
            shutil.copyfile(file, folder / (f"{index:06}{file.suffix}" if numbered else file.name))
        print(f"{folder}: {len(chosen)} images")


if __name__ == "__main__":
    main()
