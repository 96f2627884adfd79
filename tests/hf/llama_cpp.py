#!/usr/bin/env python3
"""llama.cpp and ropewalk on the same GGUF files: the same tokens, logits and greedy text, beyond the original window.

  python3 tests/hf/llama_cpp.py --ropewalk build/cpu/bin/ropewalk [--work DIR] [--only NAME] [--model FOLDER]

Needs the package cyllama (a wheel with llama.cpp inside), gguf, transformers, torch and sentencepiece. For small models of every family
(gguf_models.py; or one model FOLDER) it writes a F32 file and
  - compares how the two cut the prompt into tokens;
  - lets both continue it greedily by 64 tokens, from a prompt longer than the window the model was made with, so that every one of them lies
    beyond it, and compares the texts and the logits of the whole sequence;
  - has llama.cpp write a Q8_0 and an F16 file (what llama-quantize calls) and reads both with ropewalk: the logits must be those of the files that
    ropewalk writes itself.
llama.cpp keeps keys and values in F32 here (its default is F16). Logits may differ by 1e-4 of the largest; by 1e-3 for the families with GELU,
which ggml takes from a table of F16 numbers. It ends with code 1 if anything differs.
"""
import argparse
import json
import os
import sys
import tempfile

import numpy as np
from cyllama.llama import llama_cpp as llama
from safetensors.numpy import load_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gguf_models import TEXT, WINDOW, build, run

NEW = 64
F32, F16, Q8_0 = 0, 1, 7  # llama_ftype


def remove(path):
    if os.path.exists(path):
        os.remove(path)
    return path


def ours(program, path, ids):
    run(program, "eval", "logits", "--model", path, "--ids", ",".join(map(str, ids)), "--out", "logits.safetensors")
    return load_file("logits.safetensors")["logits"]


class Model(llama.LlamaModel):
    """With the size of the vocabulary, which the context asks the model for."""

    @property
    def n_vocab(self):
        return self.get_vocab().n_vocab


class Llama:
    """A file in llama.cpp: tokens, and logits as it is fed."""

    def __init__(self, path, context):
        self.model = Model(path_model=path, params=llama.LlamaModelParams(), verbose=False)
        self.vocab = self.model.get_vocab()
        p = llama.LlamaContextParams()
        p.n_ctx = p.n_batch = p.n_ubatch = context
        p.n_threads = p.n_threads_batch = 1
        p.type_k = p.type_v = F32
        p.flash_attn_type = 0
        self.context = llama.LlamaContext(model=self.model, params=p, verbose=False)
        self.batch = llama.LlamaBatch(n_tokens=context, embd=0, n_seq_max=1)
        self.count, self.logits = 0, []

    def tokenize(self, text, special):
        return list(self.vocab.tokenize(text, special, False))

    def feed(self, ids):
        self.batch.clear() if hasattr(self.batch, "clear") else self.batch.reset()
        for i, token in enumerate(ids):
            self.batch.add(token, self.count + i, [0], True)
        self.context.decode(self.batch)
        self.logits += [np.array(self.context.get_logits_ith(i), dtype=np.float32) for i in range(len(ids))]
        self.count += len(ids)


def quantized(program, name, folder, path, ids):
    """Largest difference between the logits of llama.cpp's files and of ours, over the largest logit."""
    worst = 0.0
    for kind, number in (("q8_0", Q8_0), ("f16", F16)):
        theirs, own = remove(f"{name}-{kind}-llama.gguf"), remove(f"{name}-{kind}-own.gguf")
        parameters = llama.LlamaModelQuantizeParams()
        parameters.ftype, parameters.nthread, parameters.pure = number, 1, True
        llama.model_quantize(path, theirs, parameters)
        run(program, "convert", "gguf", "--model", folder, "--type", kind, "--out", own)
        a, b = ours(program, theirs, ids), ours(program, own, ids)
        worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


def compare(program, name, folder, window):
    path = remove(f"{name}.gguf")
    run(program, "convert", "gguf", "--model", folder, "--type", "f32", "--out", path)
    there = Llama(path, 3 * window)
    encoded = run(program, "tokenizer", "encode", "--tokenizer", path, "--text", TEXT).decode()
    same_tokens = there.tokenize(TEXT, False) == list(map(int, encoded.replace(",", " ").split()))
    text = TEXT
    while len(there.tokenize(text, True)) <= window + 8:  # the prompt alone fills the window
        text += TEXT
    prompt = there.tokenize(text, True)[: window + 8]
    there.feed(prompt)
    sequence = list(prompt)
    for _ in range(NEW):
        sequence.append(int(np.argmax(there.logits[-1])))
        there.feed(sequence[-1:])
    # ropewalk's choice after every token, from one pass over the sequence: the first that differs ends the agreement
    logits = ours(program, path, sequence)
    chosen = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    agree = next((i for i, (x, y) in enumerate(zip(chosen, sequence[len(prompt) :])) if x != y), NEW)
    difference = float(np.abs(logits - np.stack(there.logits)).max() / np.abs(logits).max())
    files = quantized(program, name, folder, path, sequence)
    gelu = any(part in name for part in ("gpt_neox", "gemma"))
    good = same_tokens and agree == NEW and difference < (1e-3 if gelu else 1e-4) and files < 1e-6
    print(f"{name:21s} tokens {'same' if same_tokens else 'DIFFER'}  prompt {len(prompt)}, greedy {agree} of {NEW} the same "
          f"({len(set(sequence[len(prompt):]))} different tokens)  logits {difference:.0e}  llama.cpp's Q8_0 and F16 files {files:.0e}  "
          f"{'ok' if good else 'NOT the same'}", flush=True)
    return good


ap = argparse.ArgumentParser()
ap.add_argument("--ropewalk", required=True)
ap.add_argument("--work", default="")
ap.add_argument("--only", default="")
ap.add_argument("--model", default="", help="a model folder instead of the small ones")
a = ap.parse_args()
program = os.path.abspath(a.ropewalk)
llama.disable_logging()
work = a.work or tempfile.mkdtemp()
if a.model:
    folder = os.path.abspath(a.model)
    os.makedirs(work, exist_ok=True)
    os.chdir(work)
    config = json.load(open(folder + "/config.json"))
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    window = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
    models = [(os.path.basename(folder.rstrip("/")), folder)]
else:
    models, window = build(program, work, a.only), WINDOW
results = [compare(program, name, folder, window) for name, folder in models]
print(f"{sum(results)} of {len(results)} models")
sys.exit(not all(results))
