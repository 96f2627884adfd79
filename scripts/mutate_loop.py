#!/usr/bin/env python3
"""Changes real files in a few places and gives them to every verb, many times over.

    cmake --preset asan && cmake --build build/asan --target ropewalk_cli
    python3 scripts/mutate_loop.py --ropewalk build/asan/bin/ropewalk --mutations 10000 [--seed 1]

The files are made by the program itself: a model, a sharded one, checkpoints, tokenizers, token files, llama2.c and GGUF files, recipes,
metrics, evaluations. A run must end within 20 seconds (times --patience), without a signal or a sanitizer's report, with exit code 0
or 2, or 1 and a line that names the cause. A file that breaks this is kept in --keep."""
import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = "--hidden 16 --layers 1 --heads 2 --batch 2 --window 16 --threads 1".split()
ODD = [b"\0", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0\0\0\x80", b"-1", b"0", b"1e308", b"1e-308", b"1e400",
       b"9" * 20, b"9" * 300, b"9223372036854775807", b"null", b"true", b"[]", b"{}", b'""', b"\\u0000", b"\xf0\x9f\x98\x80", b"\xc3", b"[" * 80,
       b"NaN", b"0.5", b"2147483648", b",", b"\n", b"../", b"/etc/passwd", b"<script>", b"\x1b[31m"]
TRAIN = ["--quiet", "train", "--data", "text.txt", *TINY]


def targets(rng, only=""):
    """A file to change, whose name begins with `only`, and the verbs that read it."""
    ppl = ["--quiet", "eval", "ppl", "--model", "model", "--data", "text.txt", "--window", "16", "--max-tokens", "40"]
    generate = ["generate", "--model", "model", "--prompt", "a", "--tokens", "2"]
    extend = ["--quiet", "train", "--data", "text.txt", "--from", "model", "--method", "pi", "--target", "32", "--batch", "2", "--steps", "1",
              "--out", "o"]
    resume = [*TRAIN, "--steps", "4", "--save-every", "2", "--out", "run", "--resume"]
    report = ["report", "run", "--out", "page.html"]
    encode = ["tokenizer", "encode", "--tokenizer", "tok", "--text", "a little <s> story"]
    from_file = rng.choice([["generate", "--model", "m.gguf", "--prompt", "a <s> 12", "--tokens", "2"],
                            ["convert", "gguf", "--model", "m.gguf", "--out", "o"],
                            ["tokenizer", "encode", "--tokenizer", "m.gguf", "--text", "a <s> 12"]])
    pieces = [word.replace("m.gguf", "pieces.gguf") for word in from_file]
    return rng.choice([target for target in [
        ("m.gguf", from_file),
        ("pieces.gguf", pieces),
        ("model/config.json", rng.choice([generate, ppl, extend, ["convert", "hf", "model", "--out", "o"]])),
        ("model/model.safetensors", rng.choice([generate, extend])),
        ("model/tokenizer.json", rng.choice([generate, ppl])),
        ("model/tokenizer_config.json", generate),
        ("sharded/model.safetensors.index.json", ["generate", "--model", "sharded", "--prompt", "a", "--tokens", "1"]),
        ("tok/tokenizer.json", encode),
        ("tok512.model", ["tokenizer", "encode", "--tokenizer", "tok512.model", "--text", "a little story"]),
        ("tok512.bin", ["tokenizer", "encode", "--tokenizer", "tok512.bin", "--text", "a little story"]),
        ("text.jsonl", ["--quiet", "train", "--data", "text.jsonl", *TINY, "--steps", "1", "--out", "o"]),
        ("text.txt", [*TRAIN, "--steps", "1", "--out", "o"]),
        ("recipe.toml", ["--quiet", "--config", "recipe.toml", "train", "--steps", "1", "--out", "o"]),
        ("compare.toml", ["--quiet", "compare", "compare.toml", "--out", "c"]),
        ("run/checkpoint-000002/trainer_state.json", resume),
        ("run/checkpoint-000002/model.safetensors", resume),
        ("run/checkpoint-000002/optimizer.safetensors", resume),
        ("run/metrics.jsonl", rng.choice([report, resume])),
        ("run/eval-ppl.json", report),
        ("run/config.json", report),
        ("run/recipe.toml", report),
        ("run/cost.json", report),
    ] if target[0].startswith(only)])


def mutated(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at:at + rng.randint(1, 64)]
        elif kind == 3:
            data[at:at] = rng.choice(ODD)
        elif kind == 4:
            odd = rng.choice(ODD)
            data[at:at + len(odd)] = odd
        elif kind == 5:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start:start + rng.randint(1, 64)]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def run(command, folder, seconds):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:hard_rss_limit_mb=2000",
           "UBSAN_OPTIONS": "halt_on_error=1"}
    try:
        r = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, timeout=seconds, capture_output=True)
        return r.returncode, r.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return "hang", ""


