#!/usr/bin/env python3
"""Adapters between Ropewalk and PEFT: the same logits whichever wrote them and whichever reads them.

  python tests/hf/peft_logits.py --ropewalk build/bin/ropewalk

Makes a tiny base, trains adapters beside it with `ropewalk train --lora-rank`, loads them with PEFT, and the other way
round. Prints, for each pair, the largest difference of the logits over the largest logit. Needs torch, transformers, peft.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

IDS = [72, 101, 32, 119, 97, 115, 32, 97, 32, 111, 108, 100, 32, 109, 97, 110]


def run(program, *arguments):
    result = subprocess.run([program, *arguments, "--device", "cpu", "--threads", "1", "--quiet"],
                            capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(arguments)}\n{result.stderr}")


def ours(program, folder, model, adapter=None):
    out = os.path.join(folder, "logits.safetensors")
    more = ["--adapter", adapter] if adapter else []
    run(program, "eval", "logits", "--model", model, *more, "--ids", ",".join(map(str, IDS)), "--out", out)
    return load_file(out)["logits"]


def base_of(base, adapter=None):
    """The base in transformers, under the RoPE recipe that the adapter was trained with."""
    path = os.path.join(adapter, "model_config.json") if adapter else ""
    config = LlamaConfig.from_json_file(path) if path and os.path.exists(path) else None
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **({"config": config} if config else {}))


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


def difference(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ropewalk", default="build/bin/ropewalk")
    program = parser.parse_args().ropewalk
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "base")
        run(program, "train", "--data", "demo", "--hidden", "32", "--layers", "2", "--heads", "4", "--kv-heads", "2",
            "--ffn", "64", "--window", "64", "--steps", "20", "--batch", "4", "--out", base)
        plain = logits(base_of(base))
        train = ["train", "--data", "demo", "--from", base, "--steps", "20", "--batch", "4", "--lr", "0.01"]
        arms = {
            "all linear layers, PI to 128": ["--method", "pi", "--target", "128", "--lora-rank", "4"],
            "q and v, rsLoRA, dropout": ["--lora-rank", "8", "--lora-targets", "q_proj,v_proj", "--lora-rslora",
                                         "--lora-dropout", "0.1"],
            "with norms and embeddings": ["--lora-rank", "4", "--lora-norms", "--lora-embeddings"],
        }
        for i, (name, options) in enumerate(arms.items()):
            adapter = os.path.join(folder, f"ours{i}")
            run(program, *train, *options, "--out", adapter)
            theirs = logits(PeftModel.from_pretrained(base_of(base, adapter), adapter))
            own = ours(program, folder, base, adapter)
            merged = os.path.join(folder, f"merged{i}")
            run(program, "convert", "merge", "--model", base, "--adapter", adapter, "--out", merged)
            d, m = difference(own, theirs), difference(logits(base_of(merged)), theirs)
            worst = max(worst, d, m)
            print(f"ours -> PEFT    {name:32s} logits {d:.1e}  merged {m:.1e}  against the base {difference(theirs, plain):.2f}")
        configs = {
            "all linear layers": dict(r=4, lora_alpha=16, target_modules="all-linear"),
            "q and down, rsLoRA": dict(r=6, lora_alpha=12, target_modules=["q_proj", "down_proj"], use_rslora=True),
            "with norms": dict(r=4, target_modules=["o_proj"], modules_to_save=["norm", "input_layernorm"]),
        }
        for i, (name, fields) in enumerate(configs.items()):
            torch.manual_seed(i)
            model = get_peft_model(base_of(base), LoraConfig(task_type="CAUSAL_LM", **fields))
            for key, value in model.named_parameters():
                if value.requires_grad:
                    value.data.add_(0.1 * torch.randn_like(value))
            adapter = os.path.join(folder, f"theirs{i}")
            model.save_pretrained(adapter)
            theirs, own = logits(model), ours(program, folder, base, adapter)
            d = difference(own, theirs)
            worst = max(worst, d)
            print(f"PEFT -> ours    {name:32s} logits {d:.1e}  against the base {difference(theirs, plain):.2f}")
    print(f"largest difference {worst:.1e}")
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
