#!/usr/bin/env python3
"""Trains the public foundation model of the quickstart: a small class-conditional diffusion UNet
of typed glyphs.

Private Evolution never trains on private data. It needs a generator that was trained on *public*
data, and the quickstart ships a small one: 62 characters (classes 0-9 digits, 10-35 capitals, 36-61
small letters) rendered from free fonts, 32x32, white on black. This script uses no handwriting
dataset, and MNIST in particular is not used. It imitates only the general framing of such images:
size of the glyph's box, centering by mass, stroke width.

The network is the UNet of OpenAI's improved-diffusion, reimplemented here with the original's
parameter names, so that the result is a checkpoint in the original `.pt` format. Its
hyper-parameters, by the original's names:

    image_size 32, num_channels 32, num_res_blocks 1, attention_resolutions 8, num_heads 4,
    use_scale_shift_norm True, class_cond True (62 classes), learn_sigma True,
    diffusion_steps 1000, noise_schedule cosine, predict_xstart True, rescale_timesteps False

Requires Python 3.10+, torch, numpy, pillow and safetensors, and the Debian font packages of
`pretrain_quickstart.fonts.txt`. Sub-commands:

    glyphs   render the training set (a few minutes on two cores)
    train    train, or resume with --resume; the length may be changed when resuming
    grid     sample every digit with few-step DDIM and write a PNG
    check    compare the network with a reference checkpoint and its recorded outputs
    bench    time training steps in several numeric formats

Everything is seeded. The rendered set is reproducible bit by bit for the same font files and
Pillow; training is reproducible up to the floating-point differences between machines. The shipped
weights are `final.pt` of

    pretrain_quickstart.py glyphs --out DATA
    pretrain_quickstart.py train --data DATA --out RUN --steps 3400 --decay 650 --stop 3250
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import multiprocessing
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

IMAGE_SIZE = 32
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NUM_CLASSES = len(CHARACTERS)
DIFFUSION_STEPS = 1000

# --------------------------------------------------------------------------------------------------
# Glyphs
# --------------------------------------------------------------------------------------------------

FRAME = 128  # rendering resolution; 4 rendered pixels per pixel of the result
BOX = FRAME * 20 / 28  # longer side of a glyph's box
FONT_SIZE = 100
CANVAS = 192  # space for the glyph while it is rotated and sheared
MESH = 8  # cells per side of the warping mesh
SKIP_NAMES = (
    "math",
    "symbol",
    "dingbat",
    "emoji",
    "ornament",
    "initial",
    "d050000l",
    "standardsymbols",
    "braille",
    "icons",
    "outline",
    "stencil",
    "keyboard",
    "mirror",
    "upsidedown",
    "sketch",
    "webdings",
)
# Fonts that imitate handwriting are few; they are sampled this much more often than the others.
HAND_NAMES = (
    "handwriting",
    "breip",
    "bwht",
    "ecolier",
    "femkeklaver",
    "humor",
    "kristi",
    "rufscript",
    "sjfonts",
    "tomsontalks",
    "comic",
    "dancing",
    "kaushan",
    "leckerli",
    "klee",
    "yusei",
    "havana",
    "bajaderka",
    "chilanka",
    "karumbi",
    "isabella",
    "domestic",
    "junkyard",
    "wargames",
    "chancery",
    "delphine",
    "steve",
    "essays",
    "script",
    "andika",
    "routed",
)
HAND_WEIGHT = 3.0


def find_fonts(folder: Path) -> list[Path]:
    """Lists TrueType and OpenType files below `folder`, without duplicates, in a fixed order."""
    seen, fonts = set(), []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf")):
        if any(word in path.name.lower() for word in SKIP_NAMES):
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in seen:
            seen.add(digest)
            fonts.append(path)
    return fonts


def glyph_mask(font, text: str, stroke: float = 0.0):
    """Renders the glyph as a tight grayscale image; None if it is blank."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (3 * FONT_SIZE, 3 * FONT_SIZE))
    ImageDraw.Draw(image).text(
        (FONT_SIZE, FONT_SIZE // 2), text, fill=255, font=font, stroke_width=stroke
    )
    box = image.getbbox()
    return image.crop(box) if box else None


def thickness(mask) -> float:
    """Mean stroke width of a tight glyph image scaled to the box.

    It is twice the area over the length of the outline.
    """
    ink = np.pad(np.asarray(mask, dtype=np.float32) / 255, 1)
    dy, dx = np.gradient(ink)
    outline = np.hypot(dx, dy).sum()
    return 2 * ink.sum() / max(outline, 1e-6) * BOX / max(mask.size)


def examine_font(path: Path):
    """Returns {character: (thickness, 16x16 thumbnail)} of the glyphs that a font contains."""
    from PIL import Image, ImageFont

    try:
        font = ImageFont.truetype(str(path), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        missing = {m.tobytes() for m in (glyph_mask(font, c) for c in "\uffff\ue83a\u0378") if m}
        found, images = {}, {}
        for char in CHARACTERS:
            mask = glyph_mask(font, char)
            if (
                mask is None
                or mask.tobytes() in missing
                or max(mask.size) < 20
                or max(mask.size) > 1.9 * FONT_SIZE
            ):
                continue
            if char.isdigit() and mask.tobytes() in images.values():
                return {}  # placeholders: two digits that look the same
            images[char] = mask.tobytes()
            scale = 14 / max(mask.size)
            small = mask.resize([max(1, round(s * scale)) for s in mask.size], Image.Resampling.BOX)
            thumb = Image.new("L", (16, 16))
            thumb.paste(small, ((16 - small.width) // 2, (16 - small.height) // 2))
            found[char] = (thickness(mask), np.asarray(thumb, dtype=np.float32))
        return found if all(d in found for d in "0123456789") else {}
    except (OSError, ValueError):
        return {}


def select_glyphs(fonts: list[Path], workers: int):
    """Selects, per character, the usable (font index, thickness) pairs and their probabilities.

    Pictures in place of a letter and unreadable ornaments correlate poorly with the mean of the
    character over all fonts; these are left out. Heavy faces, which look least like strokes of a
    pen, become rare.
    """
    with multiprocessing.Pool(workers) as pool:
        found = pool.map(examine_font, fonts, chunksize=8)
    table = {}
    for char in CHARACTERS:
        owners = [i for i, glyphs in enumerate(found) if char in glyphs]
        thumbs = np.stack([found[i][char][1].ravel() for i in owners])
        thumbs = thumbs - thumbs.mean(1, keepdims=True)
        thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True) + 1e-6
        mean = thumbs.mean(0)
        likeness = thumbs @ (mean / np.linalg.norm(mean))
        entries, weights = [], []
        for owner, like in zip(owners, likeness):
            width = found[owner][char][0]
            if like < 0.45 or width > 24:
                continue
            if char == "0" and found[owner][char][1][6:10, 6:10].mean() > 40:
                continue  # a slashed or dotted zero
            hand = any(word in str(fonts[owner]).lower() for word in HAND_NAMES)
            entries.append((owner, width))
            weights.append((HAND_WEIGHT if hand else 1.0) * (1.0 if width < 15 else 0.2))
        weights = np.array(weights)
        table[char] = (entries, weights / weights.sum())
    return table


def cubic_upsampling(coarse: int, fine: int) -> np.ndarray:
    """Matrix [fine, coarse] of Catmull-Rom interpolation between evenly spaced nodes."""
    matrix = np.zeros((fine, coarse))
    for row in range(fine):
        at = row * (coarse - 1) / (fine - 1)
        base = min(int(at), coarse - 2)
        t = at - base
        taps = (
            -t + 2 * t**2 - t**3,
            2 - 5 * t**2 + 3 * t**3,
            t + 4 * t**2 - 3 * t**3,
            -(t**2) + t**3,
        )
        for offset, tap in zip((-1, 0, 1, 2), taps):
            matrix[row, min(max(base + offset, 0), coarse - 1)] += tap / 2
    return matrix


WARP = cubic_upsampling(6, MESH + 1)


def draw_glyph(rng: np.random.Generator, char: str, font, width: float) -> np.ndarray | None:
    """Renders one augmented glyph as uint8 [32, 32]; None if the result is not usable."""
    from PIL import Image, ImageFilter

    # Render, thickened towards the stroke width of a pen.
    plain = font.getbbox(char)
    unit = (
        max(plain[2] - plain[0], plain[3] - plain[1], 1) / BOX
    )  # font pixels per pixel of the frame
    target = rng.uniform(6.0, 14.5)
    stroke = float(np.clip((target - width) / 2, 0, 4.5)) * unit
    glyph = glyph_mask(font, char, round(stroke, 2))
    if glyph is None:
        return None
    # Rotate, shear, stretch and warp in a single resampling, which blurs less than four: each
    # mesh cell shows a quadrilateral of the source.
    angle = math.radians(rng.uniform(-18, 18))
    shear = rng.uniform(-0.35, 0.35)
    stretch = math.exp(rng.uniform(-0.25, 0.25))
    forward = (
        np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        @ np.array([[1.0, shear], [0.0, 1.0]])
        @ np.diag([stretch, 1 / stretch])
    )
    forward = forward / unit * 0.95
    inverse = np.linalg.inv(forward)
    nodes = np.linspace(0, CANVAS, MESH + 1)
    grid = np.stack(np.meshgrid(nodes, nodes), -1) - CANVAS / 2
    source = grid @ inverse.T + np.array(glyph.size) / 2
    wobble = rng.uniform(0.5, 6.5) * unit
    field = rng.standard_normal((2, 6, 6))
    source += wobble * np.stack([WARP @ f @ WARP.T for f in field], -1)
    step = CANVAS // MESH
    cells = []
    for i in range(MESH):
        for j in range(MESH):
            quad = (source[i, j], source[i + 1, j], source[i + 1, j + 1], source[i, j + 1])
            cells.append(
                ((j * step, i * step, (j + 1) * step, (i + 1) * step), tuple(np.concatenate(quad)))
            )
    image = glyph.transform(
        (CANVAS, CANVAS), Image.Transform.MESH, cells, Image.Resampling.BILINEAR
    )
    box = image.getbbox()
    if box is None:
        return None
    image = image.crop(box)
    # The longer side fills the box; the center of mass goes to the center of the frame.
    scale = BOX * rng.uniform(0.92, 1.02) / max(image.size)
    image = image.resize([max(4, round(s * scale)) for s in image.size], Image.Resampling.BILINEAR)
    ink = np.asarray(image, dtype=np.float64)
    total = ink.sum()
    if total <= 0:
        return None
    mass_x = (ink.sum(0) * (np.arange(ink.shape[1]) + 0.5)).sum() / total
    mass_y = (ink.sum(1) * (np.arange(ink.shape[0]) + 0.5)).sum() / total
    frame = Image.new("L", (FRAME, FRAME))
    jitter = rng.normal(0, 1.2, 2)
    frame.paste(
        image, (round(FRAME / 2 - mass_x + jitter[0]), round(FRAME / 2 - mass_y + jitter[1]))
    )
    frame = frame.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2.6)))
    small = np.asarray(frame.reduce(FRAME // IMAGE_SIZE), dtype=np.float32)
    peak = small.max()
    if peak < 60:
        return None
    small = small * (255 * rng.uniform(0.96, 1.0) / peak if peak < 245 else 1.0)
    small[small < 6] = 0
    return np.clip(np.round(small), 0, 255).astype(np.uint8)


_worker: dict = {}


def _start_worker(fonts, table, seed, digit_share):
    _worker.update(fonts=fonts, table=table, seed=seed, digit_share=digit_share, open={})


def _font(index: int):
    from PIL import ImageFont

    if index not in _worker["open"]:
        _worker["open"][index] = ImageFont.truetype(
            str(_worker["fonts"][index]), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC
        )
    return _worker["open"][index]


def _draw_indexed(index: int):
    """Renders sample `index`. It depends on the seed and the index only, not on the worker."""
    rng = np.random.default_rng([_worker["seed"], index])
    while True:
        label = (
            int(rng.integers(10))
            if rng.random() < _worker["digit_share"]
            else int(rng.integers(10, NUM_CLASSES))
        )
        char = CHARACTERS[label]
        if char == "1" and rng.random() < 0.3:
            char = (
                "I" if rng.random() < 0.5 else "l"
            )  # a vertical bar is a common way to write a one
        entries, weights = _worker["table"][char]
        font, width = entries[rng.choice(len(entries), p=weights)]
        image = draw_glyph(rng, char, _font(font), width)
        if image is not None:
            return image, label


def command_glyphs(args):
    fonts = find_fonts(args.fonts)
    table = select_glyphs(fonts, args.workers)
    used = sorted({owner for entries, _ in table.values() for owner, _ in entries})
    print(
        f"{len(fonts)} font files, {len(used)} used, "
        f"{sum(len(e) for e, _ in table.values())} distinct glyphs"
    )
    images = np.empty((args.count, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    labels = np.empty(args.count, np.uint8)
    start = time.time()
    with multiprocessing.Pool(
        args.workers, _start_worker, (fonts, table, args.seed, args.digit_share)
    ) as pool:
        for i, (image, label) in enumerate(
            pool.imap(_draw_indexed, range(args.count), chunksize=256)
        ):
            images[i], labels[i] = image, label
            if i % 20000 == 19999:
                print(f"{i + 1} glyphs, {time.time() - start:.0f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "images.npy", images)
    np.save(args.out / "labels.npy", labels)
    (args.out / "fonts.json").write_text(json.dumps([str(fonts[i]) for i in used], indent=1))
    print(f"{args.count} glyphs, sha256 {hashlib.sha256(images.tobytes()).hexdigest()}")


# --------------------------------------------------------------------------------------------------
# Network
# --------------------------------------------------------------------------------------------------

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:  # rendering does not need torch
    torch = None
    nn = None


if torch is not None:

    class Norm(nn.GroupNorm):
        """Group norm with 32 groups, always in float32."""

        def __init__(self, channels):
            super().__init__(32, channels)

        def forward(self, x):
            return super().forward(x.float()).to(x.dtype)

    def zeroed(layer):
        """Sets all parameters of the layer to zero, so that its branch initially adds nothing."""
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        return layer

    def timestep_embedding(t, width):
        """Sinusoids of t, cosines first."""
        half = width // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half).to(
            t.device
        )
        phase = t.float()[:, None] * freqs[None]
        return torch.cat([phase.cos(), phase.sin()], dim=-1)

    class ResBlock(nn.Module):
        def __init__(self, channels, out_channels, emb_channels):
            super().__init__()
            self.in_layers = nn.Sequential(
                Norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
            )
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels))
            self.out_layers = nn.Sequential(
                Norm(out_channels),
                nn.SiLU(),
                nn.Identity(),
                zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
            )
            same = channels == out_channels
            self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

        def forward(self, x, emb):
            h = self.in_layers(x)
            scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            return self.skip_connection(x) + self.out_layers[1:](h)

    class Attention(nn.Module):
        """Self-attention over all positions; queries, keys and values are grouped by head first."""

        def __init__(self, channels, heads):
            super().__init__()
            self.heads = heads
            self.norm = Norm(channels)
            self.qkv = nn.Conv1d(channels, 3 * channels, 1)
            self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

        def forward(self, x, emb):
            n, c, height, width = x.shape
            flat = x.reshape(n, c, height * width)
            qkv = self.qkv(self.norm(flat)).reshape(
                n, self.heads, 3, c // self.heads, height * width
            )
            q, k, v = (part.transpose(-1, -2) for part in qkv.unbind(2))
            h = (
                F.scaled_dot_product_attention(q, k, v)
                .transpose(-1, -2)
                .reshape(n, c, height * width)
            )
            return (flat + self.proj_out(h)).reshape(n, c, height, width)

    class Downsample(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

        def forward(self, x, emb):
            return self.op(x)

    class Upsample(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

        def forward(self, x, emb):
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))

    class Stem(nn.Conv2d):
        def forward(self, x, emb):
            return super().forward(x)

    class Block(nn.Sequential):
        def forward(self, x, emb):
            for layer in self:
                x = layer(x, emb)
            return x

    class UNet(nn.Module):
        """UNetModel of improved-diffusion with scale-shift norm, with the original's names."""

        def __init__(
            self,
            channels=32,
            mult=(1, 2, 2, 2),
            blocks=1,
            attention=(4,),
            heads=4,
            num_classes: int | None = NUM_CLASSES,
            out_channels=6,
        ):
            super().__init__()
            self.channels = channels
            emb = 4 * channels
            self.time_embed = nn.Sequential(
                nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb)
            )
            if num_classes is not None:
                self.label_emb = nn.Embedding(num_classes, emb)
            self.input_blocks = nn.ModuleList([Block(Stem(3, channels, 3, padding=1))])
            widths, ch, rate = [channels], channels, 1
            for level, m in enumerate(mult):
                for _ in range(blocks):
                    layers = [ResBlock(ch, m * channels, emb)]
                    ch = m * channels
                    if rate in attention:
                        layers.append(Attention(ch, heads))
                    self.input_blocks.append(Block(*layers))
                    widths.append(ch)
                if level + 1 < len(mult):
                    self.input_blocks.append(Block(Downsample(ch)))
                    widths.append(ch)
                    rate *= 2
            self.middle_block = Block(
                ResBlock(ch, ch, emb), Attention(ch, heads), ResBlock(ch, ch, emb)
            )
            self.output_blocks = nn.ModuleList()
            for level, m in reversed(list(enumerate(mult))):
                for i in range(blocks + 1):
                    layers = [ResBlock(ch + widths.pop(), m * channels, emb)]
                    ch = m * channels
                    if rate in attention:
                        layers.append(Attention(ch, heads))
                    if level > 0 and i == blocks:
                        layers.append(Upsample(ch))
                        rate //= 2
                    self.output_blocks.append(Block(*layers))
            self.out = nn.Sequential(
                Norm(ch), nn.SiLU(), zeroed(nn.Conv2d(ch, out_channels, 3, padding=1))
            )

        def forward(self, x, t, y=None):
            emb = self.time_embed(timestep_embedding(t, self.channels))
            if y is not None:
                emb = emb + self.label_emb(y)
            h, skips = x, []
            for block in self.input_blocks:
                h = block(h, emb)
                skips.append(h)
            h = self.middle_block(h, emb)
            for block in self.output_blocks:
                h = block(torch.cat([h, skips.pop()], dim=1), emb)
            with torch.autocast("cpu", enabled=False):
                return self.out(h.float())


def command_check(args):
    """Runs a class-free reference network (attention at 16x16 and 8x8) and compares its outputs."""
    from safetensors.torch import load_file

    net = UNet(attention=(2, 4), num_classes=None).eval()
    net.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
    case = load_file(args.reference)
    with torch.no_grad():
        for i in (0, 1):
            worst = (net(case["x"], case[f"timesteps_{i}"]) - case[f"out_{i}"]).abs().max().item()
            print(f"out_{i}: largest difference {worst:.2e}")
            if worst >= 1e-4:
                sys.exit("the network differs from the reference")
    print(f"parameters of the quickstart's model: {sum(p.numel() for p in UNet().parameters())}")


# --------------------------------------------------------------------------------------------------
# Diffusion
# --------------------------------------------------------------------------------------------------


class Schedule:
    """Cosine schedule of 1000 steps and the coefficients of the posterior.

    They are computed in float64 and stored as float32 tensors.
    """

    def __init__(self):
        def level(u):
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        n = DIFFUSION_STEPS
        betas = np.array([min(1 - level((i + 1) / n) / level(i / n), 0.999) for i in range(n)])
        bar = np.cumprod(1 - betas)
        before = np.append(1.0, bar[:-1])
        variance = betas * (1 - before) / (1 - bar)
        self.alpha_bar = bar
        tensor = lambda a: torch.tensor(a, dtype=torch.float32)  # noqa: E731
        self.signal, self.noise = tensor(np.sqrt(bar)), tensor(np.sqrt(1 - bar))
        self.snr = tensor(bar / (1 - bar))
        self.low = tensor(np.log(np.append(variance[1], variance[1:])))
        self.high = tensor(np.log(betas))
        self.from_start = tensor(betas * np.sqrt(before) / (1 - bar))
        self.from_noisy = tensor((1 - before) * np.sqrt(1 - betas) / (1 - bar))


def at(values, t):
    return values[t][:, None, None, None]


def variance_bound(schedule: Schedule, x0, x_t, t, predicted, fraction):
    """Variational bound of one step, in bits per value, for each image.

    The predicted mean gets no gradient.
    """
    target = at(schedule.from_start, t) * x0 + at(schedule.from_noisy, t) * x_t
    mean = at(schedule.from_start, t) * predicted.detach() + at(schedule.from_noisy, t) * x_t
    low, high = at(schedule.low, t), at(schedule.high, t)
    share = (fraction + 1) / 2
    log_var = share * high + (1 - share) * low
    kl = 0.5 * (
        log_var - low - 1 + torch.exp(low - log_var) + (target - mean) ** 2 * torch.exp(-log_var)
    )
    # At t = 0 the term is the likelihood of 8-bit values instead.
    deviation = torch.exp(-0.5 * log_var)
    cdf = lambda v: 0.5 * (1 + torch.erf(v / math.sqrt(2)))  # noqa: E731
    above = torch.where(x0 > 0.999, torch.ones_like(x0), cdf((x0 - mean + 1 / 255) * deviation))
    below = torch.where(x0 < -0.999, torch.zeros_like(x0), cdf((x0 - mean - 1 / 255) * deviation))
    likelihood = -torch.log((above - below).clamp(min=1e-12))
    return torch.where((t == 0)[:, None, None, None], likelihood, kl).mean((1, 2, 3)) / math.log(2)


def losses(net, schedule: Schedule, x0, labels, t, noise, bf16: bool):
    """Weighted error of the predicted image, error per image, and the capped variance term."""
    x_t = at(schedule.signal, t) * x0 + at(schedule.noise, t) * noise
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        out = net(x_t, t, labels)
    predicted, fraction = out.float().chunk(2, dim=1)
    error = ((predicted - x0) ** 2).mean((1, 2, 3))
    weight = schedule.snr[t].clamp(1.0, 5.0)
    bound = variance_bound(schedule, x0, x_t, t, predicted, fraction)
    # At first the bound is very large where the variance is small; a smooth cap keeps it from
    # dominating the gradient.
    return (
        (weight * error).mean(),
        error.detach(),
        (bound / (1 + bound.detach().clamp(min=0))).mean(),
    )


@torch.no_grad() if torch is not None else (lambda f: f)
def ddim(net, schedule: Schedule, noise, labels, steps: int):
    """Deterministic DDIM over "ddim<steps>".

    The steps have an even stride from 0, and the predicted image is clipped to [-1, 1].
    """
    stride = next(
        s for s in range(1, DIFFUSION_STEPS) if len(range(0, DIFFUSION_STEPS, s)) == steps
    )
    times = list(range(0, DIFFUSION_STEPS, stride))
    x = noise
    for i in reversed(range(steps)):
        t = torch.full((len(x),), times[i])
        start = net(x, t, labels)[:, :3].clamp(-1, 1)
        bar = schedule.alpha_bar[times[i]]
        previous = schedule.alpha_bar[times[i - 1]] if i else 1.0
        eps = (x - math.sqrt(bar) * start) / math.sqrt(1 - bar)
        x = math.sqrt(previous) * start + math.sqrt(1 - previous) * eps
    return x


def command_grid(args):
    from PIL import Image

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    net = UNet().eval()
    net.load_state_dict(torch.load(args.weights, map_location="cpu", weights_only=True))
    classes = [CHARACTERS.index(c) for c in args.characters]
    labels = torch.tensor(classes).repeat_interleave(args.columns)
    noise = torch.randn(len(labels), 3, IMAGE_SIZE, IMAGE_SIZE)
    images = ddim(net, Schedule(), noise, labels, args.ddim)
    pixels = (
        ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    )
    rows = pixels.reshape(len(classes), args.columns, IMAGE_SIZE, IMAGE_SIZE, 3)
    sheet = rows.transpose(0, 2, 1, 3, 4).reshape(
        len(classes) * IMAGE_SIZE, args.columns * IMAGE_SIZE, 3
    )
    Image.fromarray(sheet).save(args.out)


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------


class Data:
    def __init__(self, folder: Path):
        self.images = torch.from_numpy(np.load(folder / "images.npy"))
        self.labels = torch.from_numpy(np.load(folder / "labels.npy")).long()

    def batch(self, size, generator):
        index = torch.randint(len(self.images), (size,), generator=generator)
        gray = self.images[index].float()[:, None] / 127.5 - 1
        t = torch.randint(DIFFUSION_STEPS, (size,), generator=generator)
        noise = torch.randn(size, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        return gray.expand(-1, 3, -1, -1).contiguous(), self.labels[index], t, noise


def learning_rate(args, step):
    """Learning rate: short warm-up, constant, then linear to zero over the last `decay` steps."""
    return args.lr * min(1.0, (step + 1) / args.warmup, (args.steps - step) / max(args.decay, 1))


def write_atomically(path: Path, save):
    partial = path.with_name(path.name + ".part")
    save(partial)
    os.replace(partial, path)


def export(folder: Path, ema, name: str):
    """Writes the averaged weights as <name>.pt (the original's format) and <name>.safetensors."""
    from safetensors.torch import save_file

    plain = {k: v.detach().float().contiguous().clone() for k, v in ema.state_dict().items()}
    write_atomically(folder / f"{name}.pt", lambda p: torch.save(plain, p))
    write_atomically(folder / f"{name}.safetensors", lambda p: save_file(plain, p))


class Replicas:
    """Copies of the network, one per thread, that share each batch.

    The threads synchronize once per step instead of once per operation: as fast as threaded
    operations on an idle machine and several times faster on a busy one. The gradient is that of
    the whole batch.
    """

    def __init__(self, net, threads):
        torch.set_num_threads(1)
        self.nets = [net] + [copy.deepcopy(net) for _ in range(threads - 1)]
        self.parameters = [list(n.parameters()) for n in self.nets]
        self.pool = ThreadPoolExecutor(threads, initializer=self.start_thread)

    @staticmethod
    def start_thread():
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)

    def part(self, net, schedule, batch, args):
        for parameter in net.parameters():
            parameter.grad = None
        main, error, bound = losses(net, schedule, *batch, args.precision == "bf16")
        (main + args.bound_weight * bound).backward()
        return main.item(), error, bound.item()

    def gradients(self, schedule, batch, args):
        """Puts the mean gradient into the first network and returns the losses."""
        parts = zip(*(tensor.chunk(len(self.nets)) for tensor in batch))
        results = list(
            self.pool.map(lambda n, b: self.part(n, schedule, b, args), self.nets, parts)
        )
        total = [p.grad for p in self.parameters[0]]
        for others in self.parameters[1:]:
            torch._foreach_add_(total, [p.grad for p in others])
        torch._foreach_mul_(total, 1 / len(self.nets))
        main, error, bound = zip(*results)
        return float(np.mean(main)), torch.cat(error), float(np.mean(bound))

    @torch.no_grad() if torch is not None else (lambda f: f)
    def spread(self):
        """Copies the first network's weights to the others."""
        for others in self.parameters[1:]:
            torch._foreach_copy_(others, self.parameters[0])


def train_step(replicas, ema, optimizer, schedule, batch, step, args):
    main, error, bound = replicas.gradients(schedule, batch, args)
    weights = replicas.parameters[0]
    norm = nn.utils.clip_grad_norm_(weights, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(args, step)
    optimizer.step()
    replicas.spread()
    decay = min(args.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), weights, 1 - decay)
    return main, error, bound, float(norm)


def build(args):
    torch.manual_seed(args.seed)
    net = UNet()
    ema = copy.deepcopy(net).requires_grad_(False)
    if args.channels_last:
        net = net.to(memory_format=torch.channels_last)
        ema = ema.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01
    )
    return net, ema, optimizer


