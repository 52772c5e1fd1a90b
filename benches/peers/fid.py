#!/usr/bin/env python3
"""FID as it is computed in Python: clean-fid's resizing and distance around pytorch-fid's Inception, on a CPU.

    pip install -r benches/peers/requirements.txt torchvision pytorch-fid clean-fid
    python benches/peers/fid.py weights inception.pth          # pseudo-random ones: FID's own need a download
    python benches/peers/fid.py images a.npz 10000 --seed 1
    python benches/peers/fid.py images b.npz 10000 --seed 2
    python benches/peers/fid.py measure a.npz b.npz inception.pth
    dpsyn eval a.npz --against b.npz --weights inception.pth --public

The last two print the same distance, up to the rounding of float32 features, and what it took. Times are of the whole
process' work after its imports; the peak is the process' own resident memory.
"""

import argparse
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor


def network():
    """pytorch-fid's module, whose constructor would download the weights."""
    from pytorch_fid import inception
    from torchvision.models import inception_v3

    net = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    blocks = {
        "Mixed_5b": inception.FIDInceptionA(192, pool_features=32),
        "Mixed_5c": inception.FIDInceptionA(256, pool_features=64),
        "Mixed_5d": inception.FIDInceptionA(288, pool_features=64),
        "Mixed_6b": inception.FIDInceptionC(768, channels_7x7=128),
        "Mixed_6c": inception.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6d": inception.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6e": inception.FIDInceptionC(768, channels_7x7=192),
        "Mixed_7b": inception.FIDInceptionE_1(1280),
        "Mixed_7c": inception.FIDInceptionE_2(2048),
    }
    for name, block in blocks.items():
        setattr(net, name, block)
    return net.eval()


def write_weights(args):
    import torch

    torch.manual_seed(0)
    net = network()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            # Without the gain, ReLUs would make features almost independent of the image.
            torch.nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
    torch.save(net.state_dict(), args.file)


def write_images(args):
    """Colored gradients with a little noise: no two alike, and not as flat as noise alone."""
    import numpy

    rng = numpy.random.default_rng(args.seed)
    side = numpy.linspace(-1, 1, args.size)
    waves = rng.normal(size=(args.count, 3, 4))
    y, x = side[None, :, None, None], side[None, None, :, None]
    a, b, c, d = (waves[:, None, None, :, i] for i in range(4))
    field = 128 + 60 * numpy.sin(2 * a * x + 2 * b * y + c) + 25 * d + rng.normal(scale=8, size=(args.count, args.size, args.size, 3))
    numpy.savez(args.file, samples=field.clip(0, 255).astype(numpy.uint8))


def measure(args):
    import numpy
    import torch
    from cleanfid.fid import frechet_distance
    from cleanfid.resize import build_resizer

    torch.set_num_threads(args.threads)
    net = network()
    net.load_state_dict(torch.load(args.weights))
    net.fc = torch.nn.Identity()
    net.dropout = torch.nn.Identity()
    net.transform_input = False
    resizer = build_resizer("clean")
    begun = time.perf_counter()
    features = []
    with torch.inference_mode(), ThreadPoolExecutor(args.threads) as pool:
        for path in (args.samples, args.reference):
            images = numpy.load(path)["samples"]
            rows = []
            for start in range(0, len(images), args.batch):
                batch = numpy.stack(list(pool.map(resizer, images[start : start + args.batch])))
                inputs = torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())
                rows.append(net((inputs - 128) / 128).numpy())
            features.append(numpy.concatenate(rows))
    embedded = time.perf_counter()
    print(f"fid {distance(features, frechet_distance):.6f}")
    ended = time.perf_counter()
    report(f"features {embedded - begun:.1f} s, statistics and distance {ended - embedded:.1f} s")


def statistics(args):
    """Mean, covariance and distance alone, of made-up features."""
    import numpy
    from cleanfid.fid import frechet_distance

    rng = numpy.random.default_rng(0)
    mix = rng.normal(size=(args.dimension, args.dimension)) / args.dimension**0.5
    features = [(rng.normal(size=(args.count, args.dimension)) @ mix).astype(numpy.float32) for _ in range(2)]
    begun = time.perf_counter()
    print(f"fid {distance(features, frechet_distance):.6f}")
    report(f"statistics and distance {time.perf_counter() - begun:.1f} s")


def distance(features, frechet_distance):
    import numpy

    moments = [(numpy.mean(f, axis=0), numpy.cov(f, rowvar=False)) for f in features]
    return frechet_distance(*moments[0], *moments[1])


def report(times):
    print(f"{times}; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
commands = parser.add_subparsers(required=True)
command = commands.add_parser("weights")
command.add_argument("file")
command.set_defaults(run=write_weights)
command = commands.add_parser("images")
command.add_argument("file")
command.add_argument("count", type=int)
command.add_argument("--size", type=int, default=32)
command.add_argument("--seed", type=int, default=0)
command.set_defaults(run=write_images)
command = commands.add_parser("measure")
command.add_argument("samples")
command.add_argument("reference")
command.add_argument("weights")
command.add_argument("--batch", type=int, default=50)
command.add_argument("--threads", type=int, default=2)
command.set_defaults(run=measure)
command = commands.add_parser("statistics")
command.add_argument("count", type=int)
command.add_argument("--dimension", type=int, default=2048)
command.add_argument("--threads", type=int, default=2)
command.set_defaults(run=statistics)
args = parser.parse_args()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, str(getattr(args, "threads", 2)))
args.run(args)
