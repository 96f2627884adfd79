#!/usr/bin/env python3
"""Makes one system call of one verb fail, many times over, and looks at what is left.

    python3 scripts/fault_loop.py --ropewalk build/test/bin/ropewalk --faults 1000 [--seed 1]

Each run of a verb starts from the same folder. One call in it fails with ENOSPC, EIO, EMFILE, EROFS, EACCES, ENOMEM or
EAGAIN: by a library that is loaded before (tests/faults/fault_shim.c: opens, reads, writes, allocations, threads ...) or, where
strace is installed, within libc too (stdio's writes). The run must end within 20 seconds (times --patience), without a signal,
with exit code 0, 2, or 1 and a line that names the cause. All files that were there before must be there still, and be the old
ones or whole new ones. A run that ends with 0 must have given the same results as one without a fault."""
import argparse
import collections
import errno
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ERRORS = {
    "open": ["EIO", "EMFILE", "EROFS", "EACCES", "ENOMEM", "ENOSPC"], "read": ["EIO", "ENOMEM"],
    "write": ["ENOSPC", "EIO"], "sync": ["EIO", "ENOSPC"], "close": ["EIO", "ENOSPC"],
    "rename": ["EIO", "EROFS", "EACCES", "ENOSPC"], "mkdir": ["EROFS", "EACCES", "ENOSPC", "EIO"],
    "unlink": ["EIO", "EACCES", "EROFS"], "stat": ["EIO", "EACCES", "ENOMEM"], "malloc": ["ENOMEM"], "thread": ["EAGAIN"],
}
TRACED = {"write": ["ENOSPC", "EIO"], "read": ["EIO"], "openat": ["EMFILE", "EIO", "EACCES"], "mmap": ["ENOMEM"],
          "getdents64": ["EIO"], "fsync": ["EIO"], "lseek": ["EIO"]}
TIMES = re.compile(rb'"(time_s|tokens_per_s|seconds|peak_memory_bytes|data_s|step_s)": ?[-0-9.e+]+')
TINY = "--hidden 16 --layers 1 --heads 2 --batch 2 --window 16 --threads 2".split()


def verbs():
    """Name, arguments, and the output that must be the same as without a fault."""
    train = ["--quiet", "train", "--data", "text.txt", *TINY, "--steps", "6", "--save-every", "2", "--keep", "2"]
    return {
        "train": ([*train, "--out", "new"], ["new"]),
        "train over a model": ([*train, "--out", "again", "--seed", "2", "--overwrite"], []),
        "resume": ([*train, "--schedule", "constant", "--out", "run", "--resume"], ["run"]),
        "extend": (["--quiet", "train", "--data", "text.txt", "--from", "model", "--method", "pose", "--scaling", "yarn",
                    "--target", "64", "--batch", "2", "--steps", "2", "--out", "long"], ["long"]),
        "tokenizer train": (["tokenizer", "train", "--data", "text.txt", "--vocab", "280", "--out", "tok2"], ["tok2"]),
        "tokenizer encode": (["tokenizer", "encode", "--tokenizer", "tok", "--text", "a little story"], []),
        "eval ppl": (["--quiet", "eval", "ppl", "--model", "model", "--data", "text.txt", "--window", "16", "--max-tokens", "60",
                      "--json", "old.json"], ["old.json"]),
        "generate": (["generate", "--model", "model", "--prompt", "a", "--tokens", "4", "--temperature", "0"], []),
        "convert hf": (["convert", "hf", "model", "--out", "copy"], ["copy"]),
        "report": (["report", "run", "--out", "page.html"], ["page.html", "page.csv", "page.jsonl"]),
        "theory": (["theory", "coverage", "--out", "theory"], ["theory"]),
    }


def run(command, folder, env=None, seconds=20):
    try:
        r = subprocess.run(command, cwd=folder, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, timeout=seconds,
                           capture_output=True)
        return r.returncode, r.stdout, r.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return "hang", b"", ""


def snapshot(folder):
    files = {}
    for p in sorted(pathlib.Path(folder).rglob("*")):
        if p.is_file():
            files[str(p.relative_to(folder))] = p.read_bytes()
    return files


