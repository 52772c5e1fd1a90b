#!/usr/bin/env python3
"""Times PyTorch and faiss against dpsyn on the same shapes, in turns within one run.

    pip install -r benches/peers/requirements.txt
    python benches/peers/compare.py [case ...]

A round times dpsyn, then the peer, each for at least a twentieth of a second, so that other load of
the machine affects both alike. It prints the median of the rounds' ratios, the peer's time divided by
dpsyn's (above 1, dpsyn is faster), and the best time of each side. Both sides compute in fp32, PyTorch
eagerly in its default memory layout or the one of --layout; with --dtype bfloat16 PyTorch uses autocast
against dpsyn's fp32.

A case whose name ends in _bf16 compares dpsyn in bf16 with PyTorch's fastest bf16: autocast and the
module in bfloat16, each in both memory layouts, are timed first, and the fastest of the four is the
peer.

dpsyn's side is the program of `cargo bench`, driven over a pipe; it inherits DPSYN_CPU and other
environment variables.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def conv(n, channels, out, kernel, side):
    layer = torch.nn.Conv2d(channels, out, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    return network(layer, lambda: (torch.randn(n, channels, side, side),))


def norm(n, channels, side):
    class NormSilu(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.GroupNorm(32, channels)

        def forward(self, x, scale, shift):
            return torch.nn.functional.silu(self.norm(x) * (1 + scale) + shift)

    modulation = torch.randn(2, n, channels, 1, 1)
    return network(NormSilu(), lambda: (torch.randn(n, channels, side, side), *modulation))


def attention(n, heads, positions, width):
    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return network(Attention(), lambda: tuple(torch.randn(3, n, heads, positions, width)))


def linear(rows, channels, out):
    return network(torch.nn.Linear(channels, out), lambda: (torch.randn(rows, channels),))


def unet(n, side, **config):
    # The network under which the quickstart's model was trained. Its attention is PyTorch's fused one, which is faster
    # than the original's.
    sys.path.insert(0, str(ROOT / "scripts"))
    import pretrain_quickstart

    net = pretrain_quickstart.UNet(**config)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network(net, lambda: (torch.randn(n, 3, side, side), torch.full((n,), 500.0), torch.arange(n)))


def inception(n):
    sys.path.insert(0, str(Path(__file__).parent))
    import inception

    return network(inception.inception(), lambda: (torch.randn(n, 3, 299, 299),))


def network(module, inputs):
    """Evaluates `module` on `inputs()` as the options say."""
    if way == "module":
        module = in_bfloat16(module)
    module = module.eval().to(memory_format=layout)
    x, *others = inputs()
    x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
    if way == "module":
        x, *others = (t.to(torch.bfloat16) if t.is_floating_point() else t for t in (x, *others))
    if way != "autocast":
        return lambda: module(x, *others)

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            module(x, *others)

    return run


def in_bfloat16(module):
    """All of a module in bfloat16, the parts that force float32 as well: the fastest that PyTorch can be asked for."""
    module = module.to(torch.bfloat16)
    for part in module.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.forward = functools.partial(torch.nn.GroupNorm.forward, part)
    # Where the UNet's own code makes float32 of what goes in.
    for name in ("time_embed", "out"):
        if hasattr(module, name):
            getattr(module, name).register_forward_pre_hook(lambda _, given: tuple(t.to(torch.bfloat16) for t in given))
    return module


def best_bfloat16(case):
    """The name of PyTorch's fastest way to evaluate a case in bfloat16, and a function that does it."""
    global way, layout
    found = []
    for way in ("autocast", "module"):
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.manual_seed(0)
            run = case()
            run()
            times = []
            while len(times) < 3 or (sum(times) < 1 and len(times) < 50):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            label = f"{way}, {'default' if layout == torch.contiguous_format else 'channels_last'}"
            found.append((min(times), label, run))
    return min(found, key=lambda one: one[0])[1:]


def voting(queries, candidates, dimension):
    import faiss
    import numpy

    faiss.omp_set_num_threads(args.threads)
    rng = numpy.random.default_rng(0)
    draw = lambda rows: rng.uniform(-1, 1, (rows, dimension)).astype(numpy.float32)
    queries, candidates = draw(queries), draw(candidates)

    def run():
        index = faiss.IndexFlatL2(dimension)
        index.add(candidates)
        index.search(queries, 1)

    return run


def resize(n, side, to):
    # clean-fid's way: Pillow, one channel of one image at a time, on as many threads.
    from concurrent.futures import ThreadPoolExecutor

    import numpy
    from PIL import Image

    batch = numpy.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(numpy.float32)

    def one(image):
        planes = [Image.fromarray(image[:, :, c], mode="F").resize((to, to), Image.Resampling.BICUBIC) for c in range(3)]
        return (numpy.stack(planes).clip(0, 255) - 128) / 128

    pool = ThreadPoolExecutor(args.threads)
    return lambda: list(pool.map(one, batch))


