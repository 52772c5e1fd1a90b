"""A program that dpsyn can use as its generator: colored shapes, with Python's standard library only.

The messages are described in docs/program-protocol.md. Try it by hand:
    python3 examples/generator.py < requests.jsonl
"""
import base64
import json
import random
import struct
import sys
import zlib

SHAPES = ("disc", "square", "diamond")


def draw(p, height, width):
    """Returns the pixels of one shape on a plain background, in rows of RGB."""
    rows = []
    for y in range(height):
        row = bytearray()
        for x in range(width):
            dx, dy = abs((x + 0.5) / width - p["x"]), abs((y + 0.5) / height - p["y"])
            distance = {"disc": (dx * dx + dy * dy) ** 0.5, "square": max(dx, dy),
                        "diamond": dx + dy}[p["shape"]]
            row += bytes(p["color"] if distance <= p["size"] else p["background"])
        rows.append(bytes(row))
    return rows


def png(rows, width):
    """Encodes rows of RGB as a PNG file."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def new(rng, shape):
    """Chooses random parameters; the class, if there is one, is the name of the shape."""
    return {"shape": shape or rng.choice(SHAPES), "x": rng.random(), "y": rng.random(),
            "size": rng.uniform(0.1, 0.5), "color": [rng.randrange(256) for _ in range(3)],
            "background": [rng.randrange(256) for _ in range(3)]}


def vary(rng, p, degree, shape):
    """Moves every parameter; the degree, from 0 to 1, says how far, and how likely the shape changes."""
    def move(value, low, high):
        return min(max(value + degree * (high - low) * rng.gauss(0, 0.5), low), high)
    other = shape or (rng.choice(SHAPES) if rng.random() < degree else p["shape"])
    return {"shape": other, "x": move(p["x"], 0, 1), "y": move(p["y"], 0, 1),
            "size": move(p["size"], 0.1, 0.5),
            "color": [round(move(level, 0, 255)) for level in p["color"]],
            "background": [round(move(level, 0, 255)) for level in p["background"]]}


height, width = json.loads(sys.stdin.readline())["image_size"]
print(json.dumps({"type": "hello", "version": 1, "degrees": [0, 1]}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    rng = random.Random(request["seed"])  # all randomness of the answer
    parameters = request.get("parameters")  # of the parent; null if another generator made it
    if parameters is None:
        parameters = new(rng, request["class"])
    else:
        parameters = vary(rng, parameters, request["degree"], request["class"])
    picture = base64.b64encode(png(draw(parameters, height, width), width)).decode()
    answer = {"type": "image", "id": request["id"], "parameters": parameters, "png": picture}
    print(json.dumps(answer), flush=request["remaining"] == 0)
