#!/usr/bin/env python3
"""The claims of the papers, held against the results of `ropewalk compare`.

    python3 scripts/claims.py out/papers-base out/papers-pi out/papers-pose out/papers-e2 out/papers-clex \\
        out/papers-clex-study --markdown out/claims.md --jsonl out/claims.jsonl

PI is arXiv 2306.15595, PoSE 2309.10400, CLEX 2310.16450, E2-LLM 2401.06951, YaRN 2309.00071. L is the base's window.

Arms are looked up by name. Where several folders have an arm (or one that is trained alike under another name, given
after a |), the one with the most seeds is taken, and of equals that of the first folder.

A perplexity is exp(sum of losses / scored tokens) over the test documents, the geometric mean over an arm's seeds. Its
interval is the 95 % percentile interval of 2000 bootstrap draws: of documents, the same for all arms, and of each arm's
seeds. Shares have Wilson's interval (differences Newcombe's); k_max and cost that of the seeds, none for one seed.
A claim holds if its inequalities do over the whole interval, "within noise" if an interval straddles the threshold.
Parts marked with + stand beside a claim and do not count.
"""
from __future__ import annotations

import argparse
import functools
import json
import math
import random
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

DRAWS, SEED = 2000, 1
# Evaluations that hold perplexities of the same documents; where two have a window, the smaller stride is taken.
PPL_FILES = ("ppl", "ppl-near", "ppl-far")


# --- estimates --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Estimate:
    """A number, its bootstrap draws or its bounds (or neither), or the name of what is missing."""
    value: float = math.nan
    draws: Sequence[float] = ()
    bounds: Optional[tuple[float, float]] = None
    missing: str = ""

    def interval(self) -> Optional[tuple[float, float]]:
        if self.bounds or not self.draws:
            return self.bounds
        ordered = sorted(self.draws)
        return ordered[round(0.025 * (len(ordered) - 1))], ordered[round(0.975 * (len(ordered) - 1))]


def combine(f: Callable[..., float], *parts: Estimate) -> Estimate:
    """f of estimates, draw by draw."""
    missing = ", ".join(dict.fromkeys(p.missing for p in parts if p.missing))
    if missing:
        return Estimate(missing=missing)
    draws: Sequence[float] = ()
    if any(p.draws for p in parts):
        draws = list(map(f, *(p.draws or [p.value] * DRAWS for p in parts)))
    return Estimate(f(*(p.value for p in parts)), draws)


def ratio(a: Estimate, b: Estimate) -> Estimate:
    return combine(lambda x, y: x / y, a, b)


def wilson(hits: float, trials: float) -> tuple[float, float]:
    z = 1.959964
    middle, share = hits + z * z / 2, hits / trials
    half = z * math.sqrt(trials * share * (1 - share) + z * z / 4)
    return max(0.0, (middle - half) / (trials + z * z)), min(1.0, (middle + half) / (trials + z * z))


Counts = tuple[int, int]  # hits, trials


def share(counts: Counts | str) -> Estimate:
    if isinstance(counts, str):
        return Estimate(missing=counts)
    return Estimate(counts[0] / counts[1], bounds=wilson(*counts))


def share_difference(a: Counts | str, b: Counts | str) -> Estimate:
    """Newcombe's interval of a difference of two shares."""
    p, q = share(a), share(b)
    if p.missing or q.missing:
        return Estimate(missing=", ".join(dict.fromkeys(m for m in (p.missing, q.missing) if m)))
    d, (pl, ph), (ql, qh) = p.value - q.value, p.bounds, q.bounds
    return Estimate(d, bounds=(d - math.hypot(p.value - pl, qh - q.value), d + math.hypot(ph - p.value, q.value - ql)))


# --- results ----------------------------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


@functools.lru_cache(maxsize=None)
def losses(run: Path, kind: str) -> dict[int, dict[str, tuple[float, int]]]:
    """Summed loss and tokens by window (or context) and document."""
    strides: dict[int, float] = {}
    out: dict[int, dict[str, tuple[float, int]]] = {}
    for name in PPL_FILES if kind == "ppl" else (kind,):
        for row in read_json(run / f"eval-{name}.json").get("rows", []):
            at, stride = row.get("window", row.get("context")), row.get("stride", 0)
            if stride < strides.get(at, math.inf):
                strides[at], out[at] = stride, {}
            if stride == strides[at]:
                nll = math.inf if row["nll"] is None else row["nll"]
                out[at][row["document"]] = (nll * row["tokens"], row["tokens"])
    return out


@functools.lru_cache(maxsize=None)
def document_draws(documents: tuple[str, ...]) -> list[list[int]]:
    rng = random.Random(SEED)
    return [rng.choices(range(len(documents)), k=len(documents)) for _ in range(DRAWS)]


@functools.lru_cache(maxsize=None)
def mean_loss(run: Path, kind: str, at: int) -> tuple[float, list[float]]:
    """Loss per token, and the same under every draw of documents."""
    table = losses(run, kind)[at]
    documents = tuple(sorted(table))
    sums, tokens = [table[d][0] for d in documents], [table[d][1] for d in documents]
    draws = [sum(map(sums.__getitem__, d)) / sum(map(tokens.__getitem__, d)) for d in document_draws(documents)]
    return sum(sums) / sum(tokens), draws


@functools.lru_cache(maxsize=None)
def seed_draws(runs: tuple[Path, ...]) -> list[list[int]]:
    rng = random.Random(f"{SEED} {runs[0].name}")
    return [rng.choices(range(len(runs)), k=len(runs)) for _ in range(DRAWS)]


