"""For scripts/papers_tables.py: the results in docs/papers, how they get there, and the arms of the recipes.

    base, pi, pose, e2, clex, clex-study, pilot .jsonl
                        table.jsonl of `compare`, a row per arm and metric, without min and max
    training.jsonl      a row per trained run: batch, window, steps, share of key sequences, median time of a step in ms
                        (the first left out), mean training losses [step, mean of the `span` steps before it], the
                        losses of validation.jsonl [step, loss], and whether the run was evaluated
    base-totals.jsonl   the totals of the base's evaluations, with their intervals
    claims.jsonl        a row per claim, as scripts/claims.py writes it; clex-goals.jsonl, the same of CLEX by setting
    lora.jsonl          a row per arm of recipes/papers/lora.toml (scripts/papers_lora.py)
    cost7b.jsonl        `ropewalk bench window --json`
    pilot-pytorch.json  what the PyTorch program of the pilot wrote, without its paths
    pilot-times.json    seconds of the pilot that only logs have
"""
from __future__ import annotations

import itertools
import json
import re
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Optional, Sequence

from claims import all_rows, jsonl, study_rows
from claims_results import Results, read_json
from papers_lora import lora_rows

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "papers"
COMPARISONS = ("base", "pi", "pose", "e2", "clex", "clex-study", "causes")
BASE_TOTALS = ("validation", "ppl", "ppl-near", "ppl-far", "passkey-window", "passkey")


# --- reading ----------------------------------------------------------------------------------------------------------

def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


@dataclass(frozen=True)
class Arm:
    """An arm of one comparison: rows by metric, and its training runs, one per seed."""
    name: str = ""
    folder: str = ""
    rows: dict = field(default_factory=dict, repr=False)
    runs: Sequence[dict] = ()

    @property
    def seeds(self) -> int:
        return max((row["seeds"] for metric, row in self.rows.items() if "@" in metric), default=0)

    def mean(self, metric: str) -> Optional[float]:
        return self.rows.get(metric, {}).get("mean")

    def deviation(self, metric: str) -> Optional[float]:
        return self.rows.get(metric, {}).get("deviation")

    def values(self, metric: str) -> list[float]:
        return [float(x) for x in self.rows.get(metric, {}).get("values", "").split()]

    def ppl_metric(self, window: int) -> str:
        """The perplexity with the smallest stride."""
        names = (f"{kind} @{window}" for kind in ("ppl-near", "ppl", "ppl-far"))
        return next((name for name in names if name in self.rows), "")

    def ppl(self, window: int) -> Optional[float]:
        return self.mean(self.ppl_metric(window))

    def shares(self) -> dict[int, float]:
        """Passkeys found in percent by prompt length."""
        found = {re.fullmatch(r"passkey @(\d+) depth 0, %", m): row["mean"] for m, row in self.rows.items()}
        return dict(sorted((int(m[1]), share) for m, share in found.items() if m))

    def loss_at(self, first: int, last: int) -> Optional[float]:
        """The loss of tokens first to last - 1 in the longest window."""
        bins = [self.mean(f"bins @{at}") for at in range(first, last, 256)]
        return sum(bins) / len(bins) if all(b is not None for b in bins) else None

    def last_loss(self) -> Optional[float]:
        ends = [run["losses"][-1][1] for run in self.runs if run["losses"]]
        return sum(ends) / len(ends) if ends else None

    def step_ms(self) -> Optional[float]:
        return sum(run["step_ms"] for run in self.runs) / len(self.runs) if self.runs else None

    def key_sequences(self) -> float:
        """Key-retrieval sequences seen in training."""
        return max((r["steps"] * r["batch"] * r["retrieval_share"] for r in self.runs), default=0)


class Data:
    """What docs/papers holds."""

    def __init__(self, folder: Path = DATA) -> None:
        self.arms: dict[str, dict[str, Arm]] = {}
        training = read_rows(folder / "training.jsonl")
        for name in COMPARISONS + ("pilot",):
            arms: dict[str, dict] = {}
            for row in read_rows(folder / f"{name}.jsonl"):
                arms.setdefault(row["arm"], {})[row["metric"]] = row
            self.arms[name] = {
                arm: Arm(arm, name, rows, [t for t in training if (t["folder"], t["arm"]) == (name, arm)])
                for arm, rows in arms.items()}
        self.L = next((t["window"] for t in training if (t["folder"], t["arm"]) == ("base", "base")), 512)
        self.base_totals = read_rows(folder / "base-totals.jsonl")
        self.claims = read_rows(folder / "claims.jsonl")
        self.clex_goals = read_rows(folder / "clex-goals.jsonl")
        self.cost7b = read_rows(folder / "cost7b.jsonl")
        self.pilot_pytorch = read_json(folder / "pilot-pytorch.json")
        self.pilot_times = read_json(folder / "pilot-times.json")

    def find(self, names: str) -> Optional[Arm]:
        """As in claims.py: of the arms that are trained alike that with the most seeds, then that of the first name."""
        hits = [self.arms[f][name] for name in names.split("|") for f in COMPARISONS if name in self.arms[f]]
        return max((h for h in hits if h.seeds), key=lambda h: h.seeds, default=None)

    def seeds_run(self, folder: str, arm: str) -> set[int]:
        """The seeds that were evaluated; {0} for an arm without a seed of its own."""
        found = self.arms[folder].get(arm, Arm())
        if not found.seeds:
            return set()
        return {r["seed"] for r in found.runs if r["evaluated"]} or {0}


