#!/usr/bin/env python3
"""Writes the cases dinov2*.{json,safetensors} of tests/goldens from Meta's own code.

The weights and the inputs come from the integer formula that the tests evaluate as well, so that the files hold
results only. Meta's code is the reference; transformers is evaluated on the same weights under its own names, and the
json says how far it is from Meta's where the two mean the same function. Needs torch, transformers, safetensors, numpy,
pillow, and a checkout of facebookresearch/dinov2 (written with b8931f7 and torch 2.15, transformers 5.24, Pillow 13):

    python scripts/make_dinov2_golden.py --dinov2 PATH/TO/dinov2 [--out tests/goldens]
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["XFORMERS_DISABLED"] = "1"

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

PATCH = 14
SIZE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Inputs are tensors of the formula, far beyond the indices of any table of weights.
FIRST_INPUT = 60000

# name: (hidden_size, depth, grid of the positions, SwiGLU, registers, input sizes with their numbers of images)
NETWORKS = {
    "dinov2_mlp": (128, 2, 5, False, 0, {70: 1, 42: 2, 98: 1}),
    "dinov2_mlp_registers": (128, 2, 5, False, 4, {70: 1, 42: 2, 98: 1}),
    "dinov2_swiglu": (128, 2, 5, True, 0, {42: 2}),
    "dinov2_swiglu_registers": (128, 2, 5, True, 4, {42: 2}),
}


def unit(seed, idx, count):
    """Elements 0, 1, … of tensor `idx`: multiples of 2^-23 in [-1, 1), as tests/golden_checks/weights.rs has them."""
    with np.errstate(over="ignore"):
        z = np.uint64((seed << 48) | (idx << 32)) + np.arange(count, dtype=np.uint64)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 8388608.0 - 1.0


def kind_of(name, shape):
    if name.endswith("gamma"):
        return "v"
    if name in ("cls_token", "pos_embed", "register_tokens", "mask_token"):
        return "u"
    if len(shape) > 1:
        return "w"
    return "n" if name.endswith("weight") else "b"


def value(seed, idx, shape, kind):
    count = int(np.prod(shape))
    fan_in = int(np.prod(shape[1:]))
    center, width = {
        "w": (0.0, np.sqrt(3.0 / fan_in)),
        "n": (1.0, 0.1),
        "b": (0.0, 0.1),
        "v": (1.0, 0.5),
        "u": (0.0, 1.0),
    }[kind]
    values = (center + unit(seed, idx, count) * width).astype(np.float32)
    return torch.from_numpy(values.reshape(shape))


def meta_model(vits, hidden, depth, grid, swiglu, registers):
    return vits.DinoVisionTransformer(
        img_size=grid * PATCH,
        patch_size=PATCH,
        embed_dim=hidden,
        depth=depth,
        num_heads=hidden // 64,
        mlp_ratio=4,
        init_values=1.0,
        ffn_layer="swiglufused" if swiglu else "mlp",
        block_chunks=0,
        num_register_tokens=registers,
        interpolate_antialias=registers > 0,
        interpolate_offset=0.0 if registers else 0.1,
    ).eval()


def hugging_face_model(weights, hidden, depth, grid, swiglu, registers):
    options = dict(
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=hidden // 64,
        mlp_ratio=4,
        use_swiglu_ffn=swiglu,
        image_size=grid * PATCH,
        patch_size=PATCH,
    )
    if registers:
        config = Dinov2WithRegistersConfig(num_register_tokens=registers, **options)
        model = Dinov2WithRegistersModel(config)
    else:
        model = Dinov2Model(Dinov2Config(**options))
    # By a folder as on the hub: transformers 5 renames the published names when it reads them.
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        save_file(hugging_face_names(weights), Path(folder) / "model.safetensors")
        model, info = type(model).from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            print(f"WARNING: transformers, {problem}: {info[problem]}")
    return model.eval()


def hugging_face_names(weights):
    renamed = {}
    for name, tensor in weights.items():
        if ".attn.qkv." in name:
            block, kind = name.split(".attn.qkv.")
            block = block.replace("blocks.", "encoder.layer.")
            for part, third in zip(("query", "key", "value"), tensor.chunk(3)):
                renamed[f"{block}.attention.attention.{part}.{kind}"] = third.clone()
            continue
        for old, new in (
            ("cls_token", "embeddings.cls_token"),
            ("mask_token", "embeddings.mask_token"),
            ("register_tokens", "embeddings.register_tokens"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("mlp.w12", "mlp.weights_in"),
            ("mlp.w3", "mlp.weights_out"),
        ):
            name = name.replace(old, new)
        if name.startswith("norm."):
            name = name.replace("norm.", "layernorm.")
        renamed[name] = tensor.clone()
    return renamed


@torch.no_grad()
def evaluate(model, x):
    """The class token after the final norm, and the hidden states of the first image."""
    states = []
    hooks = [block.register_forward_hook(lambda _, __, out: states.append(out)) for block in model.blocks]
    first = [None]
    hooks.append(model.blocks[0].register_forward_pre_hook(lambda _, args: first.__setitem__(0, args[0])))
    out = model.forward_features(x)["x_norm_clstoken"]
    for hook in hooks:
        hook.remove()
    return out, [state[:1] for state in [first[0], *states]]


def discrepancy(single, double):
    off = (single.double() - double).abs().max().item()
    largest = double.abs().max().item()
    return {
        "max_abs": float(f"{off:.3e}"),
        "ref_abs_max": float(f"{largest:.4g}"),
        "suggest_abs_tol": float(f"{max(10 * off, 2e-6 * largest):.2g}"),
    }


def load(vits, seed, shape_of):
    model = meta_model(vits, *shape_of)
    table = sorted((name, list(tensor.shape)) for name, tensor in model.state_dict().items())
    table = [[name, shape, kind_of(name, shape)] for name, shape in table]
    weights = {row[0]: value(seed, idx, row[1], row[2]) for idx, row in enumerate(table)}
    model.load_state_dict(weights, strict=True)
    return model, table, weights


def config_of(hidden, depth, grid, swiglu, registers):
    return {
        "hidden_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": hidden // 64,
        "mlp_ratio": 4,
        "use_swiglu_ffn": swiglu,
        "image_size": grid * PATCH,
        "patch_size": PATCH,
        "num_register_tokens": registers,
        "layer_norm_eps": 1e-6,
    }


def write(out, name, what, seed, config, table, tensors, measured, more):
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, out / f"{name}.safetensors")
    content = {
        "case": name,
        "what": what,
        "config": config,
        "weights": {"kind": "formula", "seed": seed, "gain": 1.0},
        **more,
        "float32_vs_float64": measured,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in content.items()]
    rows = ",\n".join(f"    {json.dumps(row)}" for row in table)
    lines.append(f'  "state_dict": [\n{rows}\n  ]')
    shapes = ",\n".join(
        f"    {json.dumps(key)}: {json.dumps([str(t.dtype).removeprefix('torch.'), list(t.shape)])}"
        for key, t in tensors.items()
    )
    lines.append(f'  "tensors": {{\n{shapes}\n  }}')
    (out / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def network(vits, out, name, seed, shape_of, sizes):
    model, table, weights = load(vits, seed, shape_of)
    other = hugging_face_model(weights, *shape_of)
    tensors, measured, inputs, apart = {}, {}, {}, {}
    for number, (size, count) in enumerate(sizes.items()):
        shape = [count, 3, size, size]
        inputs[str(size)] = {"idx": FIRST_INPUT + number, "shape": shape}
        x = value(seed, FIRST_INPUT + number, shape, "u") * 2
        result, states = evaluate(model.float(), x)
        exact, _ = evaluate(model.double(), x.double())
        key = f"x_norm_clstoken_{size}"
        tensors[key] = result
        measured[key] = discrepancy(result, exact)
        if size == 42:
            tensors |= {f"hidden_states.{index}": state for index, state in enumerate(states)}
        with torch.no_grad():
            hugging_face = other(x).last_hidden_state[:, 0]
        apart[str(size)] = (hugging_face - result).abs().max().item()
    _, _, grid, _, registers = shape_of
    for size, off in apart.items():
        same = registers or int(size) == grid * PATCH
        print(f"{name} {size}: transformers differs by {off:.1e}, expected {'rounding' if same else 'more'}")
    write(
        out,
        name,
        "facebookresearch/dinov2 DinoVisionTransformer; x_norm_clstoken_<size> for square inputs of so many pixels; "
        "hidden_states.0 = after prepare_tokens_with_masks (first image of size 42 only), hidden_states.k = after block "
        "k; inputs are 2 u of the formula; transformers has no interpolate_offset and differs without registers at "
        "any but the native size",
        seed,
        config_of(*shape_of),
        table,
        tensors,
        measured,
        {"inputs": inputs, "transformers_max_abs_difference": apart},
    )


def preprocess(vits, out, name, seed):
    """An image through the default transform of layer6ai-labs/dgm-eval and positions of 37 × 37 at 16 × 16."""
    shape_of = (64, 1, 37, False, 0)
    model, table, _ = load(vits, seed, shape_of)
    height, width = 37, 53
    levels = (unit(seed, FIRST_INPUT, height * width * 3) * 128 + 128).astype(np.uint8)
    image = levels.reshape(height, width, 3)
    # T.Resize((224, 224), BICUBIC) of a PIL image is this call.
    resized = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.BICUBIC))
    x = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    x = ((x - mean) / std)[None]
    result, _ = evaluate(model.float(), x)
    exact, _ = evaluate(model.double(), x.double())
    tensors = {
        "image": torch.from_numpy(image.copy())[None],
        "resized_row_111_uint8": torch.from_numpy(resized[111].copy()),
        "normalized_row_111": x[0, :, 111].clone(),
        "x_norm_clstoken": result,
    }
    write(
        out,
        name,
        "dgm-eval's default transform (T.Resize((224, 224), BICUBIC) of a PIL image, ToTensor, Normalize) of `image`, then "
        "DinoVisionTransformer with positions of 37 x 37",
        seed,
        config_of(*shape_of),
        table,
        tensors,
        {"x_norm_clstoken": discrepancy(result, exact)},
        {},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dinov2", type=Path, required=True, help="checkout of facebookresearch/dinov2")
    parser.add_argument("--out", type=Path, default=Path("tests/goldens"))
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.dinov2))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from dinov2.models import vision_transformer as vits

    arguments.out.mkdir(parents=True, exist_ok=True)
    for number, (name, (*shape_of, sizes)) in enumerate(NETWORKS.items()):
        network(vits, arguments.out, name, 1301 + number, tuple(shape_of), sizes)
    preprocess(vits, arguments.out, "dinov2_preprocess", 1311)


if __name__ == "__main__":
    main()
