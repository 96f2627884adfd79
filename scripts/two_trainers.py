#!/usr/bin/env python3
"""Starts two trainers on one folder at the same time, many times over: one runs, the other is refused at once.

    python3 scripts/two_trainers.py --ropewalk build/test/bin/ropewalk --rounds 100 [--seed 1]

The two differ in the learning rate. Every checkpoint that the folder holds afterwards, one of each step, must be byte for byte that
of the trainer that ran, as a run of it alone wrote it, and so must the model. In every third round the first trainer is
killed on its way and the same run is resumed by two processes at once."""
import argparse
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

STEPS = 8


def command(rw, text, lr, out, *more):
    return [rw, "--threads", "1", "--quiet", "train", "--data", text, "--hidden", "16", "--layers", "1", "--heads", "1", "--batch", "2",
            "--window", "16", "--steps", str(STEPS), "--save-every", "1", "--keep", "100", "--lr", lr, "--out", out, *more]


def weights(folder):
    """The files that hold numbers, by name within the folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


class Rounds:
    def __init__(self, rw, work, seed):
        self.rw, self.work, self.rng = rw, work, random.Random(seed)
        self.text = str(work / "text.txt")
        (work / "text.txt").write_text("".join(f"Line {i} of the little story.\n" for i in range(400)))
        self.alone, self.slowest = {}, 0.0
        for lr in ("0.001", "0.01"):
            subprocess.run(command(rw, self.text, lr, str(work / lr)), check=True, stdout=subprocess.DEVNULL)
            self.alone[lr] = weights(work / lr)
            assert len(self.alone[lr]) == 2 * STEPS + 1, list(self.alone[lr])

    def both(self, out, lrs, *more):
        """Runs two at once. What each came to: exit code, message, seconds."""
        started = []
        for lr in lrs:
            started.append((time.monotonic(), subprocess.Popen(command(self.rw, self.text, lr, str(out), *more), stdout=subprocess.DEVNULL,
                                                               stderr=subprocess.PIPE, text=True)))
            time.sleep(self.rng.choice([0, 0, 0.002, 0.01, 0.03]))
        ends, open_ = {}, dict(enumerate(started))
        while open_:
            for i, (begin, p) in list(open_.items()):
                if p.poll() is not None:
                    ends[i] = (p.returncode, p.stderr.read().strip(), time.monotonic() - begin)
                    del open_[i]
            time.sleep(0.001)
        return [ends[0], ends[1]]

    def one(self, resumed):
        out = self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        lrs = self.rng.sample(list(self.alone), 2)
        more = []
        if resumed:
            p = subprocess.Popen(command(self.rw, self.text, lrs[0], str(out)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(self.rng.uniform(0.01, 0.1))
            p.kill()
            p.wait()
            lrs, more = [lrs[0], lrs[0]], ["--resume"]
        ends = self.both(out, lrs, *more)
        won = [i for i in (0, 1) if ends[i][0] == 0]
        # A second resume that comes after the first has ended finds a finished run.
        if len(won) == 2 and resumed:
            won = won[:1]
        elif len(won) != 1:
            return f"exit codes and messages {ends}"
        else:
            code, line, seconds = ends[1 - won[0]]
            known = "another process works in" in line or "holds a model" in line
            if code != 2 or not known or len(line.splitlines()) != 1:
                return f"the refused one ended with {code}: {line}"
            self.slowest = max(self.slowest, seconds)
        if weights(out) != self.alone[lrs[won[0]]]:
            return f"the files are not those of the run with lr {lrs[won[0]]} alone"
        return None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ropewalk", required=True)
    p.add_argument("--rounds", type=int, default=100)
    p.add_argument("--seed", type=int, default=1)
    o = p.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="two-trainers-"))
    problems = 0
    try:
        rounds = Rounds(str(pathlib.Path(o.ropewalk).resolve()), work, o.seed)
        for i in range(o.rounds):
            problem = rounds.one(i % 3 == 2)
            if problem:
                problems += 1
                print(f"round {i}: {problem}", flush=True)
        print(f"{o.rounds} rounds, {problems} problems; a refused trainer ended within {rounds.slowest:.2f} s")
        return 1 if problems else 0
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