class Results:
    """The arms of several comparisons."""

    def __init__(self, folders: Sequence[Path], window: int = 0, cost7b: Optional[Path] = None) -> None:
        self.folders = [f for f in folders if f.is_dir()]
        self.L = window
        for config in (f / "base" / "config.json" for f in self.folders):
            self.L = self.L or int(read_json(config).get("max_position_embeddings", 0))
        self.L = self.L or 512
        self.cost7b = [json.loads(line) for line in cost7b.read_text().splitlines() if line.strip()] if cost7b else []

    @functools.lru_cache(maxsize=None)
    def runs(self, folder: Path, name: str) -> tuple[Path, ...]:
        return tuple(sorted(p for p in folder.iterdir()
                            if re.fullmatch(re.escape(name) + r"(-seed\d+)?", p.name) and (p / "stage.toml").exists()))

    def find(self, names: str, has: Callable[[Path], bool]) -> tuple[Path, ...]:
        """The seeds of an arm that have a result."""
        hits = [tuple(r for r in self.runs(f, name) if has(r)) for name in names.split("|") for f in self.folders]
        return max(hits, key=len, default=())

    def absent(self, names: str, what: str) -> str:
        known = any(self.runs(f, name) for name in names.split("|") for f in self.folders)
        return f"{what} of {names.split('|')[0]}" if known else f"arm {names.split('|')[0]}"

    def by_seed(self, names: str, what: str, has: Callable[[Path], bool], value: Callable[[Path], float]) -> Estimate:
        """The mean of a number over an arm's seeds."""
        runs = self.find(names, has)
        if not runs:
            return Estimate(missing=self.absent(names, what))
        values = [value(r) for r in runs]
        draws = [sum(values[i] for i in d) / len(d) for d in seed_draws(runs)] if len(runs) > 1 else ()
        return Estimate(sum(values) / len(values), draws)

    def loss(self, names: str, at: int, kind: str = "ppl") -> Estimate:
        runs = self.find(names, lambda r: at in losses(r, kind))
        if not runs:
            return Estimate(missing=self.absent(names, f"{kind} at {at}"))
        seeds = [mean_loss(r, kind, at) for r in runs]
        if len(runs) == 1:
            return Estimate(*seeds[0])
        draws = [sum(seeds[i][1][j] for i in d) / len(d) for j, d in enumerate(seed_draws(runs))]
        return Estimate(sum(s[0] for s in seeds) / len(seeds), draws)

    def ppl(self, names: str, window: int, kind: str = "ppl") -> Estimate:
        return combine(lambda x: math.exp(min(x, 300.0)), self.loss(names, window, kind))

    def k_max(self, names: str) -> Estimate:
        """The largest length so that at least 20 % of the trials hit at every length up to it."""
        protocol = lambda r: read_json(r / "eval-passkey.json").get("protocol", {})  # noqa: E731
        return self.by_seed(names, "passkey", lambda r: "length_20" in protocol(r), lambda r: protocol(r)["length_20"])

    def hits(self, names: str, kind: str, keep: Callable[[dict], bool]) -> Counts | str:
        """Hits and trials over the seeds, in the lengths and depths that are kept; what is missing, if none is."""
        runs = self.find(names, lambda r: bool(read_json(r / f"eval-{kind}.json")))
        totals = [t for r in runs for t in read_json(r / f"eval-{kind}.json").get("totals", []) if keep(t)]
        trials = sum(t["trials"] for t in totals)
        return (sum(round(t["accuracy"] * t["trials"]) for t in totals), trials) if trials else self.absent(names, kind)

    def lengths(self, names: str, upto: int) -> list[int]:
        runs = self.find(names, lambda r: bool(read_json(r / "eval-passkey.json")))
        return sorted({t["length"] for r in runs for t in read_json(r / "eval-passkey.json")["totals"]
                       if t["length"] <= upto})

    def cost(self, names: str, what: str) -> Estimate:
        """`step`: seconds per step; `peak`: bytes."""
        read = lambda r: read_json(r / "cost.json")  # noqa: E731
        value = lambda c: c["seconds"] / c["steps"] if what == "step" else c["peak_memory_bytes"]  # noqa: E731
        return self.by_seed(names, "cost", lambda r: bool(read(r).get("steps")), lambda r: value(read(r)))

    def ratio7b(self, what: str, a: Callable[[dict], bool], b: Callable[[dict], bool]) -> Estimate:
        """A cost of one row of the 7B table over that of another with the same batch."""
        pairs = [(x, y) for x in self.cost7b for y in self.cost7b if a(x) and b(y) and x["batch"] == y["batch"]]
        if not pairs:
            return Estimate(missing="see the 7B table")
        return Estimate(pairs[0][0][what] / pairs[0][1][what])


# --- verdicts ---------------------------------------------------------------------------------------------------------

WORST_FIRST = ("does not hold", "does not hold, within noise", "holds, within noise", "holds")


