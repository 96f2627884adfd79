#!/usr/bin/env python3
"""Ropewalk's model folders against Hugging Face transformers, in both directions, for every rope kind that HF knows.

    python tests/hf/hf_roundtrip.py --ropewalk build/cpu/bin/ropewalk --work out/hf [--device cpu]

Needs PyTorch, transformers and safetensors; no network. Prints a markdown table and ends with code 1 if a row fails.
A row passes if the largest difference of two logits is at most 1e-4 times the larger of 1 and the largest logit, both
programs computing in f32. Directions:

  written by ropewalk   a tiny model, trained for a step, given a rope recipe and rewritten by `ropewalk convert hf`, in
                        one file or in shards of 1 MiB; HF loads the folder
  written by HF         a random LlamaForCausalLM, saved with save_pretrained, sharded; ropewalk loads the folder
"""
import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys

import torch
import transformers
from safetensors.torch import load_file

WINDOW, TARGET, HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 32, 128, 128, 4, 4, 2, 352
PAIRS = HIDDEN // HEADS // 2
LIMIT = 1e-4

# kind -> (rope_scaling of config.json, max_position_embeddings)
KINDS = {
    "default": (None, WINDOW),
    "linear": ({"rope_type": "linear", "factor": 4.0}, TARGET),
    "dynamic": ({"rope_type": "dynamic", "factor": 4.0}, WINDOW),
    "yarn": ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}, TARGET),
    "yarn, truncate off": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW, "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False},
        TARGET,
    ),
    "llama3": (
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": WINDOW},
        TARGET,
    ),
    "longrope": (
        {
            "rope_type": "longrope",
            "short_factor": [1.0 + 0.02 * i for i in range(PAIRS)],
            "long_factor": [1.0 + 0.4 * i for i in range(PAIRS)],
            "original_max_position_embeddings": WINDOW,
        },
        TARGET,
    ),
}


