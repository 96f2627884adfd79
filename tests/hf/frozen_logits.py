#!/usr/bin/env python3
"""Frozen models in transformers: the same logits as ropewalk gives with the recipe that was frozen.

  python3 tests/hf/frozen_logits.py --ropewalk build/cpu/bin/ropewalk [--work DIR] [--base MODEL --data TEXT]

Trains a small base on the built-in stories, or takes the one that is named, extends it by CLEX and by E2-LLM (--steps steps on the file
TEXT), sets dynamic NTK in a third copy, freezes each at three lengths (--lengths) by `ropewalk convert freeze`, and compares transformers'
logits with `ropewalk eval logits` of the original at that length. transformers computes angles in f32, ropewalk in f64: so two more comparisons are
made with equal angles: transformers' with those of the frozen recipe in f64, all else of it being f32, beside the original; and ropewalk's of the
frozen model with --f32-angles beside transformers as it is. Both programs stand beside logits in f64. Then it measures the perplexity of the
models frozen at the longest by Hugging Face's sliding-window loop (hf_sliding_window.py) and by `ropewalk eval ppl`, windows of the last two
lengths, a quarter of the longest from one to the next. It ends with code 1 if a logit differs by more than 1e-4 with equal angles of either kind,
or a mean NLL by more than 1e-5 of it. Needs torch and transformers.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ap = argparse.ArgumentParser()
ap.add_argument("--ropewalk", required=True)
ap.add_argument("--work", default="")
ap.add_argument("--base", default="")
ap.add_argument("--data", default="demo")
ap.add_argument("--steps", type=int, default=20)
ap.add_argument("--lengths", default="40,96,200")
a = ap.parse_args()
lengths = [int(n) for n in a.lengths.split(",")]
named, data = a.base and os.path.abspath(a.base), a.data if a.data == "demo" else os.path.abspath(a.data)
work = a.work or tempfile.mkdtemp()
os.makedirs(work, exist_ok=True)
program, start = os.path.abspath(a.ropewalk), os.getcwd()
os.chdir(work)


def run(*words):
    subprocess.run([program, "--device", "cpu", "--quiet", *map(str, words)], check=True, capture_output=True)


train = ["train", "--data", data, "--overwrite"]
if named:
    shutil.copytree(named, "base", dirs_exist_ok=True)
else:
    run(*train, "--out", "base", "--hidden", 64, "--layers", 2, "--heads", 4, "--window", 32, "--steps", 60, "--batch", 8, "--lr", "3e-3")
for method in ("clex", "e2"):
    run(*train, "--from", "base", "--out", method, "--method", method, "--max-factor", 8, "--steps", a.steps, "--batch", 1 if named else 4, "--lr", "1e-3")
shutil.copytree("base", "dynamic", dirs_exist_ok=True)
config = json.load(open("dynamic/config.json"))
config["rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0}
json.dump(config, open("dynamic/config.json", "w"))

vocab = config["vocab_size"] if named else 250


class ExactAngles(torch.nn.Module):
    """cos and sin of a frozen recipe in f64; transformers' own are never above f32."""

    def __init__(self, config):
        super().__init__()
        rope, head = config.rope_parameters, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        exponent = torch.arange(0, head, 2, dtype=torch.float64) / head
        self.inv_freq = 1 / (torch.tensor(rope["long_factor"], dtype=torch.float64) * rope["rope_theta"] ** exponent)
        self.scale = rope["attention_factor"]

    def forward(self, x, position_ids):
        angles = (position_ids[..., None].double() * self.inv_freq).repeat(1, 1, 2)
        return (angles.cos() * self.scale).to(x.dtype), (angles.sin() * self.scale).to(x.dtype)


def transformers_logits(folder, ids, dtype, exact_angles):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    if exact_angles:
        model.model.rotary_emb = ExactAngles(model.config)
    with torch.no_grad():
        return model(ids).logits[0]


def ropewalk_logits(folder, ids, *words):
    run("eval", "logits", "--model", folder, "--ids", ",".join(map(str, ids[0].tolist())), "--out", "logits.safetensors", *words)
    return load_file("logits.safetensors")["logits"]


torch.manual_seed(0)
worst = 0.0
for method in ("clex", "e2", "dynamic"):
    for length in lengths:
        folder = f"{method}-{length}"
        shutil.rmtree(folder, ignore_errors=True)
        run("convert", "freeze", "--model", method, "--length", length, "--out", folder)
        ids = torch.randint(3, vocab, (1, length))
        theirs = transformers_logits(folder, ids, torch.float32, False)
        same_angles, exact = (transformers_logits(folder, ids, dtype, True) for dtype in (torch.float32, torch.float64))
        ours, frozen = ropewalk_logits(method, ids), ropewalk_logits(folder, ids, "--f32-angles")
        difference, with_f64, with_f32, error, their_error = ((a - b).abs().max().item() for a, b in (
            (theirs, ours), (same_angles, ours), (theirs, frozen), (ours, exact), (theirs, exact)))
        largest = ours.abs().max().item()
        worst = max(worst, with_f64, with_f32)
        print(f"{method:8s} {length:4d} tokens  differs with both angles in f64 {with_f64:.1e}, in f32 {with_f32:.1e}, as the programs are {difference:.1e} "
              f"({difference / largest:.1e} of the largest logit, {largest:.1f})  from f64: ropewalk {error:.1e}, transformers {their_error:.1e}", flush=True)

tools = os.path.dirname(os.path.abspath(__file__)) if os.path.isabs(__file__) else os.path.join(start, os.path.dirname(__file__))
words = "the dog ran to the river and saw a bird in the old tree while Lily made a red boat for Tim".split()
text = "".join(words[i * i % len(words)] + (".\n" if i % 17 == 16 else " ") for i in range(400))
if data != "demo":
    text = open(data, encoding="utf-8").read()[20000:40000]
with open("text.txt", "w", encoding="utf-8") as f:
    f.write(text)
failed = worst > 1e-4
for method in ("clex", "e2", "dynamic"):
    print(f"{method} frozen at {lengths[-1]}:", flush=True)
    failed |= subprocess.run([sys.executable, os.path.join(tools, "hf_sliding_window.py"), "--model", f"{method}-{lengths[-1]}", "--data", "text.txt",
                              "--window", f"{lengths[-2]},{lengths[-1]}", "--stride", str(lengths[-1] // 4), "--tolerance", "1e-5", "--ropewalk", program]).returncode != 0
sys.exit(failed)
