#!/usr/bin/env python3
"""GGUF files of every family, read by the `gguf` package: keys, tokens, and every tensor against the model folder.

  python3 tests/hf/gguf_package.py --ropewalk build/cpu/bin/ropewalk [--work DIR] [--only NAME]

Needs gguf, torch, transformers and sentencepiece. For each model and each --type it reads the file with gguf.GGUFReader, dequantises with
gguf.quants, and reads the file back with ropewalk; F32 must come back as the folder's weights, bit for bit (Gemma's norms within 1e-6:
files hold them with 1 added). Q8_0 must be what gguf.quants.quantize makes of the F32 file. It ends with code 1 otherwise.
"""
import argparse
import os
import shutil
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.numpy import load_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf_models import build, run


def largest(a, b):
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) if a.size else 0.0


def check(program, name, folder):
    readers = {}
    for kind in ("f32", "f16", "bf16", "q8_0"):
        path = f"{name}-{kind}.gguf"
        if os.path.exists(path):
            os.remove(path)
        run(program, "convert", "gguf", "--model", folder, "--type", kind, "--out", path)
        readers[kind] = GGUFReader(path)
    values = {t.name: quants.dequantize(t.data, t.tensor_type) for t in readers["f32"].tensors}
    wrong = []
    for t in readers["q8_0"].tensors:
        if t.tensor_type == GGMLQuantizationType.Q8_0:
            exact = quants.quantize(values[t.name].astype(np.float32), GGMLQuantizationType.Q8_0)
            if not np.array_equal(exact, t.data):
                wrong.append("q8_0 " + t.name)
    for kind, limit in (("f16", 2**-11), ("bf16", 2**-8)):
        for t in readers[kind].tensors:
            got, want = quants.dequantize(t.data, t.tensor_type).astype(np.float32), values[t.name].astype(np.float32)
            if (np.abs(got - want) > limit * np.abs(want) + 1e-7).any():
                wrong.append(f"{kind} {t.name}")
    shutil.rmtree(name + "-back", ignore_errors=True)
    run(program, "convert", "gguf", "--model", f"{name}-f32.gguf", "--out", name + "-back")
    before, after = load_file(folder + "/model.safetensors"), load_file(name + "-back/model.safetensors")
    for tensor, value in before.items():
        if tensor not in after and "lm_head" in tensor:
            continue
        limit = 1e-6 if name.startswith("gemma") and "norm" in tensor else 0.0
        if largest(value, after[tensor]) > limit:
            wrong.append("back " + tensor)
    field = readers["f32"].fields
    text = lambda key: bytes(field[key].parts[-1]).decode() if key in field else "-"
    arch = text("general.architecture")
    scaling = text(f"{arch}.rope.scaling.type")
    factors = [n for n in values if n.startswith("rope_f")]
    print(f"{name:22s} {arch:8s} {len(values):3d} tensors, {len(field):2d} keys  tokenizer {text('tokenizer.ggml.model'):5s} "
          f"rope {scaling if scaling != '-' else ' '.join(factors) or 'base'}  {'; '.join(wrong) or 'ok'}", flush=True)
    return not wrong


ap = argparse.ArgumentParser()
ap.add_argument("--ropewalk", required=True)
ap.add_argument("--work", default="")
ap.add_argument("--only", default="")
a = ap.parse_args()
program = os.path.abspath(a.ropewalk)
results = [check(program, *m) for m in build(program, a.work or tempfile.mkdtemp(), a.only)]
print(f"{sum(results)} of {len(results)} models")
sys.exit(not all(results))