# --- recipes ----------------------------------------------------------------------------------------------------------

def recipe_arms(name: str) -> dict[str, list[int]]:
    """The arms of recipes/papers/NAME.toml by family, each with its seeds ([0]: no list of seeds)."""
    shared: dict[str, list[str]] = {}
    families: dict[str, dict[str, list[str]]] = {}
    for file in ("shared", name):
        section = ""
        for line in (ROOT / "recipes" / "papers" / f"{file}.toml").read_text().splitlines():
            if head := re.fullmatch(r"\[(.+)\]", line):
                section = head[1]
                if section.startswith("arms."):
                    families[section[5:]] = {}
            elif item := re.fullmatch(r"([a-z-]+) = (.+)", line):
                text = item[2].strip()
                listed = text[1:-1].split(",") if text.startswith("[") else [text]
                values = [v.strip().strip("\"'") for v in listed]
                if section == "arm":
                    shared[item[1]] = values
                elif section.startswith("arms."):
                    families[section[5:]][item[1]] = values
    out = {}
    for family, own in families.items():
        keys = shared | own  # keys of [arm] first, as `compare` names arms
        seeds = [int(s) for s in keys.pop("seeds", ["0"])]
        suffixes = [[suffix(key, v) for v in values] if len(values) > 1 else [""] for key, values in keys.items()]
        out.update({family + "".join(chosen): seeds for chosen in itertools.product(*suffixes)})
    return out


def suffix(key: str, value: str) -> str:
    if key == "steps":
        return f"-{value}steps"
    return f"-{key}{value}" if value[0].isdigit() and key != "target" else f"-{value}"


# --- import -----------------------------------------------------------------------------------------------------------

def comparison(folder: Path) -> str:
    return folder.name[len("papers-"):] if folder.name.startswith("papers-") else folder.name


def without_bounds(row: dict) -> dict:
    return {k: v for k, v in row.items() if k not in ("min", "max")}