IMAGENET = dict(channels=192, mult=(1, 2, 3, 4), blocks=3, attention=(4, 8), heads=4, num_classes=1000)
CASES = {
    "conv_3x3_192ch_64px_b8": lambda: conv(8, 192, 192, (3, 3), 64),
    "conv_3x3_768ch_8px_b8": lambda: conv(8, 768, 768, (3, 3), 8),
    "conv_3x3_32ch_32px_b8": lambda: conv(8, 32, 32, (3, 3), 32),
    "conv_1x1_384ch_32px_b8": lambda: conv(8, 384, 192, (1, 1), 32),
    "conv_7x1_160ch_17px_b8": lambda: conv(8, 160, 160, (7, 1), 17),
    "norm_silu_192ch_64px_b8": lambda: norm(8, 192, 64),
    "norm_silu_32ch_32px_b8": lambda: norm(8, 32, 32),
    "attention_t256_d48_b8": lambda: attention(8, 4, 256, 48),
    "linear_2048x768x768": lambda: linear(2048, 768, 768),
    "linear_8x768x1536": lambda: linear(8, 768, 1536),
    "unet_quickstart_b8": lambda: unet(8, 32),
    "unet_quickstart_b50": lambda: unet(50, 32),
    "unet_270m_b2": lambda: unet(2, 64, **IMAGENET),
    "inception_b8": lambda: inception(8),
    "voting_5000x1000x2048": lambda: voting(5000, 1000, 2048),
    "voting_50000x5000x2048": lambda: voting(50000, 5000, 2048),
    "resize_float_32_to_299_b100": lambda: resize(100, 32, 299),
}
# Those that exist in bf16, with _bf16 after their names.
MODULES = [name for name in CASES if not name.startswith(("voting", "resize"))]
# Cases of minutes run only when they are named.
LARGE = {"voting_50000x5000x2048"}


class Dpsyn:
    """The bench program, in a process of its own."""

    def __init__(self, threads):
        command = [args.program] if args.program else ["cargo", "bench", "--bench", "speed", "--"]
        command.append("--serve")
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            sys.exit(f"{line}: {answer or 'dpsyn has ended'}")
        return answer


def one_round(ours, peer, repeats):
    """Seconds of dpsyn and of the peer for one evaluation, the mean of so many."""
    # The other side's threads spin for a while before they sleep.
    time.sleep(0.01)
    mine = float(ours.ask(f"run {repeats[0]}"))
    time.sleep(0.01)
    start = time.perf_counter()
    for _ in range(repeats[1]):
        peer()
    return mine / repeats[0], (time.perf_counter() - start) / repeats[1]


def main():
    ours = Dpsyn(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.dtype}, {args.layout}")
    print(f"{'case':30} {'ratio':>6} {'dpsyn':>11} {'peer':>11}  rounds")
    with torch.inference_mode():
        for name in args.cases or [name for name in CASES if name not in LARGE]:
            ours.ask(f"prepare {name}")
            if name.endswith("_bf16"):
                how, peer = best_bfloat16(CASES[name.removesuffix("_bf16")])
            else:
                peer, how = CASES[name](), ""
            once = one_round(ours, peer, (1, 1))
            if sum(once) < 5:
                once = one_round(ours, peer, (1, 1))
            repeats = [max(1, round(0.05 / seconds)) for seconds in once]
            cost = sum(seconds * count for seconds, count in zip(once, repeats))
            rounds = max(3, min(200, round(args.seconds / cost)))
            pairs = [one_round(ours, peer, repeats) for _ in range(rounds)]
            ratio = statistics.median(theirs / mine for mine, theirs in pairs)
            mine, theirs = (min(column) * 1e3 for column in zip(*pairs))
            print(f"{name:30} {ratio:6.2f} {mine:8.2f} ms {theirs:8.2f} ms  {rounds:6}  {how}", flush=True)
            del peer


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("cases", nargs="*", metavar="case", help="cases to time; all but the large ones by default")
parser.add_argument("--threads", type=int, default=2, help="of each side (default 2)")
parser.add_argument("--seconds", type=float, default=10, help="time for one case (default 10)")
parser.add_argument("--program", help="a bench program built earlier (`cargo bench --no-run` prints its path)")
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="PyTorch's, for cases without _bf16")
parser.add_argument("--layout", choices=["default", "channels_last"], default="default", help="PyTorch's")
args = parser.parse_args()
if unknown := set(args.cases) - set(CASES) - {f'{name}_bf16' for name in MODULES}:
    sys.exit(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}, and with _bf16 {', '.join(MODULES)}")
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(args.threads)

import torch  # noqa: E402  after the number of threads is set

torch.set_num_threads(args.threads)
torch.manual_seed(0)
way = "autocast" if args.dtype == "bfloat16" else "plain"
layout = torch.channels_last if args.layout == "channels_last" else torch.contiguous_format
main()
