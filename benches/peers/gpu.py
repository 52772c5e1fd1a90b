#!/usr/bin/env python3
"""Times one evaluation of the 270M UNet on a GPU, by dpsyn and by PyTorch, in turns within one run.

    pip install torch
    DPSYN_BENCH="..." python benches/peers/gpu.py [--batches 64,128,256,512] [--device cuda:0] [--seconds 5]

DPSYN_BENCH is a program built by `cargo bench --features cudnn --bench speed --no-run` (on a machine
without a toolkit: in the folder that scripts/build-cuda.sh creates). For each batch size and type it
times dpsyn, eager PyTorch, and PyTorch compiled with channels_last. It prints images·steps/s, TFLOP/s
(FLOPs counted by PyTorch), the fraction of the chip's peak for the type (--peak overrides the built-in
table), the better peer's time divided by dpsyn's (above 1, dpsyn is faster), and the hours of the
CIFAR-10 and Camelyon17 configurations.

`--device cpu` runs the script without a GPU, in `f32` and with one small batch: a test of the script
only. Experimental: it has not been run on a GPU.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

# Dense TFLOP/s by the makers' data sheets: bf16, and float32 as cuDNN computes it by default (TF32).
PEAKS = {"H200": (989, 494), "H100": (989, 494), "A100": (312, 156), "L40S": (362, 183), "4090": (165, 83)}
# Network evaluations of configs/cifar10.toml and camelyon17.toml; `dpsyn run … --dry-run` prints them.
EVALUATIONS = {"cifar10": 7.16e8, "camelyon17": 4.39e8}


def unet():
    import pretrain_quickstart

    net = pretrain_quickstart.UNet(
        channels=192, mult=(1, 2, 3, 4), blocks=3, attention=(4, 8), heads=4, num_classes=1000, out_channels=6)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return net.eval()


class Ours:
    def __init__(self, program, device):
        environment = {**os.environ, "DPSYN_DEVICE": device}
        self.process = subprocess.Popen(
            [program, "--serve"], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"{line}: {answer or 'dpsyn has ended, its last words are above'}")
        return answer

    def prepare(self, batch, dtype):
        self.ask(f"prepare unet_270m_b{batch}{'_bf16' if dtype == torch.bfloat16 else ''}")
        self.ask("run 3")
        return lambda: float(self.ask("run 1"))


def in_bfloat16(net):
    """All of it in bfloat16, as in compare.py: the fastest that PyTorch can be asked for."""
    net = net.to(torch.bfloat16)
    for part in net.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.forward = functools.partial(torch.nn.GroupNorm.forward, part)
    for name in ("time_embed", "out"):
        getattr(net, name).register_forward_pre_hook(lambda _, given: tuple(t.to(torch.bfloat16) for t in given))
    return net


def settle(device):
    """Waits until the device has done all that it was asked."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def theirs(batch, dtype, device, compiled):
    net = unet().to(device)
    if dtype == torch.bfloat16:
        net = in_bfloat16(net)
    layout = torch.channels_last if compiled else torch.contiguous_format
    net = net.to(memory_format=layout)
    # Compiled anew for each batch: for its own shapes, not for any.
    torch.compiler.reset()
    mode = "max-autotune-no-cudagraphs" if device.startswith("cuda") else "default"
    call = torch.compile(net, mode=mode, dynamic=False) if compiled else net
    x = torch.randn(batch, 3, 64, 64, device=device, dtype=dtype).contiguous(memory_format=layout)
    times = torch.full((batch,), 500.0, device=device)
    labels = torch.arange(batch, device=device) % 1000

    def run():
        settle(device)
        start = time.perf_counter()
        with torch.inference_mode():
            call(x, times, labels)
        settle(device)
        return time.perf_counter() - start

    for _ in range(3):
        run()
    return run


def flops():
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        unet()(torch.zeros(1, 3, 64, 64), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    return counter.get_total_flops()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="64,128,256,512")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the chip, for every type")
    arguments = parser.parse_args()
    program = os.environ.get("DPSYN_BENCH") or parser.error("DPSYN_BENCH names no program")
    ours = Ours(program, arguments.device)
    on_gpu = arguments.device.startswith("cuda")
    name = torch.cuda.get_device_name(arguments.device) if on_gpu else "CPU"
    work = flops()
    print(f"{name}, PyTorch {torch.__version__}, {work / 1e9:.1f} GFLOP an image")
    for dtype in (torch.bfloat16, torch.float32) if on_gpu else (torch.float32,):
        peaks = next((pair for chip, pair in PEAKS.items() if chip in name), None)
        peak = arguments.peak or (peaks and peaks[dtype == torch.float32])
        for batch in map(int, arguments.batches.split(",")):
            try:
                runs = {"dpsyn": ours.prepare(batch, dtype)}
            except RuntimeError as error:
                # No room, most likely.
                print(f"{str(dtype)[6:]} batch {batch}: {error}")
                ours = Ours(program, arguments.device)
                continue
            for label, compiled in (("eager", False), ("compiled", True)):
                try:
                    runs[label] = theirs(batch, dtype, arguments.device, compiled)
                except torch.cuda.OutOfMemoryError:
                    print(f"{label} has no room for {batch}")
            times = {label: [] for label in runs}
            end = time.perf_counter() + arguments.seconds * len(runs)
            while time.perf_counter() < end:
                for label, run in runs.items():
                    times[label].append(run())
            best = {label: statistics.median(values) for label, values in times.items()}
            peer = min((value for label, value in best.items() if label != "dpsyn"), default=float("nan"))
            for label, seconds in best.items():
                rate, speed = batch / seconds, batch * work / seconds / 1e12
                share = f", {100 * speed / peak:.0f} % of the peak" if peak else ""
                print(f"{str(dtype)[6:]} batch {batch} {label}: {1e3 * seconds:.1f} ms, {rate:.0f} images·steps/s, {speed:.0f} TFLOP/s{share}")
            hours = ", ".join(
                f"{run} {count * best['dpsyn'] / batch / 3600:.1f} h" for run, count in EVALUATIONS.items())
            print(f"  ratio {peer / best['dpsyn']:.2f}; {hours}")
            del runs
            if on_gpu:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
