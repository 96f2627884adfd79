#!/usr/bin/env python3
"""The claims of the papers, held against the results of `ropewalk compare`.

    python3 scripts/claims.py out/papers-base out/papers-pi out/papers-pose out/papers-e2 out/papers-clex \\
        out/papers-clex-study --markdown out/claims.md --jsonl out/claims.jsonl

PI is arXiv 2306.15595, PoSE 2309.10400, CLEX 2310.16450, E2-LLM 2401.06951, YaRN 2309.00071. L is the base's window.

Arms are looked up by name. Where several folders have an arm (or one that is trained alike under another name, given
after a |), the one with the most seeds is taken, and of equals that of the first folder.

A perplexity is exp(sum of losses / scored tokens) over the test documents, the geometric mean over an arm's seeds. Its
interval is the 95 % percentile interval of 2000 bootstrap draws: of documents, the same for all arms, and of each arm's
seeds. Shares have Wilson's interval over all seeds' trials (differences Newcombe's); k_max and cost that of the seeds,
none for one seed.
A claim holds if its inequalities do over the whole interval, "within noise" if an interval straddles the threshold.
Parts marked with + stand beside a claim and do not count.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Optional, Sequence

from claims_papers import TESTS, clex_arms, clex_growth, tested
from claims_results import CLAIMS, Claim, Part, Results, losses, overall, wilson


# --- output -----------------------------------------------------------------------------------------------------------

def finite(x: Optional[float]) -> Optional[float]:
    return x if x is not None and math.isfinite(x) else None


def row_of(c: Claim, r: Results) -> dict:
    parts = list(c.compute(r))
    verdict = overall(parts)
    if c.id == "C8" and verdict == "not run":
        verdict = "not tested"
    rows = []
    for p in parts:
        low, high = p.estimate.interval() or (None, None)
        numbers = {"value": p.estimate.value, "low": low, "high": high}
        rows.append({"part": p.label, "counts": not p.also, "must": p.must(), "figure": p.figure(),
                     "verdict": p.verdict()}
                    | {k: finite(x) for k, x in numbers.items()})
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


GOALS = {"2L": (2, 1.02), "4L": (4, 1.1), "8L": (8, 1.1)}  # what an earlier small study of CLEX reached; none at 8L


def study_rows(r: Results) -> list[dict]:
    """The arms of CLEX trained at L, one row each: perplexity at L and its growth against the goals."""
    rows = []
    for arm in clex_arms(r):
        growth = {at: Part("", clex_growth(r, arm, s), "<=", goal) for at, (s, goal) in GOALS.items()}
        low, high = (at_l := r.ppl(arm, r.L)).interval() or (None, None)
        rows.append({"arm": arm.split("|")[-1],
                     "seeds": len(r.find(arm, lambda run: r.L in losses(run, "ppl"))),
                     "ppl": {"figure": Part("", at_l, "<=", 0, ".2f").figure(), "value": finite(at_l.value),
                             "low": low, "high": high}}
                    | {at: {"figure": p.figure(), "goal": p.threshold, "verdict": p.verdict(),
                            "value": finite(p.estimate.value)} for at, p in growth.items()})
    return rows


def study_table(rows: Sequence[dict]) -> list[str]:
    out = ["| CLEX trained at L | ppl at L | 2L / L | goal 1.02 | 4L / L | goal 1.10 | 8L / L |",
           "|---|---|---|---|---|---|---|"]
    for row in rows:
        two, four = row["2L"], row["4L"]
        out.append(f"| {row['arm']} | {row['ppl']['figure']} | {two['figure']} | {two['verdict']} "
                   f"| {four['figure']} | {four['verdict']} | {row['8L']['figure']} |")
    return out


def jsonl(rows: Sequence[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


# --- self-test --------------------------------------------------------------------------------------------------------

def self_test() -> int:
    """Made-up results whose verdicts are known."""
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
        arm("zero-256-linear", {256: base[:3]})  # other documents than the base's
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
        (part["P2", "4L: PI s = 4 / base"]["verdict"], "not run: measured on the same documents"),
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
    parser.add_argument("--study", type=Path, help="write one row per arm of CLEX trained at L to this file")
    parser.add_argument("--window", type=int, default=0, help="L (default: the base's window)")
    parser.add_argument("--cost7b", type=Path,
                        help='JSONL, a step of a 7B model: {"name","window","target","batch","seconds","peak_bytes"}')
    parser.add_argument("--self-test", action="store_true", help="try the script on made-up results")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    for folder in options.folders:
        if not folder.is_dir():
            print(f"claims: no folder {folder}, its arms count as not run", file=sys.stderr)
    results = Results(options.folders, options.window, options.cost7b)
    rows = all_rows(results)
    study = study_rows(results)
    text = "\n".join(claims_table(rows) + [""] + study_table(study)) + "\n"
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text)
    if options.jsonl:
        options.jsonl.write_text(jsonl(rows))
    if options.study:
        options.study.write_text(jsonl(study))
    return 0


if __name__ == "__main__":
    sys.exit(main())