class Ropewalk:
    """The program, and what it answers."""

    def __init__(self, program, device):
        self.program, self.device = program, device

    def run(self, *words, code=0):
        command = [str(self.program), "--quiet", "--device", self.device, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != code:
            sys.exit(f"{' '.join(command)}\nended with {done.returncode}, expected {code}:\n{done.stderr}")
        return done.stdout + done.stderr

    def logits(self, folder, ids, out):
        self.run("eval", "logits", "--model", folder, "--tokens", ",".join(map(str, ids)), "--out", out)
        return load_file(out)["logits"]  # f32 [T,V]


def hf_logits(folder, ids):
    """HF's logits of a folder, computed in f32 whatever the weights are stored in."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def text_file(path):
    path.write_text("".join(f"Line {i * 37 % 101} of the little story.\n" for i in range(400)))
    return path


def set_rope(folder, scaling, window):
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"], config["max_position_embeddings"] = scaling, window
    (folder / "config.json").write_text(json.dumps(config))


def compare(ours, theirs):
    difference = (ours.double() - theirs.double()).abs().max().item()
    largest = theirs.abs().max().item()
    return difference, largest, difference <= LIMIT * max(1.0, largest)


def lengths_of(kind):
    """Within the window of pre-training, at it, and beyond: kinds that depend on the length change there."""
    return [5, WINDOW, WINDOW + 1, TARGET]


def written_by_ropewalk(rw, work, rows):
    text = text_file(work / "text.txt")
    bases = {}
    for untied in (False, True):
        base = work / ("base-untied" if untied else "base")
        rw.run("train", "--data", text, "--out", base, "--hidden", HIDDEN, "--layers", LAYERS, "--heads", HEADS, "--kv-heads", KV_HEADS,
               "--ffn", FFN, "--window", WINDOW, "--batch", 2, "--steps", 1, "--init-std", 0.1, *(["--untied"] if untied else []))
        bases[untied] = base
    for number, (kind, (scaling, window)) in enumerate(KINDS.items()):
        for sharded in (False, True):
            untied = (number + sharded) % 2 == 1
            raw = work / "raw"
            shutil.rmtree(raw, ignore_errors=True)
            shutil.copytree(bases[untied], raw)
            set_rope(raw, scaling, window)
            folder = work / f"ours-{number}-{'sharded' if sharded else 'single'}"
            rw.run("convert", "hf", raw, "--out", folder, *(["--shard-mb", 1] if sharded else []))
            shards = len(list(folder.glob("*.safetensors")))
            assert (shards > 1) == sharded, f"{folder}: {shards} weight files"
            rows.extend(measure(rw, work, folder, f"ropewalk, {shards} file{'s' if shards > 1 else ''}, {'untied' if untied else 'tied'}", kind))
    # What our tokenizer writes loads in HF's library and gives the same ids.
    words = "Call me Ishmael. It was a dark & stormy night; 1234 caf\u00e9s"
    theirs = transformers.AutoTokenizer.from_pretrained(bases[False]).encode(words, add_special_tokens=False)
    ours = list(map(int, rw.run("tokenizer", "encode", "--tokenizer", bases[False], "--text", words).split()))
    rows.append(("ropewalk", "tokenizer", len(ours), "ids", "" if ours == theirs else f"{ours} != {theirs}", ours == theirs))


def written_by_hf(rw, work, rows):
    cases = [(kind, torch.float32, number % 2 == 0) for number, kind in enumerate(KINDS)]
    cases += [("default", torch.bfloat16, False), ("llama3", torch.float16, True)]
    for number, (kind, dtype, tied) in enumerate(cases):
        scaling, window = KINDS[kind]
        torch.manual_seed(number)
        extra = {"original_max_position_embeddings": WINDOW} if kind == "longrope" else {}
        config = transformers.LlamaConfig(
            vocab_size=300, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS, max_position_embeddings=window, rope_theta=10000.0, rope_scaling=scaling,
            tie_word_embeddings=tied, initializer_range=0.1, **extra)
        folder = work / f"theirs-{number}"
        transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size="1MB")
        shards = len(list(folder.glob("*.safetensors")))
        rows.extend(measure(rw, work, folder, f"HF, {shards} files, {str(dtype).split('.')[1]}, {'tied' if tied else 'untied'}", kind))
    # Biases are refused by name, never dropped silently.
    config = transformers.LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                      attention_bias=True)
    folder = work / "theirs-bias"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    message = rw.run("eval", "logits", "--model", folder, "--tokens", "1", "--out", work / "x.safetensors", code=2)
    rows.append(("HF", "attention_bias", 1, "refused", "", "attention_bias" in message))


def measure(rw, work, folder, written, kind):
    draw = random.Random(7)
    for length in lengths_of(kind):
        ids = [draw.randrange(258) for _ in range(length)]
        difference, largest, ok = compare(rw.logits(folder, ids, work / "logits.safetensors"), hf_logits(folder, ids))
        yield written, kind, length, f"{difference:.1e}", f"{largest:.1f}", ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ropewalk", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="a folder for the models; it is emptied")
    parser.add_argument("--device", default="cpu", help="where ropewalk computes: cpu (default) or cuda, whose f32 may be TF32")
    o = parser.parse_args()
    shutil.rmtree(o.work, ignore_errors=True)
    o.work.mkdir(parents=True)
    transformers.utils.logging.set_verbosity_error()
    rw = Ropewalk(o.ropewalk.resolve(), o.device)
    rows = []
    written_by_ropewalk(rw, o.work, rows)
    written_by_hf(rw, o.work, rows)
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}, {rw.run('--version').strip()}, device {o.device}\n")
    print("| written by | rope kind | tokens | largest difference | largest logit | within 1e-4 |")
    print("|---|---|---:|---:|---:|---|")
    for written, kind, length, difference, largest, ok in rows:
        print(f"| {written} | {kind} | {length} | {difference} | {largest} | {'yes' if ok else 'NO'} |")
    failed = sum(not row[-1] for row in rows)
    print(f"\n{len(rows) - failed} of {len(rows)} rows pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
