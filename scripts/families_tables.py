#!/usr/bin/env python3
"""The tables and the picture of docs/papers-families.md: the papers' claims on three families of models.

    python3 scripts/families_tables.py --import out/llama out/gpt_neox out/qwen3   # folders of `ropewalk compare`
    python3 scripts/families_tables.py           # writes every table between its markers, and the picture
    python3 scripts/families_tables.py --check   # only compares; exits 1 and names what differs

--import writes docs/papers/families.jsonl. It has a row per family, arm and metric (mean, standard deviation and number
of seeds), and a row per family and part of a claim. Intervals are those of scripts/claims.py: 2000 bootstrap draws of
documents and seeds for perplexities, Wilson's for shares.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

from claims_results import Part, Results, ratio, read_json, share, share_difference
from papers_data import DATA, ROOT, read_rows
from papers_pictures import chart
from papers_tables import BLOCK, figure, table

PAGE, ROWS, PICTURE = ROOT / "docs" / "papers-families.md", DATA / "families.jsonl", DATA / "families.svg"
FAMILIES = ("llama", "gpt_neox", "qwen3")
L, TARGET = 512, 4096
WINDOWS = (512, 1024, 2048, 4096)
ARMS = (("the base, as it is", "base"), ("PI, untrained", "zero-linear"), ("NTK, untrained", "zero-ntk"),
        ("YaRN, untrained", "zero-yarn"), ("Resonance YaRN, untrained", "zero-resonance"), ("PI, full length", "pi"),
        ("PoSE, linear", "pose-linear"), ("PoSE, YaRN", "pose-yarn"), ("PoSE, Resonance YaRN", "pose-resonance"),
        ("PoSE, YaRN, scalable softmax", "pose-logn"), ("E2-LLM, G = 8", "e2"), ("CLEX, as published", "clex-random"),
        ("CLEX, two chunks", "clex-skip"), ("DroPE", "drope"))
KEYS = f"passkey @{TARGET} depth 0, %"


# --- the claims -------------------------------------------------------------------------------------------------------

def claims(r: Results) -> Iterator[tuple[str, str, Part]]:
    """Claim, what it says, and a part of it. P, S, C, E and N are claims of scripts/claims_papers.py; F are this page's own."""
    over = lambda a, b, at=TARGET, base_at=None: ratio(r.ppl(a, at), r.ppl(b, base_at or at))  # noqa: E731
    found = lambda arm: r.hits(arm, "passkey", lambda t: t["length"] == TARGET)  # noqa: E731
    right = lambda arm: choices(r, arm)  # noqa: E731
    yield "P1", "without extension, perplexity explodes beyond L", Part("base: 4L / L", over("base", "base", 2048, L), ">=", 3)
    yield "P4", "PI: the longer window helps", Part("PI: 8L / L", over("pi", "pi", TARGET, L), "<", 1)
    yield "P7", "PI: inside L the price is small", Part("L: PI / base", over("pi", "base", L), "<=", 1.05)
    yield "F1", "PI: tasks inside L keep their scores", Part(
        "right choices: PI - base", share_difference(right("pi"), right("base")), ">=", -0.05)
    yield "S1", "PoSE is near full length", Part("8L: PoSE linear / PI", over("pose-linear", "pi"), "<=", 1.05)
    yield "F2", "YaRN is the better recipe under PoSE", Part("8L: YaRN / linear", over("pose-yarn", "pose-linear"), "<", 1)
    yield "F3", "PoSE: inside L the price is small", Part("L: PoSE YaRN / base", over("pose-yarn", "base", L), "<=", 1.05)
    yield "S7", "PoSE: keys are found at the target", Part("8L: keys, PoSE YaRN", share(found("pose-yarn")), ">=", 0.9, ".0%")
    yield "N2", "untrained, YaRN is the best", Part(
        "8L: YaRN / NTK", over("zero-yarn", "zero-ntk"), "<", 1)
    yield "F4", "untrained, NTK is better than PI", Part("8L: NTK / PI", over("zero-ntk", "zero-linear"), "<", 1)
    yield "E1", "E2-LLM: one training serves all windows up to G L", Part("8L / L", over("e2", "e2", TARGET, L), "<=", 1)
    yield "E3", "E2-LLM is near PI", Part("8L: E2-LLM / PI", over("e2", "pi"), "<=", 1.05)
    yield "C2", "CLEX, trained at L as published, holds to 4L", Part("4L / L", over("clex-random", "clex-random", 2048, L), "<=", 1.05)
    yield "C2", "", Part("two chunks: 4L / L", over("clex-skip", "clex-skip", 2048, L), "<=", 1.05, also=True)
    yield "F5", "CLEX beyond PI's own window", Part("8L: two chunks / PI", over("clex-skip", "pi"), "<=", 1.05)
    yield "F6", "Resonance improves YaRN", Part("8L, untrained", over("zero-resonance", "zero-yarn"), "<", 1)
    yield "F6", "", Part("8L, PoSE", over("pose-resonance", "pose-yarn"), "<", 1)
    yield "F7", "scalable softmax improves PoSE with YaRN", Part("8L: with / without", over("pose-logn", "pose-yarn"), "<", 1)
    yield "F8", "DroPE: without RoPE the window grows by itself", Part("4L / L", over("drope", "drope", 2048, L), "<=", 1.05)