def recipe_value(text: str, key: str) -> str:
    found = re.search(rf'^{key} = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else "0"


def training_row(name: str, run: Path, marks: Sequence[int], span: int) -> dict:
    text = (run / "recipe.toml").read_text()
    steps = int(read_json(run / "cost.json")["steps"])
    metrics = {row["step"] + 1: row for row in read_rows(run / "metrics.jsonl")}  # by steps done
    gaps = [metrics[n]["time_s"] - metrics[n - 1]["time_s"] for n in metrics if n > 1 and n - 1 in metrics]
    losses = [[n, round(statistics.fmean(metrics[i]["loss"] for i in range(n - span + 1, n + 1)), 5)]
              for n in sorted({*marks, steps}) if all(i in metrics for i in range(n - span + 1, n + 1))]
    return {"folder": name, "arm": re.sub(r"-seed\d+$", "", run.name), "seed": int(recipe_value(text, "seed")),
            "method": recipe_value(text, "method"), "window": int(recipe_value(text, "window")),
            "target": int(recipe_value(text, "target")), "batch": int(recipe_value(text, "batch")), "steps": steps,
            "retrieval_share": float(recipe_value(text, "retrieval_share")),
            "step_ms": round(1000 * statistics.median(gaps), 3) if gaps else None, "span": span, "losses": losses,
            "validation": [[row["step"], round(row["loss"], 5)] for row in read_rows(run / "validation.jsonl")],
            "evaluated": {p.name for p in (run.parent / "base").glob("eval-*.json")} <= {p.name for p in run.iterdir()}}


def training_rows(folder: Path, marks: Sequence[int], span: int) -> Iterator[dict]:
    name = comparison(folder)
    for run in sorted(p.parent for p in folder.glob("*/cost.json")):
        if run.name != "base" or name in ("base", "pilot"):  # others copy the base
            yield training_row(name, run, marks, span)


def seconds(text: str) -> float:
    """2m 25s, 3.8s"""
    parts = re.fullmatch(r"(?:(\d+)m )?([\d.]+)s", text.strip())
    return 60 * int(parts[1] or 0) + float(parts[2]) if parts else 0


def pilot_times(folder: Optional[Path], log: Optional[Path], pytorch_log: Optional[Path], old: dict) -> dict:
    times = dict(old)
    if folder:
        read = (read_json(f).get("protocol", {}).get("seconds", 0) for f in folder.glob("*/eval-*.json"))
        times = {k: v for k, v in old.items() if k.startswith("pytorch")} | {"evaluation": round(sum(read), 1)}
    if log:
        lines = log.read_text().splitlines()
        stage = lambda *words: round(sum(seconds(line.split("  ")[-1]) for line in lines  # noqa: E731
                                         if line.startswith("[") and any(w in line for w in words)), 1)
        times |= {"text": stage("] tokenizer ", "] text "), "evaluation": stage(" evaluated: ")}
        whole = [m[1] for line in lines if (m := re.search(r"  time (.+)$", line))]
        times["all"] = seconds(whole[-1]) if whole else None
        wall = [m[1] for line in lines if (m := re.search(r"wall (\d+) s", line))]
        times["all"] = float(wall[-1]) if wall else times["all"]
    if pytorch_log:  # its first line comes when everything is loaded
        first = re.search(r"^\[ *([\d.]+)\]", pytorch_log.read_text(), re.MULTILINE)
        times["pytorch_start"] = float(first[1]) if first else None
    return times


@dataclass(frozen=True)
class Import:
    folders: Sequence[Path]
    pilot: Optional[Path] = None
    pilot_log: Optional[Path] = None
    pilot_pytorch: Optional[Path] = None
    pilot_pytorch_log: Optional[Path] = None
    cost7b: Optional[Path] = None
    claims: Optional[Path] = None
    lora: Optional[Path] = None


def import_results(what: Import, to: Path = DATA) -> None:
    """Brings results into docs/papers. What is not named stays as it is."""
    if what.cost7b:
        (to / "cost7b.jsonl").write_text(what.cost7b.read_text())
    if what.pilot_pytorch:
        pytorch = json.loads(what.pilot_pytorch.read_text())
        pytorch["args"] = {k: v for k, v in pytorch["args"].items() if not str(v).startswith("/")}
        (to / "pilot-pytorch.json").write_text(json.dumps(pytorch) + "\n")
    training = read_rows(to / "training.jsonl")
    for folder in list(what.folders) + [what.pilot] * bool(what.pilot):
        name, marks, span = comparison(folder), list(range(1000, 100_000, 1000)), 100
        if name not in COMPARISONS + ("pilot",):
            sys.exit(f"papers_tables: '{folder}' is none of papers-{{{','.join(COMPARISONS)}}} and pilot")
        if name == "pilot":  # as often as the PyTorch program says its own
            curve = read_json(to / "pilot-pytorch.json").get("pretrain", {}).get("curve", [])
            marks, span = [row[0] for row in curve] or marks, 200
        rows = [without_bounds(row) for row in read_rows(folder / "table.jsonl")]
        if not rows:
            sys.exit(f"papers_tables: no table.jsonl in '{folder}'")
        (to / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        training = [row for row in training if row["folder"] != name] + list(training_rows(folder, marks, span))
        if name == "base":
            totals = [{"eval": kind} | {k: v for k, v in total.items() if k != "margin"} for kind in BASE_TOTALS
                      for total in read_json(folder / "base" / f"eval-{kind}.json").get("totals", [])]
            (to / "base-totals.jsonl").write_text(jsonl(totals))
    order = COMPARISONS + ("pilot",)
    (to / "training.jsonl").write_text(jsonl(sorted(training, key=lambda row: order.index(row["folder"]))))
    times = pilot_times(what.pilot, what.pilot_log, what.pilot_pytorch_log, read_json(to / "pilot-times.json"))
    (to / "pilot-times.json").write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")
    if {comparison(f) for f in what.folders} >= set(COMPARISONS):
        results = Results(what.folders, cost7b=to / "cost7b.jsonl")
        (to / "claims.jsonl").write_text(jsonl(all_rows(results)))
        (to / "clex-goals.jsonl").write_text(jsonl(study_rows(results)))
    elif what.folders and not what.claims:
        print("papers_tables: claims stay as they are: they need all folders at once", file=sys.stderr)
    if what.claims:
        (to / "claims.jsonl").write_text(what.claims.read_text())
    if what.lora:
        (to / "lora.jsonl").write_text(jsonl(lora_rows(what.lora)))