def prepare(rw, start):
    start.mkdir()
    lines = [f"Line {i} of the little story." for i in range(60)]
    (start / "text.txt").write_text("\n".join(lines))
    (start / "text.jsonl").write_text("".join('{"name": "d%d", "text": "%s"}\n' % (i, line * 3) for i, line in enumerate(lines[:12])))
    (start / "recipe.toml").write_text('quiet = true\n[train]\ndata = ["text.txt"]\nhidden = 16\nlayers = 1\nheads = 2\nbatch = 2\n'
                                       'window = 16\nsteps = 1\nlr = 1e-3\nschedule = "cosine"\nwarmup = 1\nseed = 3\n')
    (start / "compare.toml").write_text('title = "t"\n[base]\ndata = ["text.txt"]\nhidden = 16\nlayers = 1\nheads = 2\nbatch = 2\nwindow = 16\n'
                                        'steps = 1\n[arms.pi]\nmethod = "pi"\ntarget = 32\nsteps = 1\nbatch = 2\n'
                                        '[eval.ppl]\nwindow = [16, 32]\nmax-tokens = 40\n')
    for name in ("tok512.model", "tok512.bin"):
        shutil.copy(ROOT / "tests/data/tokenizers" / name, start)

    def must(*words):
        code, err = run([rw, *words], start, 600)
        if code != 0:
            sys.exit(f"{' '.join(words)}: {code}: {err}")
    must(*TRAIN, "--steps", "1", "--out", "model")
    must(*TRAIN, "--steps", "4", "--save-every", "2", "--keep", "2", "--out", "run")
    shutil.rmtree(start / "run/checkpoint-000004", ignore_errors=True)
    must("convert", "gguf", "--model", "model", "--type", "q8_0", "--out", "m.gguf")
    must(*TRAIN, "--tokenizer", "tok512.bin", "--steps", "1", "--out", "pieces")
    must("convert", "gguf", "--model", "pieces", "--type", "bf16", "--out", "pieces.gguf")
    must("tokenizer", "train", "--data", "text.txt", "--vocab", "270", "--out", "tok")
    must("--quiet", "eval", "ppl", "--model", "model", "--data", "text.txt", "--window", "16", "--max-tokens", "40", "--json", "run/eval-ppl.json")
    shutil.copytree(start / "model", start / "sharded")
    names = json.loads((start / "model/model.safetensors").read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
    (start / "sharded/model.safetensors").rename(start / "sharded/model-00001-of-00001.safetensors")
    (start / "sharded/model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": {n: "model-00001-of-00001.safetensors" for n in names if n != "__metadata__"}}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ropewalk", required=True)
    p.add_argument("--mutations", type=int, default=10000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", default="", help="change only files whose name begins so: m.gguf")
    p.add_argument("--patience", type=float, default=1, help="factor on the 20 seconds, for a busy machine")
    p.add_argument("--keep", default="out/mutations")
    o = p.parse_args()
    rw = str(pathlib.Path(o.ropewalk).resolve())
    work = pathlib.Path(tempfile.mkdtemp(prefix="mutations-"))
    codes, problems = collections.Counter(), 0
    try:
        prepare(rw, work / "start")
        rng = random.Random(o.seed)
        for i in range(o.mutations):
            name, words = targets(rng, o.only)
            if not (work / "start" / name).exists():
                continue
            now = work / "now"
            shutil.rmtree(now, ignore_errors=True)
            shutil.copytree(work / "start", now)
            data = mutated((work / "start" / name).read_bytes(), rng)
            (now / name).write_bytes(data)
            code, err = run([rw, *words], now, 20 * o.patience)
            codes[code] += 1
            named = any(line.startswith("ropewalk: ") and "internal error" not in line for line in err.splitlines())
            if code == 0 or (code in (1, 2) and named):
                pass
            else:
                problems += 1
                keep = pathlib.Path(o.keep)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{o.seed}-{i}-{name.replace('/', '_')}").write_bytes(data)
                print(f"{i}: {name}: {' '.join(words)}: {code}\n    " + "\n    ".join(err.strip().splitlines()[:12]), flush=True)
            if i % 500 == 499:
                print(f"{i + 1} mutations, {problems} problems", flush=True)
        print(f"{o.mutations} mutations; exit codes {dict(sorted(codes.items(), key=str))}; {problems} problems")
        return 1 if problems else 0
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
