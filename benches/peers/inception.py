"""FID's Inception in PyTorch, as it is usually run: convolution, batch norm and ReLU one after another.

Only shapes matter here; the weights are random.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Conv(nn.Sequential):
    """A convolution that keeps the size unless it is unpadded or halves, its batch norm, ReLU."""

    def __init__(self, channels, out, kernel=1, stride=1, padded=True):
        rows, columns = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (rows // 2, columns // 2) if padded else 0
        super().__init__(
            nn.Conv2d(channels, out, (rows, columns), stride, padding, bias=False),
            nn.BatchNorm2d(out, eps=1e-3), nn.ReLU(inplace=True))


def chain(channels, *steps):
    layers = []
    for out, kernel, *options in steps:
        layers.append(Conv(channels, out, kernel, *options))
        channels = out
    return nn.Sequential(*layers)


HALVING = (2, False)
ROW, COLUMN = (1, 7), (7, 1)


class Mixed(nn.Module):
    """Branches joined along the channels; a branch is a module, and the last begins with a pool."""

    def __init__(self, pool, *branches):
        super().__init__()
        self.pool = pool
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        pooled = {
            "average": lambda: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
            "max": lambda: F.max_pool2d(x, 3, 1, 1),
            "halving": lambda: F.max_pool2d(x, 3, 2),
        }[self.pool]()
        return torch.cat([branch(x) for branch in self.branches[:-1]] + [self.branches[-1](pooled)], 1)


class Fan(nn.Module):
    """A chain whose result goes through two convolutions side by side."""

    def __init__(self, before):
        super().__init__()
        self.before = before
        self.wide, self.tall = Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))

    def forward(self, x):
        x = self.before(x)
        return torch.cat([self.wide(x), self.tall(x)], 1)


def mixed_a(channels, pool):
    return Mixed("average", Conv(channels, 64), chain(channels, (48, 1), (64, 5)),
                 chain(channels, (64, 1), (96, 3), (96, 3)), Conv(channels, pool))


def mixed_b():
    return Mixed("halving", Conv(288, 384, 3, *HALVING),
                 chain(288, (64, 1), (96, 3), (96, 3, *HALVING)), nn.Identity())


def mixed_c(middle):
    return Mixed("average", Conv(768, 192), chain(768, (middle, 1), (middle, ROW), (192, COLUMN)),
                 chain(768, (middle, 1), (middle, COLUMN), (middle, ROW), (middle, COLUMN), (192, ROW)),
                 Conv(768, 192))


def mixed_d():
    return Mixed("halving", chain(768, (192, 1), (320, 3, *HALVING)),
                 chain(768, (192, 1), (192, ROW), (192, COLUMN), (192, 3, *HALVING)), nn.Identity())


def mixed_e(channels, pool):
    return Mixed(pool, Conv(channels, 320), Fan(chain(channels, (384, 1))),
                 Fan(chain(channels, (448, 1), (384, 3))), Conv(channels, 192))


def inception():
    """`[n, 3, 299, 299]` to `[n, 2048]`."""
    return nn.Sequential(
        Conv(3, 32, 3, *HALVING), Conv(32, 32, 3, 1, False), Conv(32, 64, 3), nn.MaxPool2d(3, 2),
        Conv(64, 80), Conv(80, 192, 3, 1, False), nn.MaxPool2d(3, 2),
        mixed_a(192, 32), mixed_a(256, 64), mixed_a(288, 64), mixed_b(),
        mixed_c(128), mixed_c(160), mixed_c(160), mixed_c(192), mixed_d(),
        mixed_e(1280, "average"), mixed_e(2048, "max"),
        nn.AdaptiveAvgPool2d(1), nn.Flatten())