def choices(r: Results, arm: str):
    """Right choices and items over the seeds."""
    runs = r.find(arm, lambda run: bool(read_json(run / "eval-choice.json").get("totals")))
    totals = [t for run in runs for t in read_json(run / "eval-choice.json")["totals"]]
    items = sum(t["items"] for t in totals)
    return (sum(round(t["acc"] * t["items"]) for t in totals), items) if items else r.absent(arm, "choice")


def finite(x: Optional[float]) -> Optional[float]:
    return x if x is not None and math.isfinite(x) else None


def import_results(folders: Sequence[Path]) -> None:
    rows: list[dict] = []
    for folder in folders:
        if folder.name not in FAMILIES:
            sys.exit(f"families_tables: '{folder}' is none of {', '.join(FAMILIES)}")
        for row in read_rows(folder / "table.jsonl"):
            keep = row["metric"].startswith(("ppl @", "passkey", "choice")) or row["metric"] in ("train s", "train tokens")
            if keep and " nll " not in row["metric"]:
                rows.append({"family": folder.name} | {k: v for k, v in row.items() if k not in ("min", "max")})
        for id, title, part in claims(Results([folder])):
            low, high = part.estimate.interval() or (None, None)
            rows.append({"family": folder.name, "claim": id, "title": title, "part": part.label, "counts": not part.also,
                         "must": part.must(), "figure": part.figure(), "verdict": part.verdict()}
                        | {k: finite(v) for k, v in (("value", part.estimate.value), ("low", low), ("high", high))})
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- the page ---------------------------------------------------------------------------------------------------------

Rows = list[dict]


def cell(rows: Rows, family: str, arm: str, metric: str) -> str:
    row = next((r for r in rows if (r["family"], r.get("arm"), r.get("metric")) == (family, arm, metric)), None)
    if not row or row["mean"] is None:
        return ""
    return figure(row["mean"]) + (f" ± {figure(row['deviation'])}" if row["deviation"] is not None else "")


def seeds(rows: Rows, family: str, arm: str) -> str:
    found = {r["seeds"] for r in rows if (r["family"], r.get("arm"), r.get("metric")) == (family, arm, f"ppl @{L}")}
    return str(max(found)) if found else ""


def arms_table(family: str) -> Callable[[Rows], list[str]]:
    def make(rows: Rows) -> list[str]:
        acc = next((r["metric"] for r in rows if r.get("metric", "").startswith("choice") and "acc_norm" not in r["metric"]), "")
        body = [[label, seeds(rows, family, arm), *(cell(rows, family, arm, f"ppl @{w}") for w in WINDOWS),
                 cell(rows, family, arm, KEYS), cell(rows, family, arm, acc)]
                for label, arm in ARMS if seeds(rows, family, arm)]
        return table(["", "seeds", *(f"ppl {w}" for w in WINDOWS), f"keys at {TARGET}, %", "right choices, %"], body)
    return make