def command_train(args):
    if args.batch % args.threads:
        sys.exit("the batch must be a multiple of the threads")
    args.out.mkdir(parents=True, exist_ok=True)
    net, ema, optimizer = build(args)
    data, schedule = Data(args.data), Schedule()
    generator = torch.Generator().manual_seed(args.seed)
    state_file, first = args.out / "state.pt", 0
    if args.resume and state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        first = state["step"]
        print(f"resumed at step {first}", flush=True)
    replicas = Replicas(net, args.threads)
    sums, counts = np.zeros(5), np.zeros(5)
    totals, began = np.zeros(3), time.time()
    last = min(args.stop or args.steps, args.steps)
    for step in range(first, last):
        batch = data.batch(args.batch, generator)
        main, error, bound, norm = train_step(replicas, ema, optimizer, schedule, batch, step, args)
        if not math.isfinite(main):
            sys.exit(f"loss is not finite at step {step}")
        fifth = (batch[2] * 5 // DIFFUSION_STEPS).numpy()
        np.add.at(sums, fifth, error.numpy())
        np.add.at(counts, fifth, 1)
        totals += (main, bound, norm)
        done = step + 1
        if done % args.log_every == 0:
            taken = (time.time() - began) / args.log_every
            per_t = " ".join(f"{v:.4f}" for v in sums / np.maximum(counts, 1))
            main, bound, norm = totals / args.log_every
            print(
                f"step {done} loss {main:.4f} bound {bound:.3f} grad {norm:.2f} "
                f"mse by fifth of t: {per_t} "
                f"lr {learning_rate(args, step):.2e} {taken:.3f} s/step",
                flush=True,
            )
            sums[:], counts[:], totals[:], began = 0, 0, 0, time.time()
        if done % args.save_every == 0 or done == last:
            state = dict(
                net=net.state_dict(),
                ema=ema.state_dict(),
                optimizer=optimizer.state_dict(),
                generator=generator.get_state(),
                step=done,
            )
            write_atomically(state_file, lambda p: torch.save(state, p))
            export(args.out, ema, "ema")
    export(args.out, ema, "final")


def command_bench(args):
    data, schedule = Data(args.data), Schedule()
    for args.precision, args.channels_last in (
        ("fp32", False),
        ("fp32", True),
        ("bf16", False),
        ("bf16", True),
    ):
        net, ema, optimizer = build(args)
        replicas = Replicas(net, args.threads)
        generator = torch.Generator().manual_seed(args.seed)
        times = []
        for step in range(args.bench_steps):
            batch = data.batch(args.batch, generator)
            began = time.time()
            main, *_ = train_step(replicas, ema, optimizer, schedule, batch, step, args)
            times.append(time.time() - began)
        print(
            f"{args.precision} channels_last {args.channels_last}: "
            f"median {np.median(times):.3f} s/step, fastest {min(times):.3f}, loss {main:.4f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    glyphs = commands.add_parser("glyphs", help="render the training set")
    glyphs.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    glyphs.add_argument(
        "--out", type=Path, required=True, help="folder for images.npy and labels.npy"
    )
    glyphs.add_argument("--count", type=int, default=131072)
    glyphs.add_argument("--digit-share", type=float, default=0.6)
    glyphs.add_argument("--workers", type=int, default=2)
    glyphs.add_argument("--seed", type=int, default=1)
    glyphs.set_defaults(run=command_glyphs)

    for name, run in (("train", command_train), ("bench", command_bench)):
        train = commands.add_parser(name)
        train.add_argument("--data", type=Path, required=True, help="folder written by `glyphs`")
        train.add_argument("--steps", type=int, default=5000)
        train.add_argument(
            "--decay", type=int, default=1000, help="last steps, over which the rate falls to zero"
        )
        train.add_argument("--batch", type=int, default=64)
        train.add_argument("--lr", type=float, default=1e-3)
        train.add_argument("--warmup", type=int, default=100)
        train.add_argument("--ema", type=float, default=0.998)
        train.add_argument("--bound-weight", type=float, default=0.01)
        train.add_argument(
            "--threads", type=int, default=2, help="replicas that share a batch, one thread each"
        )
        train.add_argument("--seed", type=int, default=1)
        train.add_argument(
            "--precision",
            choices=("fp32", "bf16"),
            default="bf16",
            help="bf16: mixed precision; weights, norms, loss and last convolution stay float32",
        )
        train.add_argument("--channels-last", action="store_true")
        if name == "train":
            train.add_argument("--out", type=Path, required=True)
            train.add_argument(
                "--resume", action="store_true", help="go on from <out>/state.pt if there is one"
            )
            train.add_argument("--stop", type=int, help="stop at this step of the schedule")
            train.add_argument("--save-every", type=int, default=250)
            train.add_argument("--log-every", type=int, default=50)
        else:
            train.add_argument("--bench-steps", type=int, default=8)
        train.set_defaults(run=run)

    grid = commands.add_parser("grid", help="draw samples to a PNG")
    grid.add_argument("--weights", type=Path, required=True)
    grid.add_argument("--out", type=Path, required=True)
    grid.add_argument("--ddim", type=int, default=10)
    grid.add_argument("--characters", default="0123456789")
    grid.add_argument("--columns", type=int, default=20)
    grid.add_argument("--threads", type=int, default=1)
    grid.add_argument("--seed", type=int, default=0)
    grid.set_defaults(run=command_grid)

    check = commands.add_parser("check", help="compare the network with reference outputs")
    check.add_argument("--weights", type=Path, required=True)
    check.add_argument("--reference", type=Path, required=True)
    check.set_defaults(run=command_check)

    args = parser.parse_args()
    if args.command != "glyphs" and torch is None:
        sys.exit("this command needs torch")
    args.run(args)


if __name__ == "__main__":
    main()
