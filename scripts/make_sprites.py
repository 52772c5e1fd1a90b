#!/usr/bin/env python3
"""Draws the parts of the cartoon faces in `examples/sprites`: one folder for each attribute, PNG
files of 64x64 pixels with alpha. They are drawn from ellipses, polygons and lines here, so the
faces are those of nobody.

Requires Python 3.10+ and Pillow. The files are the same for the same Pillow.

    make_sprites.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 64
SCALE = 8  # drawn larger and reduced, for smooth edges

BACKDROPS = {
    "blue": (160, 200, 235),
    "green": (175, 220, 180),
    "grey": (205, 205, 210),
    "pink": (240, 200, 210),
    "sand": (235, 222, 190),
}
CLOTHES = {
    "black": (45, 45, 50),
    "navy": (40, 60, 120),
    "olive": (110, 120, 60),
    "red": (180, 50, 50),
    "white": (240, 240, 240),
    "yellow": (225, 185, 60),
}
SKINS = {
    "brown": (150, 100, 65),
    "dark": (95, 62, 45),
    "light": (245, 212, 185),
    "tan": (215, 165, 125),
}
# Half the width of the face, its lower end, and half the width of the chin.
SHAPES = {
    "long": (14.0, 54.0, 6.0),
    "oval": (15.5, 52.0, 7.0),
    "round": (17.5, 51.0, 11.0),
    "square": (16.0, 51.0, 13.0),
}
HAIR = {"black": (35, 30, 30), "blond": (220, 185, 105), "brown": (105, 70, 40)}
IRIS = {"blue": (70, 120, 190), "brown": (95, 60, 30), "green": (80, 135, 80)}
DARK = (50, 35, 35)


class Part:
    """A picture that is drawn in units of pixels of the result."""

    def __init__(self):
        self.image = Image.new("RGBA", (SIZE * SCALE, SIZE * SCALE))
        self.draw = ImageDraw.Draw(self.image)

    @staticmethod
    def _points(values):
        return [value * SCALE for value in values]

    def ellipse(self, x, y, rx, ry, color):
        self.draw.ellipse(self._points((x - rx, y - ry, x + rx, y + ry)), fill=color)

    def box(self, left, top, right, bottom, color, radius=0.0):
        corners = self._points((left, top, right, bottom))
        self.draw.rounded_rectangle(corners, radius=radius * SCALE, fill=color)

    def polygon(self, points, color):
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=color)

    def line(self, points, color, width):
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill=color, width=round(width * SCALE), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, color)

    def arc(self, x, y, rx, ry, start, end, color, width):
        box = self._points((x - rx, y - ry, x + rx, y + ry))
        self.draw.arc(box, start, end, fill=color, width=round(width * SCALE))

    def ring(self, x, y, rx, ry, color, width):
        self.arc(x, y, rx, ry, 0, 360, color, width)

    def erase(self, x, y, rx, ry):
        self.ellipse(x, y, rx, ry, (0, 0, 0, 0))

    def result(self):
        return self.image.resize((SIZE, SIZE), Image.Resampling.BOX)


def backdrops():
    for name, color in BACKDROPS.items():
        part = Part()
        part.box(0, 0, SIZE, SIZE, color)
        yield name, part


def clothes():
    for name, color in CLOTHES.items():
        part = Part()
        part.ellipse(32, 69, 24, 15, color)
        part.polygon([(26, 54), (32, 62), (38, 54)], tuple(int(0.7 * c) for c in color))
        yield name, part


def faces():
    for tone, color in SKINS.items():
        shade = tuple(int(0.88 * c) for c in color)
        for shape, (half, bottom, chin) in SHAPES.items():
            part = Part()
            part.box(27, 46, 37, 60, shade, 3)
            for side in (-1, 1):
                part.ellipse(32 + side * half, 35, 3, 4.5, shade)
            part.ellipse(32, 32, half, 18, color)
            jaw = [(32 - half, 33), (32 + half, 33), (32 + chin, bottom - 2), (32 - chin, bottom - 2)]
            part.polygon(jaw, color)
            part.ellipse(32, bottom - 4, chin, 4, color)
            yield f"{shape}_{tone}", part


def eyes():
    for name, color in IRIS.items():
        for shape, height in (("narrow", 1.6), ("wide", 3.0)):
            part = Part()
            for x in (25.5, 38.5):
                part.ellipse(x, 33, 3.6, height, (250, 250, 250))
                part.ellipse(x, 33, min(2.0, height), min(2.0, height), color)
                part.ellipse(x, 33, 0.9, 0.9, (15, 15, 15))
            yield f"{shape}_{name}", part


def brows():
    shapes = {
        "arched": [(21.5, 28.5), (25.0, 26.3), (29.0, 28.0)],
        "flat": [(21.5, 27.5), (29.0, 27.5)],
        "frowning": [(21.5, 26.5), (29.0, 29.0)],
        "raised": [(21.5, 27.0), (25.5, 24.3), (29.0, 25.5)],
    }
    for name, points in shapes.items():
        part = Part()
        part.line(points, DARK, 1.4)
        part.line([(64 - x, y) for x, y in points], DARK, 1.4)
        yield name, part


def noses():
    shade = (120, 75, 60, 150)
    part = Part()
    part.ellipse(32, 38.5, 2.2, 1.6, shade)
    yield "button", part
    part = Part()
    part.line([(31.5, 34), (30, 40), (33, 40.5)], shade, 1.2)
    yield "pointed", part
    part = Part()
    for x in (30.3, 33.7):
        part.ellipse(x, 39.5, 1.0, 0.8, shade)
    yield "small", part
    part = Part()
    part.arc(32, 38, 3.4, 2.8, 10, 170, shade, 1.3)
    yield "wide", part


def mouths():
    lip, teeth = (170, 70, 75), (250, 250, 245)
    part = Part()
    part.line([(27.5, 45.5), (36.5, 45.5)], lip, 1.4)
    yield "flat", part
    part = Part()
    part.arc(32, 48.5, 5, 4, 200, 340, lip, 1.4)
    yield "frown", part
    part = Part()
    part.polygon([(26, 43.5), (38, 43.5), (35.5, 47.5), (32, 48.7), (28.5, 47.5)], lip)
    part.polygon([(27, 44), (37, 44), (36, 45.6), (28, 45.6)], teeth)
    yield "laugh", part
    part = Part()
    part.ellipse(32, 45.8, 2.4, 2.8, (110, 40, 45))
    yield "open", part
    part = Part()
    part.arc(32, 42.5, 6, 4, 20, 160, lip, 1.5)
    yield "smile", part


def hair():
    for name, color in HAIR.items():
        part = Part()
        part.ellipse(32, 22, 18.5, 14, color)
        part.box(13.5, 22, 18.5, 52, color, 2.5)
        part.box(45.5, 22, 50.5, 52, color, 2.5)
        part.erase(32, 35, 14, 12.5)
        yield f"long_{name}", part
        part = Part()
        part.ellipse(32, 21, 17.5, 10, color)
        part.erase(32, 35, 15, 11.5)
        yield f"short_{name}", part
        part = Part()
        for x, y in ((18, 24), (23, 17), (32, 14), (41, 17), (46, 24)):
            part.ellipse(x, y, 6.5, 6.5, color)
        part.erase(32, 35, 14, 13)
        yield f"curly_{name}", part
    part = Part()
    part.arc(32, 32, 17, 19, 200, 230, (255, 255, 255, 90), 1.2)
    yield "bald", part


def beards():
    for name, color in HAIR.items():
        part = Part()
        part.ellipse(32, 46.5, 12, 8, color)
        part.erase(32, 42, 7.5, 6)
        yield f"full_{name}", part
    part = Part()
    for side in (-1, 1):
        part.line([(32, 42.3), (32 + side * 5, 43.3)], DARK, 1.7)
    yield "moustache", part


def glasses():
    frame = (30, 30, 30)
    part = Part()
    for x in (25.5, 38.5):
        part.ring(x, 33, 5.2, 5.2, frame, 1.1)
    part.line([(30.5, 32.5), (33.5, 32.5)], frame, 1.1)
    yield "round", part
    part = Part()
    for x in (25.5, 38.5):
        part.box(x - 5.5, 29, x + 5.5, 37, (30, 30, 30, 215), 2)
    part.line([(30.5, 31), (33.5, 31)], frame, 1.3)
    yield "sun", part
    part = Part()
    for x in (25.5, 38.5):
        part.line([(x - 5, 30), (x + 5, 30), (x + 5, 36), (x - 5, 36), (x - 5, 30)], frame, 1.1)
    part.line([(30.5, 32), (33.5, 32)], frame, 1.1)
    yield "square", part


ATTRIBUTES = {
    "backdrop": backdrops,
    "beard": beards,
    "brows": brows,
    "clothes": clothes,
    "eyes": eyes,
    "face": faces,
    "glasses": glasses,
    "hair": hair,
    "mouth": mouths,
    "nose": noses,
}


def main():
    repository = Path(__file__).resolve().parent.parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else repository / "examples" / "sprites"
    count, size = 0, 0
    for attribute, parts in ATTRIBUTES.items():
        (folder / attribute).mkdir(parents=True, exist_ok=True)
        for name, part in parts():
            path = folder / attribute / f"{name}.png"
            part.result().save(path, optimize=True)
            count, size = count + 1, size + path.stat().st_size
    print(f"{count} parts, {size} bytes")


if __name__ == "__main__":
    main()
