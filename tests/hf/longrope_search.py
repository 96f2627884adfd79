#!/usr/bin/env python3
"""The recipe that `ropewalk search longrope` finds, in transformers: does it load, and give the same logits?

  python3 tests/hf/longrope_search.py --ropewalk build/cpu/bin/ropewalk --model MODEL --data TEXT... --target 2048

Searches with few candidates by each objective (all tokens, and needles), writes the model with what was found, and
compares transformers' logits with `ropewalk eval logits` at four lengths, two of them within the window of
pre-training. transformers' angles are f32, so that differences grow with the length. Ends with code 1 if a logit
differs by more than 1e-4. Needs torch and transformers.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ropewalk", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--target", type=int, default=2048)
    parser.add_argument("--generations", type=int, default=2)
    args = parser.parse_args()
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    window = json.loads((Path(args.model) / "config.json").read_text())["max_position_embeddings"]
    worst = 0.0
    for objective in ("ppl", "needle"):
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "found"
            search = [args.ropewalk, "--quiet", "--device", "cpu", "search", "longrope", "--model", args.model, "--data",
                      *args.data, "--target", str(args.target), "--out", str(found), "--objective", objective,
                      "--documents", "2", "--trials", "4", "--generations", str(args.generations), "--population", "6",
                      "--parents", "3", "--mutants", "3", "--crosses", "1", "--write-model"]
            print(f"--objective {objective}", flush=True)
            print(subprocess.run(search, check=True, capture_output=True, text=True).stdout.rsplit("recipe ", 1)[0], end="")
            model = AutoModelForCausalLM.from_pretrained(found / "model", dtype=torch.float32).eval()
            for length in (window // 2, window, window + 1, args.target):
                ids = torch.randint(3, model.config.vocab_size, (1, length))
                with torch.no_grad():
                    theirs = model(ids).logits[0]
                path = Path(folder) / "logits.safetensors"
                subprocess.run([args.ropewalk, "--quiet", "--device", "cpu", "eval", "logits", "--model",
                                str(found / "model"), "--ids", ",".join(map(str, ids[0].tolist())), "--out", str(path)],
                               check=True, stdout=subprocess.DEVNULL)
                ours = load_file(path)["logits"]
                difference = (theirs - ours).abs().max().item()
                worst = max(worst, difference)
                print(f"{length:5d} tokens  largest difference {difference:.1e}  largest logit {ours.abs().max():.1f}",
                      flush=True)
                path.unlink()
    return 1 if worst > 1e-4 else 0


if __name__ == "__main__":
    sys.exit(main())