@dataclass(frozen=True)
class Part:
    """One inequality: the estimate against a threshold. `also`: beside the claim, not part of it."""
    label: str
    estimate: Estimate
    op: str  # <= < >= > or ~ (1 within the threshold)
    threshold: float
    show: str = ".3f"
    also: bool = False

    def true_at(self, x: float) -> bool:
        t = self.threshold
        return {"<=": x <= t, "<": x < t, ">=": x >= t, ">": x > t, "~": abs(x - 1) <= t}[self.op]

    def verdict(self) -> str:
        if self.estimate.missing:
            return f"not run: {self.estimate.missing}"
        point = "holds" if self.true_at(self.estimate.value) else "does not hold"
        low, high = self.estimate.interval() or (self.estimate.value, self.estimate.value)
        inside = self.op == "~" and low < 1 - self.threshold and high > 1 + self.threshold
        same = self.true_at(low) == self.true_at(high) == self.true_at(self.estimate.value)
        crosses = self.op == "~" and point == "does not hold" and (low - 1) * (high - 1) < 0
        return point if same and not inside and not crosses else point + ", within noise"

    def must(self) -> str:
        text = format(self.threshold, "g" if self.show == ".3f" else self.show)
        return f"1 ± {text}" if self.op == "~" else f"{self.op} {text}"

    def figure(self) -> str:
        if self.estimate.missing:
            return "-"
        interval = self.estimate.interval()
        value = format(self.estimate.value, self.show)
        return f"{value} [{format(interval[0], self.show)}, {format(interval[1], self.show)}]" if interval else value


@dataclass(frozen=True)
class Claim:
    id: str
    title: str
    paper: str  # the paper's own figures
    compute: Callable[[Results], Iterator[Part]] = field(repr=False)


CLAIMS: list[Claim] = []


def claim(id: str, title: str, paper: str) -> Callable[[Callable[[Results], Iterator[Part]]], None]:
    return lambda compute: CLAIMS.append(Claim(id, title, paper, compute))


def overall(parts: Sequence[Part]) -> str:
    """The worst verdict among the parts that count; what was not run is said beside it."""
    counted = [p.verdict() for p in parts if not p.also]
    run = [v for v in counted if v in WORST_FIRST]
    if not run:
        return "not run"
    worst = min(run, key=WORST_FIRST.index)
    return worst if len(run) == len(counted) else f"{worst} ({len(counted) - len(run)} of {len(counted)} parts not run)"


# --- arms -------------------------------------------------------------------------------------------------------------

def pi(r: Results, s: int, steps: int = 1000) -> str:
    """PI at s times the window; 1000 steps of it stand in four recipes."""
    t = s * r.L
    same = f"|full-linear-{t}|pi-{t}" + ("|pi-4L" if s == 4 else "")
    return f"pi-{t}-{steps}steps" + (same if steps == 1000 else "")


def direct(r: Results, s: int, steps: int = 1000) -> str:
    return f"direct-{s * r.L}-{steps}steps" + ("|direct-4L" if s == 4 and steps == 1000 else "")


def zero(r: Results, s: int, kind: str) -> str:
    return f"zero-{s * r.L}-{kind}"


def pose(r: Results, s: int, kind: str = "linear") -> str:
    t = s * r.L
    return f"pose-linear-{t}-1000steps|pose-linear-{t}" if kind == "linear" else f"pose-{t}-{kind}"


# --- Position Interpolation (2306.15595) ------------------------------------------------------------------------------

@claim("P1", "without extension, perplexity explodes beyond L", "> 139x at 2x (Table 1)")
def p1(r: Results) -> Iterator[Part]:
    for s in (4, 2, 8):
        yield Part(f"base: {s}L / L", ratio(r.ppl("base", s * r.L), r.ppl("base", r.L)), ">=", 3, also=s != 4)


@claim("P2", "PI without training is usable, the less so the larger s", "16.10 / 7.20 = 2.24 at 4x; 112.13 at 8x (Table 3)")
def p2(r: Results) -> Iterator[Part]:
    at = {s: r.ppl(zero(r, s, "linear"), s * r.L) for s in (4, 8)}
    yield Part("4L: PI s = 4 / base", ratio(at[4], r.ppl("base", 4 * r.L)), "<", 1)
    yield Part("PI s = 4 at 4L / base at L", ratio(at[4], r.ppl("base", r.L)), "<=", 4)
    yield Part("PI s = 8 at 8L / s = 4 at 4L", ratio(at[8], at[4]), ">", 1)


@claim("P3", "200 steps suffice", "7.12 <= 7.20; 6.95 after 1000 steps (Table 3)")
def p3(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16, 32):
        early, late = (r.ppl(pi(r, s, n), s * r.L) for n in (200, 1000))
        yield Part(f"{s}L: PI, 200 steps / base at L", ratio(early, r.ppl("base", r.L)), "<=", 1.02, also=s != 4)
        yield Part(f"{s}L: 1000 steps / 200 steps", ratio(late, early), "<=", 1, also=s != 4)


@claim("P4", "the longer window helps", "6.95 < 7.13 (Table 1)")
def p4(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16):
        arm = pi(r, s)
        yield Part(f"PI s = {s}: {s}L / L", ratio(r.ppl(arm, s * r.L), r.ppl(arm, r.L)), "<", 1, also=s != 4)
        gain = combine(lambda x, y: x - y, r.loss(arm, s * r.L, "lastk"), r.loss(arm, r.L, "lastk"))
        yield Part(f"s = {s}: loss of the same tokens, context {s}L less L", gain, "<", 0, ".4f", also=s != 4)


