#!/usr/bin/env python3
"""Hugging Face's sliding-window loop and `ropewalk eval ppl` on the same checkpoint and text: the same NLL?

  python3 tests/hf/hf_sliding_window.py --model MODEL --data FILE.txt... [--window 512,2048] [--stride 256]
                                        [--max-tokens 4096] [--ropewalk build/cuda/bin/ropewalk]

MODEL is a folder in HF layout (as `ropewalk train` leaves it). Needs torch and transformers. Ends with code 0 if every
document and window agrees within 1e-4 relative, 1 if not. Both sides compute in f32: HF on the GPU if there is one,
Ropewalk on the CPU, where f32 is its default.

The loop is the one of HF's perplexity guide, with the BOS that Ropewalk puts in front of every window:
  prev = 0; for b in 0, S, 2S, ...: e = min(b + W - 1, n); input = [BOS] + x[b:e]; labels = input, -100 but for the last
  e - prev tokens; model(input, labels) gives the mean over those; prev = e; stop at e = n
Each window is a forward of its own: no padding, no attention mask, position_ids 0, 1, 2, ... Tokens are HF's own, from
tokenizer.json, without special tokens.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path


def sliding_nll(model, ids, bos, window, stride, device):
    """(sum of nll, tokens scored) of one document."""
    import torch

    capacity = window - (0 if bos is None else 1)
    step = min(stride, capacity)
    total, scored, previous, begin = 0.0, 0, 0, 0
    while previous < len(ids):
        end = min(begin + capacity, len(ids))
        head = [] if bos is None else [bos]
        tokens = torch.tensor([head + ids[begin:end]], device=device)
        labels = tokens.clone()
        labels[:, : tokens.shape[1] - (end - previous)] = -100
        # HF predicts labels[i] from tokens before i and leaves out labels[0]: with a BOS there is nothing lost.
        count = int((labels[:, 1:] != -100).sum())
        if count:
            position_ids = torch.arange(tokens.shape[1], device=device)[None]
            with torch.no_grad():
                loss = model(input_ids=tokens, labels=labels, position_ids=position_ids, use_cache=False).loss
            total += float(loss) * count
            scored += count
        previous = end
        begin += step
    return total, scored


def ropewalk_rows(args):
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "ppl.json")
        command = [args.ropewalk, "--quiet", "--device", "cpu", "eval", "ppl", "--model", args.model, "--data", *args.data,
                   "--window", args.window, "--stride", str(args.stride), "--max-tokens", str(args.max_tokens),
                   "--json", out]
        if args.no_bos:
            command.append("--no-bos")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = json.loads(Path(out).read_text())["rows"]
    return {(row["document"], row["window"]): row for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, nargs="+", help=".txt files, one document each")
    parser.add_argument("--window", default="512,1024")
    parser.add_argument("--stride", type=int, default=256)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--no-bos", action="store_true")
    parser.add_argument("--ropewalk", default="build/cpu/bin/ropewalk")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as e:
        sys.exit(f"hf_sliding_window.py: needs torch and transformers ({e})")

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.from_pretrained(args.model)
    kind = (getattr(config, "rope_scaling", None) or {}).get("rope_type", "default")
    if kind not in ("default", "linear", "yarn", "llama3", "longrope"):
        sys.exit(f"hf_sliding_window.py: transformers has no fixed '{kind}' scaling to compare with")
    model = AutoModelForCausalLM.from_pretrained(args.model).float().to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    bos = None if args.no_bos else tokenizer.bos_token_id
    ours = ropewalk_rows(args)

    worst = 0.0
    print(f"{'document':24} {'window':>7} {'tokens':>8} {'HF nll':>12} {'Ropewalk nll':>13} {'relative':>10}")
    for path in map(Path, args.data):
        with path.open(encoding="utf-8", newline="") as file:  # line ends stay as they are
            ids = tokenizer(file.read(), add_special_tokens=False)["input_ids"][: args.max_tokens]
        for window in map(int, args.window.split(",")):
            total, scored = sliding_nll(model, ids, bos, window, min(args.stride, window), device)
            row = ours[(path.stem, window)]
            if row["tokens"] != scored:
                sys.exit(f"{path.stem} at {window}: HF scores {scored} tokens, Ropewalk {row['tokens']}")
            theirs = total / scored
            relative = abs(row["nll"] - theirs) / theirs
            worst = max(worst, relative if math.isfinite(relative) else math.inf)
            print(f"{path.stem:24} {window:7} {scored:8} {theirs:12.6f} {row['nll']:13.6f} {relative:10.1e}")
    print(f"largest difference {worst:.1e}, allowed {args.tolerance:.0e}: {'the same' if worst <= args.tolerance else 'NOT the same'}")
    return 0 if worst <= args.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
