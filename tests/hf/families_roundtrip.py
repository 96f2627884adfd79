#!/usr/bin/env python3
"""transformers loads what ropewalk saves, to the same logits, for every folder of a set of families.

  python3 tests/hf/families_roundtrip.py --ropewalk PATH FAMILIES      (torch on a CPU, transformers 5)

For each FAMILIES/NAME: ropewalk's logits of the folder (`eval logits`), ropewalk's copy of it (`convert hf`), and what
transformers makes of both. Prints a table; exit 1 if a difference is above 2e-5 of the largest logit or a tensor differs.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
import torch
import transformers
from safetensors.torch import load_file

transformers.utils.logging.disable_progress_bar()


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")


def logits_by_transformers(folder, ids):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(ids[None], use_cache=False).logits[0]


def add_tokenizer(folder):
    """A tokenizer of bytes, because a model folder has one. It may have more tokens than the model."""
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(folder + "/tokenizer.json")


def check(name, source, ropewalk, work):
    folder, saved = work + "/" + name, work + "/" + name + "-saved"
    shutil.copytree(source, folder)
    add_tokenizer(folder)
    ids = load_file(source + "/expect.safetensors")["ids"][0]
    run([ropewalk, "--quiet", "eval", "logits", "--model", folder, "--tokens", ",".join(str(i) for i in ids.tolist()),
         "--out", work + "/logits.safetensors"])
    ours = load_file(work + "/logits.safetensors")["logits"]
    run([ropewalk, "--quiet", "convert", "hf", folder, "--out", saved])
    theirs, again = logits_by_transformers(folder, ids), logits_by_transformers(saved, ids)
    before, after = load_file(folder + "/model.safetensors"), load_file(saved + "/model.safetensors")
    same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    largest = theirs.abs().max()
    return ((ours - theirs).abs().max() / largest).item(), ((again - theirs).abs().max() / largest).item(), same


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("families")
    parser.add_argument("--ropewalk", default="ropewalk")
    options = parser.parse_args()
    good = True
    print("| model | ropewalk beside transformers | transformers, of what ropewalk saved | same tensors |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for name in sorted(os.listdir(options.families)):
            ours, saved, same = check(name, os.path.join(options.families, name), options.ropewalk, work)
            good = good and ours < 2e-5 and saved < 2e-5 and same
            print(f"| {name} | {ours:.1e} | {saved:.1e} | {'yes' if same else 'no'} |", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
