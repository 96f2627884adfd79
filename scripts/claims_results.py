"""For scripts/claims.py: numbers with an interval, the results of `ropewalk compare`, verdicts."""
from __future__ import annotations

import functools
import json
import math
import random
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Callable, Iterator, Optional, Protocol, Sequence

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
    documents: tuple = ()  # what a loss was measured on

    def interval(self) -> Optional[tuple[float, float]]:
        if self.bounds or not self.draws:
            return self.bounds
        ordered = sorted(self.draws)
        return ordered[round(0.025 * (len(ordered) - 1))], ordered[round(0.975 * (len(ordered) - 1))]


def combine(f: Callable[..., float], *parts: Estimate) -> Estimate:
    """f of estimates, draw by draw."""
    missing = ", ".join(dict.fromkeys(p.missing for p in parts if p.missing))
    texts = {p.documents for p in parts if p.documents}
    if missing or len(texts) > 1:
        return Estimate(missing=missing or "measured on the same documents")
    draws: Sequence[float] = ()
    if any(p.draws for p in parts):
        draws = list(map(f, *(p.draws or [p.value] * DRAWS for p in parts)))
    return Estimate(f(*(p.value for p in parts)), draws, documents=next(iter(texts), ()))


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


def step_times(run: Path) -> list[float]:
    """Seconds of each step after the first."""
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [b["time_s"] - a["time_s"] for a, b in zip(rows, rows[1:]) if b["step"] == a["step"] + 1]


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
def mean_loss(run: Path, kind: str, at: int) -> Estimate:
    """Loss per token, and the same under every draw of documents."""
    table = losses(run, kind)[at]
    documents = tuple(sorted(table))
    sums, tokens = [table[d][0] for d in documents], [table[d][1] for d in documents]
    draws = [sum(map(sums.__getitem__, d)) / sum(map(tokens.__getitem__, d)) for d in document_draws(documents)]
    return Estimate(sum(sums) / sum(tokens), draws, documents=tuple(zip(documents, tokens)))


@functools.lru_cache(maxsize=None)
def seed_draws(runs: tuple[Path, ...]) -> list[list[int]]:
    rng = random.Random(f"{SEED} {runs[0].name}")
    return [rng.choices(range(len(runs)), k=len(runs)) for _ in range(DRAWS)]


class Window(Protocol):
    """What arms' names depend on: the base's window."""
    L: int


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
        mean = combine(lambda *x: sum(x) / len(x), *seeds)
        if len(runs) == 1 or mean.missing:
            return mean
        draws = [sum(seeds[i].draws[j] for i in d) / len(d) for j, d in enumerate(seed_draws(runs))]
        return replace(mean, draws=draws)

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
        return sorted({t["length"] for r in runs for t in read_json(r / "eval-passkey.json").get("totals", [])
                       if t["length"] <= upto})

    def cost(self, names: str, what: str) -> Estimate:
        """`step`: seconds per step; `steady`: the median of steps, without a run's beginning; `peak`: bytes."""
        if what == "steady":
            return self.by_seed(names, "metrics", lambda r: len(step_times(r)) > 2, lambda r: median(step_times(r)))
        read = lambda r: read_json(r / "cost.json")  # noqa: E731
        value = lambda c: c["seconds"] / c["steps"] if what == "step" else c["peak_memory_bytes"]  # noqa: E731
        return self.by_seed(names, "cost", lambda r: bool(read(r).get("steps")), lambda r: value(read(r)))

    def ratio7b(self, what: str, a: Callable[[dict], bool], b: Callable[[dict], bool]) -> Estimate:
        """A cost of one row of the 7B table over that of another with the same batch. A row with every block computed
        again stands for one that does not fit otherwise. `activations`: the bytes above those that do not depend on
        the batch; of a row that does not fit they are at least what the largest row that does fit has."""
        if what == "activations":
            value, rows = self.activations7b, [x for x in self.cost7b if not x["recompute"]]
        else:
            value, rows = (lambda x: x[what]), [x for x in self.cost7b if x[what] is not None]
        pairs = [(x, y) for x in rows for y in rows if a(x) and b(y) and x["batch"] == y["batch"]]
        if not pairs:
            return Estimate(missing="see the 7B table")
        return Estimate(value(pairs[0][0]) / value(pairs[0][1]))

    def activations7b(self, row: dict) -> float:
        """Peak bytes without weights, gradients and optimizer, which two batches of PoSE tell apart."""
        peak = {x["batch"]: x["peak_bytes"] for x in self.cost7b if x["name"].startswith("pose")}
        fixed = (2 * peak[1] - peak[2]) if {1, 2} <= set(peak) else 0
        most = max(x["peak_bytes"] or 0 for x in self.cost7b)
        return (row["peak_bytes"] or most) - fixed


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
        low, high = self.estimate.interval() or (self.estimate.value, self.estimate.value)
        one_side = self.op != "~" or low > 1 or high < 1
        if self.true_at(low) and self.true_at(high):
            return "holds"
        if not self.true_at(low) and not self.true_at(high) and one_side:
            return "does not hold"
        return ("holds" if self.true_at(self.estimate.value) else "does not hold") + ", within noise"

    def must(self) -> str:
        text = format(self.threshold, self.show if "%" in self.show else ".5g" if self.show == ".0f" else ".3g")
        return f"1 ± {text}" if self.op == "~" else f"{self.op} {text}"

    def figure(self) -> str:
        if self.estimate.missing:
            return "-"
        interval, value = self.estimate.interval(), self.estimate.value
        show = self.show
        if show == ".3f":  # more digits near the threshold, fewer where they are many
            show = ".4f" if abs(value - (1 if self.op == "~" else self.threshold)) < 0.01 else ".3f"
            show = ".4g" if abs(value) >= 1000 else show
        low_high = f" [{interval[0]:{show}}, {interval[1]:{show}}]" if interval else ""
        return f"{value:{show}}{low_high}"


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