def whole(name, data):
    """Whether a file that was written again is complete."""
    if name.endswith(".safetensors"):
        if len(data) < 8:
            return False
        n = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + n])
        return len(data) == 8 + n + max([v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"], default=0)
    if name.endswith(".json"):
        return json.loads(data) is not None
    if name.endswith(".jsonl"):
        return all(json.loads(line) is not None for line in data.splitlines())
    return len(data) > 0


def same_results(a, b):
    """But for times: those of an evaluation stand outside of its rows and totals."""
    if a[:1] == b[:1] == b"{":
        try:
            x, y = json.loads(a), json.loads(b)
            if "rows" in x and "totals" in x:
                return [x["rows"], x["totals"]] == [y.get("rows"), y.get("totals")]
        except ValueError:
            pass
    return TIMES.sub(b"", a) == TIMES.sub(b"", b)


def problem_after(before, after, name):
    """Files of the user that are lost or damaged."""
    for path, data in before.items():
        if path not in after:
            # Older checkpoints make room for newer ones, and a finished run's are replaced.
            if re.match(r"(run|again)/", path) and "notes" not in path:
                continue
            return f"{path} is lost"
        if after[path] == data:
            continue
        if path in ("text.txt", "notes.txt") or path.startswith(("model/", "tok/")):
            return f"{path} was changed"
        try:
            if not whole(path, after[path]):
                return f"{path} is not whole"
        except (ValueError, KeyError, struct.error) as e:
            return f"{path} is garbled: {e}"
    return None


class Loop:
    def __init__(self, options):
        self.o = options
        self.program = [str(pathlib.Path(options.ropewalk).resolve()), *(["--device", options.device] if options.device else [])]
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="faults-", dir=options.work))
        self.shim = str(self.work / "fault_shim.so")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", str(ROOT / "tests/faults/fault_shim.c"), "-o", self.shim, "-ldl",
                        "-lpthread"], check=True)
        self.strace = shutil.which("strace")
        self.start = self.work / "start"
        self.clean, self.counts, self.traced, self.mapped = {}, {}, {}, 0

    def prepare(self):
        self.start.mkdir()
        (self.start / "text.txt").write_text("".join(f"Line {i} of the little story.\n" for i in range(120)))
        (self.start / "notes.txt").write_text("mine\n")
        (self.start / "old.json").write_text("{}\n")
        base = ["--quiet", "train", "--data", "text.txt", *TINY]
        for words in (["--steps", "2", "--out", "model"], ["--steps", "2", "--out", "again"],
                      ["--steps", "4", "--save-every", "2", "--keep", "2", "--schedule", "constant", "--out", "run"]):
            code, _, err = run([*self.program, *base, *words], self.start, seconds=300)
            assert code == 0, err
        run([*self.program, "tokenizer", "train", "--data", "text.txt", "--vocab", "270", "--out", "tok"], self.start, seconds=300)

    def fresh(self):
        place = self.work / "now"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.start, place)
        return place

    def trace(self, words, place):
        """How often a run makes each of the traced system calls."""
        log = self.work / "trace"
        run([self.strace, "-f", "-qq", "-c", "-o", str(log), *self.program, *words], place, seconds=300)
        return {f[-1]: int(f[3]) for f in (line.split() for line in log.read_text().splitlines())
                if len(f) >= 5 and f[-1] in TRACED and f[3].isdigit()}

    def count(self, name, words):
        place = self.fresh()
        counts = self.work / "counts"
        code, out, err = run([*self.program, *words], place, {"LD_PRELOAD": self.shim, "FAULT_COUNTS": str(counts)}, 300)
        assert code == 0, f"{name}: {err}"
        self.counts[name] = {k: int(n) for k, n in (line.split() for line in counts.read_text().splitlines())}
        self.clean[name] = (out, snapshot(place))
        if self.strace:
            self.mapped = self.trace(["--version"], self.fresh()).get("mmap", 0)
            self.traced[name] = self.trace(words, self.fresh())

    def named(self):
        """Faults of which a run once said nothing: what failed, and that the run does not end with 0."""
        train = ["--quiet", "train", "--data", "text.txt", *TINY, "--steps", "6", "--out", "new"]
        cases = [(["tokenizer", "encode", "--tokenizer", "tok", "--text", "abc"], None, "standard output")]
        for call, why, path, words in (("read", "EIO", "c.toml", ["--config", "c.toml", *train]), ("read", "EIO", "text.txt", train),
                                       ("read", "EIO", "model/config.json", verbs()["generate"][0]),
                                       ("write", "ENOSPC", "metrics.jsonl", train), ("write", "ENOSPC", "", train)):
            cases.append((words, {"FAULT_CALL": call, "FAULT_AT": "1", "FAULT_ERRNO": str(getattr(errno, why)), "FAULT_PATH": path},
                          path or "the first file that is written"))
        problems = []
        for words, env, what in cases:
            place = self.fresh()
            (place / "c.toml").write_text("[train]\nsteps = 1\n")
            if env is None:
                with open("/dev/full", "wb") as full:
                    r = subprocess.run([*self.program, *words], cwd=place, stdout=full, stderr=subprocess.PIPE, check=False)
                    code, err = r.returncode, r.stderr.decode()
            else:
                code, _, err = run([*self.program, *words], place, {"LD_PRELOAD": self.shim, **env}, 60)
            if code not in (1, 2) or "ropewalk: " not in err:
                problems.append(f"a fault at {what}: exit code {code} {err.strip()}")
        return problems

    def one(self, rng):
        table = verbs()
        name = rng.choice(list(table))
        words, outputs = table[name]
        place = self.fresh()
        before = snapshot(place)
        if self.strace and self.traced.get(name) and rng.random() < 0.3:
            call = rng.choice(list(self.traced[name]))
            # The first mappings are the dynamic loader's, which does not survive a refusal: there is no program yet.
            first = min(self.mapped, self.traced[name][call] - 1) if call == "mmap" else 0
            number, why = 1 + rng.randrange(first, self.traced[name][call]), rng.choice(TRACED[call])
            command = [self.strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                       f"inject={call}:error={why}:when={number}", *self.program, *words]
            env = {}
        else:
            kinds = [k for k, n in self.counts[name].items() if n > 0]
            # Most calls are allocations: they come three times as often as each other kind.
            call = rng.choice([*kinds, *["malloc"] * 2])
            number, why = 1 + rng.randrange(self.counts[name][call]), rng.choice(ERRORS[call])
            env = {"LD_PRELOAD": self.shim, "FAULT_CALL": call, "FAULT_AT": str(number),
                   "FAULT_ERRNO": str(getattr(errno, why))}
            if rng.random() < 0.2:
                env["FAULT_STICKY"] = "1"
            command = [*self.program, *words]
        code, out, err = run(command, place, env, 20 * self.o.patience)
        what = f"{name}: {call} {number} -> {why}{' and later' if 'FAULT_STICKY' in env else ''}{' (strace)' if not env else ''}"
        return what, code, self.judge(name, outputs, before, snapshot(place), code, out, err), err

    def judge(self, name, outputs, before, after, code, out, err):
        if code == "hang":
            return "hangs"
        # 127: the dynamic loader could not start the program; the fault came before main().
        if code == 127:
            return None
        if not isinstance(code, int) or code < 0 or code > 128:
            return f"signal {code}"
        lines = [line for line in err.splitlines() if line.startswith("ropewalk: ")]
        if code not in (0, 1, 2):
            return f"exit code {code}"
        if code != 0 and (not lines or "internal error" in lines[-1]):
            return f"exit code {code} without a named cause"
        lost = problem_after(before, after, name)
        if lost or code != 0:
            return lost
        want_out, want = self.clean[name]
        for path in want:
            if any(path == o or path.startswith(o + "/") for o in outputs):
                if path not in after:
                    return f"exit code 0 without {path}"
                timed = path.endswith(("trainer_state.json", "run.json", "cost.json"))  # times, and checksums of times
                if path.endswith((".json", ".jsonl", ".safetensors")) and not timed and not same_results(after[path], want[path]):
                    return f"exit code 0 with another {path}"
        return None if len(out) == len(want_out) or name not in ("tokenizer encode", "generate") else "output lost with exit code 0"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ropewalk", required=True)
    p.add_argument("--faults", type=int, default=1000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--patience", type=float, default=1, help="factor on the 20 seconds, for a busy machine")
    p.add_argument("--device", default=None, help="cpu: keeps a build with CUDA from the GPU's driver, whose own calls would fail")
    p.add_argument("--work", default=None, help="folder for the files of the runs (default: the temporary one)")
    options = p.parse_args()
    loop = Loop(options)
    try:
        loop.prepare()
        for name, (words, _) in verbs().items():
            loop.count(name, words)
        rng = random.Random(options.seed)
        codes, problems = collections.Counter(), loop.named()
        print("".join(f"{p}\n" for p in problems), end="", flush=True)
        for i in range(options.faults):
            what, code, problem, err = loop.one(rng)
            codes[code] += 1
            if problem:
                problems.append(what)
                print(f"{what}: {problem}\n    {err.strip().splitlines()[-1] if err.strip() else ''}", flush=True)
            if i % 100 == 99:
                print(f"{i + 1} faults, {len(problems)} problems", flush=True)
        print(f"{options.faults} faults over {len(verbs())} verbs; exit codes {dict(sorted(codes.items(), key=str))}; "
              f"{len(problems)} problems")
        return 1 if problems else 0
    finally:
        shutil.rmtree(loop.work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