def claims_table(rows: Rows) -> list[str]:
    parts: dict[tuple[str, str], dict[str, dict]] = {}
    titles: dict[str, str] = {}
    for r in (r for r in rows if "claim" in r):
        parts.setdefault((r["claim"], r["part"]), {})[r["family"]] = r
        titles[r["claim"]] = titles.get(r["claim"]) or r["title"]
    body, last = [], ""
    for (id, label), by_family in parts.items():
        first = next(iter(by_family.values()))
        head = f"**{id}** {titles[id]}" if id != last else ""
        last = id
        plus = "" if first["counts"] else "+ "
        cells = [f"{r['figure']}: {r['verdict']}" if not r["verdict"].startswith("not run") else "not run"
                 for r in (by_family.get(f, {"verdict": "not run"}) for f in FAMILIES)]
        body.append([head, f"{plus}{label}, must be {first['must']}", *cells])
    return table(["claim", "part", *FAMILIES], body, "lllll")


def verdicts_table(rows: Rows) -> list[str]:
    counts: dict[str, dict[str, int]] = {}
    for r in (r for r in rows if "claim" in r and r["counts"]):
        by_family = counts.setdefault(short_verdict(r["verdict"]), {})
        by_family[r["family"]] = by_family.get(r["family"], 0) + 1
    order = ("holds", "holds, within noise", "does not hold, within noise", "does not hold", "not run")
    return table(["parts that count", *FAMILIES],
                 [[name, *(str(counts[name].get(f, 0)) for f in FAMILIES)] for name in order if name in counts])


def short_verdict(text: str) -> str:
    return "not run" if text.startswith("not run") else text


def picture(rows: Rows) -> str:
    series = []
    for family in FAMILIES:
        for label, arm in (("base", "base"), ("PoSE, YaRN", "pose-yarn")):
            points = [(w, r["mean"]) for w in WINDOWS for r in rows
                      if (r["family"], r.get("arm"), r.get("metric")) == (family, arm, f"ppl @{w}") and r["mean"]]
            if points:
                series.append((f"{family}: {label}", points))
    values = [y for _, line in series for _, y in line] or [25, 100]
    ticks = (20, 25, 32, 40, 50, 75, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600)
    low = max((t for t in ticks if t <= min(values)), default=ticks[0])
    high = min((t for t in ticks if t >= max(values)), default=ticks[-1])
    height = lambda y: math.log(min(y, high) / (low * 15 / 16)) / math.log(high / (low * 15 / 16))  # noqa: E731
    return chart("Three families: the base, and PoSE with YaRN toward 4096", "window, tokens", "perplexity (log)",
                 list(WINDOWS), [(t, str(t)) for t in ticks if low <= t <= high], height, series)


TABLES: dict[str, Callable[[Rows], list[str]]] = {f: arms_table(f) for f in FAMILIES}
TABLES |= {"claims": claims_table, "verdicts": verdicts_table}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--import", dest="folders", nargs="+", type=Path, default=[], metavar="FOLDER",
                        help="output folders of `ropewalk compare` recipes/families/*.toml, named by family")
    o = parser.parse_args()
    if o.folders:
        import_results(o.folders)
        print("families_tables: imported; without --import the page is written")
        return 0
    rows, differs = read_rows(ROWS), []

    def block(found) -> str:
        name = found[2]
        if name not in TABLES:
            differs.append(f"{name}: no such table")
            return found[0]
        new = "\n".join(TABLES[name](rows)) + "\n"
        if new != found[3]:
            differs.append(f"{name}: differs")
        return found[1] + new + found[4]

    old = PAGE.read_text()
    page = BLOCK.sub(block, old)
    differs += [f"{name}: not on the page" for name in TABLES if f"<!-- table {name} -->" not in page]
    drawn = picture(rows)
    if not PICTURE.exists() or PICTURE.read_text() != drawn:
        differs.append(f"{PICTURE.name}: differs")
    for line in differs:
        print(f"families_tables: {line}", file=sys.stderr)
    if o.check:
        return 1 if differs else 0
    PAGE.write_text(page)
    PICTURE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