@claim("P5", "direct fine-tuning is worse at long windows", "7.69 after 10 times the steps against 6.95 (Table 1)")
def p5(r: Results) -> Iterator[Part]:
    for s, a, b in [(s, n, n) for s in (4, 8, 16, 32) for n in (200, 1000)] + [(4, 1000, 200), (8, 1000, 200)]:
        x = ratio(r.ppl(direct(r, s, a), s * r.L), r.ppl(pi(r, s, b), s * r.L))
        yield Part(f"{s}L: direct, {a} steps / PI, {b} steps", x, ">", 1, also=s != 4 or a != b)


@claim("P6", "passkey after 200 steps: PI reaches its target, direct does not",
       "8192 = L' against 1792 = 0.875L (Table 4)")
def p6(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16, 32):
        yield Part(f"s = {s}: k_max of PI", r.k_max(pi(r, s, 200)), ">=", s * r.L, ".0f")
        yield Part(f"s = {s}: k_max of direct", r.k_max(direct(r, s, 200)), "<=", 1.5 * r.L, ".0f")


@claim("P7", "inside L the price is small and grows with s", "7.13, 7.11, 7.23 against 7.20 at 4x, 8x, 16x (Table 1)")
def p7(r: Results) -> Iterator[Part]:
    at = {s: r.ppl(pi(r, s), r.L) for s in (4, 8, 16, 32)}
    yield Part("L: PI s = 4 / base", ratio(at[4], r.ppl("base", r.L)), "<=", 1.05)
    for s in (8, 16, 32):
        yield Part(f"L: PI s = {s} / s = {s // 2}", ratio(at[s], at[s // 2]), ">=", 1)


# --- PoSE (2309.10400) ------------------------------------------------------------------------------------------------

@claim("S1", "PoSE is near full length", "2.60 / 2.53 = 1.028, 4.60 / 4.59 = 1.002 at 8x (Table 1)")
def s1(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16):
        x = ratio(r.ppl(pose(r, s), s * r.L), r.ppl(pi(r, s), s * r.L))
        yield Part(f"linear, {s}L: PoSE / full", x, "<=", 1.05, also=s == 16)
    for kind in ("yarn", "ntk"):
        full = f"full-1000steps-{kind}" + ("|full-yarn" if kind == "yarn" else "")
        x = ratio(r.ppl(pose(r, 8, kind), 8 * r.L), r.ppl(full, 8 * r.L))
        yield Part(f"{kind}, 8L: PoSE / full", x, "<=", 1.05, also=True)


@claim("S2", "PoSE's cost does not depend on s and is a fraction of full length's", "constant against growing (Fig. 3)")
def s2(r: Results) -> Iterator[Part]:
    skip = lambda s: lambda x: x["name"].startswith("pose") and x["target"] == s * x["window"]  # noqa: E731
    full = lambda x: not x["name"].startswith("pose") and any(  # noqa: E731
        x["window"] == y["target"] for y in r.cost7b if skip(8)(y))
    for what, unit, rows in (("step", "time per step", "seconds"), ("peak", "peak memory", "peak_bytes")):
        x = ratio(r.cost(pose(r, 16), what), r.cost(pose(r, 4), what))
        yield Part(f"{unit}: s = 16 / s = 4", x, "~", 0.05)
        yield Part(f"{unit}, as many sequences, s = 8: PoSE / full", r.ratio7b(rows, skip(8), full), "<=", 1 / 3)
        x = ratio(r.cost(pose(r, 8), what), r.cost(pi(r, 8), what))
        yield Part(f"{unit}, as many tokens, s = 8: PoSE / full", x, "<=", 1, also=True)


@claim("S3", "RandPos is much worse", "15.16 against 4.60 at 8L, 11.63 against 4.84 at L (Table 1)")
def s3(r: Results) -> Iterator[Part]:
    for s, at in ((8, 8), (8, 1), (4, 4), (4, 1)):
        x = ratio(r.ppl(f"randpos-{s * r.L}", at * r.L), r.ppl(pose(r, s), at * r.L))
        yield Part(f"s = {s}, {at if at > 1 else ''}L: RandPos / PoSE", x, ">=", 1.3, also=s == 4)


@claim("S4", "v2 is no worse than v1 at the far end, equal at L", "4.79 against 4.60; 4.84 against 4.84")
def s4(r: Results) -> Iterator[Part]:
    v1 = f"pose-linear-{8 * r.L}-v1"
    yield Part("8L: v1 / v2", ratio(r.ppl(v1, 8 * r.L), r.ppl(pose(r, 8), 8 * r.L)), ">=", 1)
    yield Part("L: v1 / v2", ratio(r.ppl(v1, r.L), r.ppl(pose(r, 8), r.L)), "~", 0.01)


@claim("S5", "three chunks are as good as two, a chunk per token is worst", "2.59, 2.60, 7.73 (Table 5)")
def s5(r: Results) -> Iterator[Part]:
    two, three, all_ = (r.ppl(a, 8 * r.L) for a in (
        pose(r, 8), f"pose-linear-{8 * r.L}-chunks3", f"pose-linear-{8 * r.L}-chunks{r.L}"))
    yield Part("8L: N = 3 / N = 2", ratio(three, two), "~", 0.02)
    yield Part("8L: N = 3 / N = 2", ratio(three, two), "<=", 1)
    yield Part("8L: N = L / the worse of the two", combine(lambda n, a, b: n / max(a, b), all_, two, three), ">", 1)


@claim("S6", "the text's offsets hardly matter", "4.60, 4.68, 4.60 (Table 4)")
def s6(r: Results) -> Iterator[Part]:
    arms = (pose(r, 8), f"pose-linear-{8 * r.L}-content-zero", f"pose-linear-{8 * r.L}-content-same")
    x = combine(lambda *x: max(x) / min(x), *(r.ppl(a, 8 * r.L) for a in arms))
    yield Part("8L: worst / best of uniform, zero, same", x, "<=", 1.03)


@claim("S7", "passkey: 90 % at every length up to the target", ">= 90 % within 16k and 32k")
def s7(r: Results) -> Iterator[Part]:
    for kind in ("linear", "ntk", "yarn"):
        for s in (4, 8, 16, 32):
            arm, reached = pose(r, s, kind), 0
            shares = {n: r.hits(arm, "passkey", lambda t, n=n: t["length"] == n) for n in r.lengths(arm, s * r.L)}
            worst = min((share(c) for c in shares.values()), key=lambda e: e.value,
                        default=Estimate(missing=r.absent(arm, "passkey")))
            for n, counts in shares.items():
                if share(counts).value < 0.9:
                    break
                reached = n
            label = f"{kind}, s = {s}: the worst length (90 % up to {reached} of {s * r.L})"
            yield Part(label, worst, ">=", 0.9, ".0%", also=kind == "ntk")


@claim("S8", "NTK is best in the middle and blows up; YaRN beats linear at large s",
       "NTK-96k 7.98, 20.39, 38.73; 128k: 11.33, 31.18, 34.80 (Table 2)")
def s8(r: Results) -> Iterator[Part]:
    kinds = ("ntk", "linear", "yarn")
    middle, end = ([r.ppl(pose(r, 8, k), n * r.L) for k in kinds] for n in (4, 8))
    best = lambda n, a, b: n / min(a, b)  # noqa: E731
    yield Part("s = 8, 4L: NTK / the better of linear and YaRN", combine(best, *middle), "<", 1)
    yield Part("s = 8, 8L: NTK / the better of linear and YaRN", combine(best, *end), ">", 1.1)
    yield Part("s = 8, NTK: 8L / 4L", ratio(end[0], middle[0]), ">", 1.1)
    for s in (16, 32):
        x = ratio(r.ppl(pose(r, s, "yarn"), s * r.L), r.ppl(pose(r, s), s * r.L))
        yield Part(f"s = {s}, {s}L: YaRN / linear", x, "<=", 1)


# --- CLEX (2310.16450) ------------------------------------------------------------------------------------------------

def clex_arms(r: Results) -> list[str]:
    """Every arm trained by CLEX with the window L."""
    found = [p for f in r.folders for p in sorted(f.iterdir()) if (p / "recipe.toml").exists()]
    texts = {p: (p / "recipe.toml").read_text() for p in found}
    return list(dict.fromkeys(re.sub(r"-seed\d+$", "", p.name) for p, text in texts.items()
                              if 'method = "clex"' in text and f'\nwindow = "{r.L}"' in text))


def clex_growth(r: Results, arm: str, s: int) -> Estimate:
    return ratio(r.ppl(arm, s * r.L), r.ppl(arm, r.L))


@claim("C2", "trained at L, CLEX holds to 4L and degrades at 8L", "5.86, 5.70, 5.87, 14.53 at L, 2L, 4L, 8L")
def c2(r: Results) -> Iterator[Part]:
    growth = {a: clex_growth(r, a, 4) for a in clex_arms(r) if a not in ("clex", "clex-prior")}
    best = min((a for a, g in growth.items() if not g.missing), key=lambda a: growth[a].value, default="")
    for arm in ["clex"] + [best] * bool(best):
        label = arm if arm == "clex" else f"{arm}, the best at 4L of its study"
        yield Part(f"{label}: 2L / L", clex_growth(r, arm, 2), "<=", 1, also=arm != "clex")
        yield Part(f"{label}: 4L / L", clex_growth(r, arm, 4), "<=", 1.02, also=arm != "clex")
        yield Part(f"{label}: 8L / L", clex_growth(r, arm, 8), ">", 1.02, also=arm != "clex")


@claim("C3", "trained at 4L, CLEX is flat to 16L, and PI degrades more", "5.64 / 5.52 = 1.022 against 8.75 / 5.72 = 1.53")
def c3(r: Results) -> Iterator[Part]:
    grown = {a: ratio(r.ppl(a, 16 * r.L), r.ppl(a, 4 * r.L)) for a in ("clex-at-4L", pi(r, 4), direct(r, 4))}
    clex, linear, tuned = grown.values()
    yield Part("CLEX: 16L / 4L", clex, "<=", 1.05)
    yield Part("16L / 4L: PI / CLEX", ratio(linear, clex), ">", 1)
    yield Part("16L / 4L: direct / CLEX", ratio(tuned, clex), ">", 1, also=True)


@claim("C4", "no loss inside L", "5.86 against the base's 6.04")
def c4(r: Results) -> Iterator[Part]:
    for arm in ("clex", "clex-at-4L"):
        yield Part(f"L: {arm} / base", ratio(r.ppl(arm, r.L), r.ppl("base", r.L)), "<=", 1.02, also=arm != "clex")


@claim("C5", "the learned part beats its prior alone", "no figure in the paper")
def c5(r: Results) -> Iterator[Part]:
    for s in (4, 8, 2):
        x = ratio(r.ppl("clex", s * r.L), r.ppl("clex-prior", s * r.L))
        yield Part(f"{s}L: CLEX / prior", x, "<=", 1, also=s == 2)


@claim("C7", "the solver takes at most 2 % of a step", "1-2 % (the authors)")
def c7(r: Results) -> Iterator[Part]:
    for i, arm in enumerate(("more-steps", "pose-yarn")):
        x = combine(lambda a, b: a / b - 1, r.cost("clex", "step"), r.cost(arm, "step"))
        yield Part(f"time per step over that of {arm}", x, "<=", 0.02, ".1%", also=i > 0)


@claim("C8", "log-n scaling below L must be clamped", "the published code scales by ln n / ln L < 1 there")
def c8(r: Results) -> Iterator[Part]:
    at = r.L // 8
    x = ratio(r.ppl("clex-logn-constant", at), r.ppl("clex-logn-position", at))
    yield Part("L/8: unclamped / clamped", x, ">", 1)


# --- E2-LLM (2401.06951) ----------------------------------------------------------------------------------------------
# An arm's scale is g = ceil(W / L), as the paper chooses it; evaluations `ppl-gN` are at a fixed g = N.

E2 = "e2-max-factor16"


@claim("E1", "one training serves all windows", "2.96, 2.71, 2.54 at 4k, 8k, 16k (g = 4); 3.06 to 2.51 at 32k (g = 16)")
def e1(r: Results) -> Iterator[Part]:
    for g in (2, 4, 8, 16):
        yield Part(f"{g}L / L", ratio(r.ppl(E2, g * r.L), r.ppl(E2, r.L)), "<=", 1.05)
    for g in (2, 4, 8):
        yield Part(f"{g}L / {g // 2}L", ratio(r.ppl(E2, g * r.L), r.ppl(E2, g * r.L // 2)), "<", 1)
    for g in (2, 4, 8, 16):
        x = ratio(r.ppl(E2, g * r.L), r.ppl(E2, r.L, f"ppl-g{g}"))
        yield Part(f"{g}L / L, both at g = {g}", x, "<=", 1.05, also=True)


@claim("E2", "the price inside L grows slowly with g", "3.06 / 2.96 = 1.034; 3.06 / 2.92 = 1.048 over the base")
def e2(r: Results) -> Iterator[Part]:
    far = r.ppl(E2, r.L, "ppl-g16")
    yield Part("L: g = 16 / g = 4", ratio(far, r.ppl(E2, r.L, "ppl-g4")), "<=", 1.06)
    yield Part("L: g = 16 / base", ratio(far, r.ppl("base", r.L)), "<=", 1.08)
    trained = {n: r.ppl(f"e2-max-factor{n}", r.L) for n in (4, 16)}
    yield Part("L, g = 1: G 16 / G 4", ratio(trained[16], trained[4]), "<=", 1.06, also=True)
    yield Part("L, g = 1: G 16 / base", ratio(trained[16], r.ppl("base", r.L)), "<=", 1.08, also=True)


@claim("E3", "as good as PI trained for that one target", "LongBench 41.13 against 37.65")
def e3(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16):
        x = ratio(r.ppl(E2, s * r.L), r.ppl(pi(r, s), s * r.L))
        yield Part(f"{s}L: E2 / PI", x, "<=", 1.05, also=s == 16)


@claim("E4", "both augmentations are needed", "41.74 > 39.44 (no t) > 38.77 (no g)")
def e4(r: Results) -> Iterator[Part]:
    at_8 = lambda arm: r.hits(arm, "passkey", lambda t: t["length"] == 8 * r.L)  # noqa: E731
    for arm, what in (("e2-16-fixed-t", "t"), ("e2-16-fixed-g", "g")):
        yield Part(f"8L: full / without {what}", ratio(r.ppl(E2, 8 * r.L), r.ppl(arm, 8 * r.L)), "<", 1)
        x = share_difference(at_8(E2), at_8(arm))
        yield Part(f"8L, passkey: full less without {what}", x, ">=", 0, ".0%", also=True)


@claim("E5", "E2 finds a key at the beginning rather than elsewhere; PoSE reaches further", "our hypothesis")
def e5(r: Results) -> Iterator[Part]:
    grid = [n * r.L for n in (2, 4, 8, 16)]
    beyond = lambda t: t["length"] in grid and t["depth"] > 0 and t["mean_distance"] > r.L  # noqa: E731
    elsewhere = r.hits(E2, "needle", beyond)
    first = r.hits(E2, "passkey", lambda t: t["length"] in grid)
    other = pose(r, 16)
    yield Part("E2: key first less elsewhere, further than L", share_difference(first, elsewhere), ">", 0, ".0%")
    x = share_difference(r.hits(other, "needle", beyond), elsewhere)
    yield Part("elsewhere, further than L: PoSE less E2", x, ">", 0, ".0%")
    yield Part("k_max, key first: PoSE less E2", combine(lambda a, b: a - b, r.k_max(other), r.k_max(E2)), ">", 0, ".0f")


@claim("E6", "trained to G = 8, larger g still works for a while", "fine to 1.5 G, worse from 2 G")
def e6(r: Results) -> Iterator[Part]:
    at = {g: r.ppl("e2-max-factor8", g * r.L) for g in (8, 12, 16)}
    yield Part("12L / 8L", ratio(at[12], at[8]), "<=", 1.1)
    yield Part("16L / 8L", ratio(at[16], at[8]), ">", 1.1)


@claim("E7", "G saturates", "41.74 at 20, 41.51 at 30, 40.12 at 5")
def e7(r: Results) -> Iterator[Part]:
    at = {g: r.ppl(f"e2-max-factor{g}", 8 * r.L) for g in (4, 8, 16, 32)}
    yield Part("8L: G 32 / G 16", ratio(at[32], at[16]), "~", 0.02)
    yield Part("8L: G 16 / G 4", ratio(at[16], at[4]), "<", 1)
    yield Part("8L: G 16 / G 8", ratio(at[16], at[8]), "<", 1, also=True)


@claim("E8", "costs what fine-tuning at the short window costs", "46.3 GB against 57.4 at 4x, 68.8 at 8x")
def e8(r: Results) -> Iterator[Part]:
    e2_row, plain = (lambda x: x["name"].startswith("e2")), (lambda x: x["name"].startswith("plain"))
    for what, unit, rows in (("peak", "peak memory", "peak_bytes"), ("step", "time per step", "seconds")):
        yield Part(f"{unit}: E2 / more-steps", ratio(r.cost(E2, what), r.cost("more-steps", what)), "~", 0.05)
        yield Part(f"{unit}, 7B: E2 / plain", r.ratio7b(rows, e2_row, plain), "~", 0.05, also=True)


# --- neighbours -------------------------------------------------------------------------------------------------------

@claim("N1", "without training NTK beats PI at 2L", "a claim of the community")
def n1(r: Results) -> Iterator[Part]:
    for s in (2, 4):
        x = ratio(r.ppl(zero(r, s, "ntk"), 2 * r.L), r.ppl(zero(r, s, "linear"), 2 * r.L))
        yield Part(f"2L, s = {s}: NTK / PI", x, "<", 1, also=s == 4)


@claim("N2", "YaRN: best untrained; trained as good as PI inside, better beyond", "3.35 / 3.34 at 8k, 6.04 / 8.07 at 10k")
def n2(r: Results) -> Iterator[Part]:
    yarn, linear = "full-1000steps-yarn|full-yarn", pi(r, 8)
    x = ratio(r.ppl(zero(r, 4, "yarn"), 4 * r.L), r.ppl(zero(r, 4, "ntk"), 4 * r.L))
    yield Part("untrained, 4L: YaRN / NTK", x, "<=", 1)
    yield Part("s = 8, 8L: YaRN / PI", ratio(r.ppl(yarn, 8 * r.L), r.ppl(linear, 8 * r.L)), "~", 0.02)
    yield Part("s = 8, 16L: YaRN / PI", ratio(r.ppl(yarn, 16 * r.L), r.ppl(linear, 16 * r.L)), "<", 1)


# --- exact statements -------------------------------------------------------------------------------------------------

TESTS = {  # claim: title, test cases as (file below tests/, name)
    "P8": ("PI's bounds: the corrected one holds, the printed one does not", [
        ("rope/test_bounds.cpp",
         "The corrected interpolation bound holds in 100 000 random trials, and so does the extrapolation bound"),
        ("rope/test_bounds.cpp", "The printed interpolation bound is violated by an explicit h, the corrected one is not"),
        ("rope/test_bounds.cpp", "B(s)/d takes the reference values and has its minimum 1.1159 at s = 3643")]),
    "S9": ("PoSE's coverage is its exact formula's", [
        ("rope/test_positions.cpp",
         "PoSE covers every distance as often as the exact formula says, within 3 sigma of 100 000 draws")]),
    "C1": ("CLEX begins as dynamic NTK with s = 2t - 1", [
        ("rope/test_clex.cpp", "With W = 0, CLEX is dynamic NTK with s = 2t - 1, for either prior's own s"),
        ("nn/test_llama.cpp", "CLEX with a zero down-projection is dynamic NTK with s = 2t - 1")]),
    "C6": ("CLEX's gradients are right, by backprop and by the adjoint", [
        ("rope/test_clex.cpp", "gradcheck: the op clex, several t per batch, every switch"),
        ("rope/test_clex.cpp",
         "Adjoint equals backprop within 1e-8 at h = 0.1, and the gap falls as h^5, the error of z as h^4")]),
    "N3": ("all frequencies are the reference's", [
        ("rope/test_scaling.cpp", "Every list of rope_golden.json is met within 1e-6")]),
}


def tested(id: str) -> dict:
    """The row of a claim that unit tests hold."""
    title, cases = TESTS[id]
    root, names, here = Path(__file__).resolve().parent.parent / "tests", [], True
    for file, name in cases:
        here = here and f'TEST_CASE("{name}")' in (root / file).read_text() if (root / file).exists() else False
        names.append(f"test_{Path(file).parent}: {name}")
    return {"claim": id, "title": title, "paper": "", "verdict": "holds (test)" if here else "test not found",
            "tests": names, "parts": []}


# --- output -----------------------------------------------------------------------------------------------------------

def row_of(c: Claim, r: Results) -> dict:
    parts = list(c.compute(r))
    verdict = overall(parts)
    if c.id == "C8" and verdict == "not run":
        verdict = "not tested"
    rows = []
    for p in parts:
        low, high = p.estimate.interval() or (None, None)
        value = None if p.estimate.missing else p.estimate.value
        rows.append({"part": p.label, "counts": not p.also, "value": value, "low": low, "high": high, "must": p.must(),
                     "figure": p.figure(), "verdict": p.verdict()})
    return {"claim": c.id, "title": c.title, "paper": c.paper, "verdict": verdict, "parts": rows}


def all_rows(r: Results) -> list[dict]:
    rows = [row_of(c, r) for c in CLAIMS] + [tested(id) for id in TESTS]
    return sorted(rows, key=lambda row: ("PSCEN".index(row["claim"][0]), int(row["claim"][1:])))


def claims_table(rows: Sequence[dict]) -> list[str]:
    out = ["| claim | | papers' figures | ours, 95 % interval | must be | verdict |", "|---|---|---|---|---|---|"]
    for row in rows:
        out.append(f"| **{row['claim']}** | **{row['title']}** | {row['paper']} | | | **{row['verdict']}** |")
        out += [f"| | {name} | | | | |" for name in row.get("tests", [])]
        for p in row["parts"]:
            label = p["part"] if p["counts"] else "+ " + p["part"]
            out.append(f"| | {label} | | {p['figure']} | {p['must']} | {p['verdict']} |")
    return out


def clex_table(r: Results) -> list[str]:
    """The arms of CLEX trained at L, against what an earlier small study reached: 1.02 at 2L, 1.10 at 4L."""
    out = ["| CLEX trained at L | ppl at L | 2L / L | goal 1.02 | 4L / L | goal 1.10 | 8L / L |", "|---|---|---|---|---|---|---|"]
    for arm in clex_arms(r):
        at_l = r.ppl(arm, r.L)
        two, four, eight = (Part("", clex_growth(r, arm, s), "<=", goal) for s, goal in ((2, 1.02), (4, 1.1), (8, 1.1)))
        out.append(f"| {arm} | {Part('', at_l, '<=', 0, '.2f').figure()} | {two.figure()} | {two.verdict()} "
                   f"| {four.figure()} | {four.verdict()} | {eight.figure()} |")
    return out


# --- self-test --------------------------------------------------------------------------------------------------------

def self_test() -> int:
    """Made-up results whose verdicts are known."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def arm(name: str, at: dict[int, list[float]], length_20: int = 0) -> None:
            (root / name).mkdir()
            (root / name / "stage.toml").write_text("")
            rows = [{"document": f"d{i}", "window": w, "stride": 8, "tokens": 100, "nll": x}
                    for w, nll in at.items() for i, x in enumerate(nll)]
            (root / name / "eval-ppl.json").write_text(json.dumps({"rows": rows}))
            passkey = {"protocol": {"length_20": length_20}, "totals": []}
            (root / name / "eval-passkey.json").write_text(json.dumps(passkey))

        base, ten = [1.0, 2.0, 3.0, 4.0], math.log(10)
        arm("base", {64: base, 256: [x + ten for x in base]})
        arm("pi-256-200steps", {256: [x + 0.1 for x in base]}, 256)
        arm("direct-256-200steps", {256: base}, 96)
        for seed, shift in ((1, 0.19), (2, 0.21)):  # two seeds, no spread over documents
            arm(f"pi-256-1000steps-seed{seed}", {64: base, 256: [x + shift for x in base]})
        arm("clex", {64: [1.2, 1.9, 3.2, 3.8]})
        rows = {row["claim"]: row for row in all_rows(Results([root], 64))}
    part = {(c, p["part"]): p for c, row in rows.items() for p in row["parts"]}
    p3_late = part["P3", "4L: 1000 steps / 200 steps"]
    checks = [
        (rows["P1"]["verdict"], "holds"),
        (round(part["P1", "base: 4L / L"]["value"], 6), 10.0),
        (round(part["P1", "base: 4L / L"]["low"], 6), 10.0),
        (rows["P3"]["verdict"], "does not hold"),
        (round(p3_late["value"], 6), round(math.exp(0.1), 6)),
        (round(p3_late["high"], 6), round(math.exp(0.11), 6)),  # both draws of the worse seed
        (part["P6", "s = 4: k_max of PI"]["verdict"], "holds"),
        (rows["P6"]["verdict"], "holds (6 of 8 parts not run)"),
        (part["C4", "L: clex / base"]["verdict"], "does not hold, within noise"),
        (rows["E4"]["verdict"], "not run"),
        (part["E4", "8L: full / without t"]["verdict"], "not run: arm e2-max-factor16, arm e2-16-fixed-t"),
        (part["P3", "4L: PI, 200 steps / base at L"]["must"], "<= 1.02"),
        (tuple(round(x, 4) for x in wilson(29, 32)), (0.7578, 0.9676)),
    ] + [(rows[id]["verdict"], "holds (test)") for id in TESTS]
    for got, wanted in checks:
        if got != wanted:
            print(f"self-test: got {got!r}, expected {wanted!r}", file=sys.stderr)
    good = all(got == wanted for got, wanted in checks)
    print(f"self-test: {len(checks)} checks, {'all met' if good else 'not all met'}")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="output folders of `ropewalk compare`")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file as well")
    parser.add_argument("--jsonl", type=Path, help="write one row per claim to this file")
    parser.add_argument("--window", type=int, default=0, help="L (default: the base's window)")
    parser.add_argument("--cost7b", type=Path,
                        help='JSONL with {"name","window","target","batch","seconds","peak_bytes"}: steps of a 7B model')
    parser.add_argument("--self-test", action="store_true", help="try the script on made-up results")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    for folder in options.folders:
        if not folder.is_dir():
            print(f"claims: no folder {folder}, its arms count as not run", file=sys.stderr)
    results = Results(options.folders, options.window, options.cost7b)
    rows = all_rows(results)
    text = "\n".join(claims_table(rows) + [""] + clex_table(results)) + "\n"
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text)
    if options.jsonl:
        options.jsonl.write_text("".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
