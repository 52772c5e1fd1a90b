#!/usr/bin/env python3
"""Assigns the images of a folder to clients whose sizes follow Zipf's law, as CSV for
data.clients.csv: client i of N has a share of the images in proportion to 1/i.

    scripts/zipf_clients.py data/mnist_train 1000 > clients.csv
    scripts/zipf_clients.py data/mnist_train 1000 --classes 2 > clients.csv

With --classes K, a client has images of few classes: the images are dealt out in runs of one class
each, about K of them to a client, as far as the sizes permit. Otherwise, they are dealt out at
random.
"""

import argparse
import pathlib
import random


def sizes(images: int, clients: int) -> list[int]:
    """Returns the number of images of each client, at least 1; their sum is `images`."""
    weights = [1 / (i + 1) for i in range(clients)]
    left, total = images - clients, sum(weights)
    counts = [1 + int(left * weight / total) for weight in weights]
    counts[0] += images - sum(counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("clients", type=int)
    parser.add_argument("--classes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    names = sorted(path.name for path in arguments.folder.glob("*.png"))
    if not 1 <= arguments.clients <= len(names):
        parser.error(f"{len(names)} images: expected 1 to as many clients")
    rng.shuffle(names)
    counts = sizes(len(names), arguments.clients)
    queues: dict[str, list[str]] = {}
    for name in names:
        queues.setdefault(name.split("_")[0], []).append(name)
    print("file,client")
    for client, count in enumerate(counts):
        run = -(-count // arguments.classes) if arguments.classes else 0
        while count > 0:
            if not arguments.classes:
                chosen = [names.pop()]
            else:
                classes = [name for name, queue in queues.items() if queue]
                queue = queues[rng.choice(classes)]
                chosen = [queue.pop() for _ in range(min(run, count, len(queue)))]
            for name in chosen:
                print(f"{name},{client}")
            count -= len(chosen)


main()
