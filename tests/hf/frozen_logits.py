#!/usr/bin/env python3
"""Frozen models in transformers: the same logits as ropewalk gives with the recipe that was frozen.

  python3 tests/hf/frozen_logits.py --ropewalk build/cpu/bin/ropewalk [--work DIR]

Trains a small base on the built-in stories, extends it by CLEX and by E2-LLM, sets dynamic NTK in a third copy, freezes each at three
lengths by `ropewalk convert freeze`, and compares transformers' logits with `ropewalk eval logits` of the original at that length. Then it
measures the perplexity of the frozen models by Hugging Face's sliding-window loop (hf_sliding_window.py) and by `ropewalk eval ppl`, windows of
96 and 200 tokens, stride 50. It ends with code 1 if a logit differs by more than 1e-4 or a mean NLL by more than 1e-5 of it. Needs torch and
transformers.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ap = argparse.ArgumentParser()
ap.add_argument("--ropewalk", required=True)
ap.add_argument("--work", default="")
a = ap.parse_args()
work = a.work or tempfile.mkdtemp()
os.makedirs(work, exist_ok=True)
program, start = os.path.abspath(a.ropewalk), os.getcwd()
os.chdir(work)


def run(*words):
    subprocess.run([program, "--device", "cpu", "--quiet", *map(str, words)], check=True, capture_output=True)


train = ["train", "--data", "demo", "--overwrite"]
run(*train, "--out", "base", "--hidden", 64, "--layers", 2, "--heads", 4, "--window", 32, "--steps", 60, "--batch", 8, "--lr", "3e-3")
for method in ("clex", "e2"):
    run(*train, "--from", "base", "--out", method, "--method", method, "--max-factor", 8, "--steps", 20, "--batch", 4, "--lr", "1e-3")
shutil.copytree("base", "dynamic", dirs_exist_ok=True)
config = json.load(open("dynamic/config.json"))
config["rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0}
json.dump(config, open("dynamic/config.json", "w"))

torch.manual_seed(0)
worst = 0.0
for method in ("clex", "e2", "dynamic"):
    for length in (40, 96, 200):
        folder = f"{method}-{length}"
        shutil.rmtree(folder, ignore_errors=True)
        run("convert", "freeze", "--model", method, "--length", length, "--out", folder)
        ids = torch.randint(3, 250, (1, length))
        with torch.no_grad():
            theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits[0]
        run("eval", "logits", "--model", method, "--ids", ",".join(map(str, ids[0].tolist())), "--out", "logits.safetensors")
        ours = load_file("logits.safetensors")["logits"]
        difference = (theirs - ours).abs().max().item()
        worst = max(worst, difference)
        print(f"{method:8s} {length:4d} tokens  largest difference {difference:.1e}  largest logit {ours.abs().max():.1f}", flush=True)

tools = os.path.dirname(os.path.abspath(__file__)) if os.path.isabs(__file__) else os.path.join(start, os.path.dirname(__file__))
words = "the dog ran to the river and saw a bird in the old tree while Lily made a red boat for Tim".split()
with open("text.txt", "w") as f:
    for i in range(400):
        f.write(words[i * i % len(words)] + (".\n" if i % 17 == 16 else " "))
failed = worst > 1e-4
for method in ("clex", "e2", "dynamic"):
    print(f"{method} frozen at 200:", flush=True)
    failed |= subprocess.run([sys.executable, os.path.join(tools, "hf_sliding_window.py"), "--model", f"{method}-200", "--data", "text.txt",
                              "--window", "96,200", "--stride", "50", "--tolerance", "1e-5", "--ropewalk", program]).returncode != 0
sys.exit(failed)
