#!/usr/bin/env python3
"""The tables and pictures of docs/papers.md, from the results in docs/papers.

    python3 scripts/papers_tables.py           # writes every table between its markers, and the pictures
    python3 scripts/papers_tables.py --check   # only compares; exits 1 and names what differs
    python3 scripts/papers_tables.py --facts   # figures that the text quotes
    python3 scripts/papers_tables.py --import out/papers-{base,pi,pose,e2,clex,clex-study,causes} --pilot out/pilot \\
        --pilot-log pilot.log --pilot-pytorch pilot.json --cost7b cost7b.jsonl

A table stands between <!-- table NAME --> and <!-- end -->; the text around it is written by hand. --import brings
results of `ropewalk compare` into docs/papers (what is stored there: scripts/papers_data.py); given all of them it
holds them against the claims as well, as scripts/claims.py does. What is not named stays as it is.

Where several comparisons have an arm, that with the most seeds is taken. Rows of arms without data are left out.
"""
from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Callable, Optional, Sequence

from claims import study_table
from claims_papers import SKIP, direct, full, pi, pose, zero
from claims_results import WORST_FIRST, wilson
from papers_data import COMPARISONS, DATA, ROOT, Arm, Data, Import, import_results, read_rows, recipe_arms
from papers_lora import lora_table
from papers_pictures import PICTURES

PAGE = ROOT / "docs" / "papers.md"
KINDS = {"linear": "linear (PI)", "ntk": "NTK", "yarn": "YaRN", "dynamic": "dynamic NTK"}

Named = tuple[str, str]  # a row's label, the names of its arm


# --- cells ------------------------------------------------------------------------------------------------------------

def table(head: Sequence[str], rows: Sequence[Sequence[str]], rule: str = "") -> list[str]:
    """`rule`: l or r per column; the first is text and the others are figures if it is not given."""
    marks = {"l": "---", "r": "---:"}
    line = lambda cells: "|" + "|".join(f" {c} " if c else " " for c in cells) + "|"  # noqa: E731
    rule = rule or "l" + "r" * (len(head) - 1)
    return [line(head), "|" + "|".join(marks[c] for c in rule) + "|"] + [line(row) for row in rows]


def figure(x: Optional[float]) -> str:
    """Four digits, two of them after the point at most."""
    if x is None:
        return ""
    digits = 2 if x <= 0 else max(0, min(2, 3 - math.floor(math.log10(x))))
    return f"{x:.{digits}f}"


def spread(arm: Arm, metric: str) -> str:
    deviation = arm.deviation(metric)
    return figure(arm.mean(metric)) + (f" ± {figure(deviation)}" if deviation is not None else "")


def by_seed(arm: Arm, metric: str) -> str:
    values = [f"{v:g}" for v in arm.values(metric)]
    return " / ".join(values if len(set(values)) > 1 else values[:1])


def percent(x: Optional[float]) -> str:
    return "" if x is None else f"{x:.0f}"


def listed(words: Sequence[str]) -> str:
    return ", ".join(words)


# --- the base ---------------------------------------------------------------------------------------------------------

def base_table(d: Data) -> list[str]:
    arm = d.arms["base"]["base"]
    totals = lambda kind: [t for t in d.base_totals if t["eval"] == kind]  # noqa: E731
    ppl = {(kind, t["window"]): t for kind in ("validation", "ppl", "ppl-near") for t in totals(kind)}
    whole, window = ppl["validation", d.L], totals("passkey-window")
    rows = [[f"validation loss, {whole['documents']} books whole ({whole['tokens']:,} tokens), window and stride {d.L}",
             f"{whole['nll']:.3f} (perplexity {whole['ppl']:.2f}, 95 % interval over books {whole['ppl_low']:.2f} to "
             f"{whole['ppl_high']:.2f})"]]
    for t in (ppl["ppl-near", d.L], ppl["ppl", d.L]):
        rows.append([f"test perplexity at {d.L}, stride {t['stride']}",
                     f"{t['ppl']:.2f} ({t['ppl_low']:.2f} to {t['ppl_high']:.2f})"])
    trials = sum(t["trials"] for t in window)
    hits = sum(round(t["accuracy"] * t["trials"]) for t in window)
    low, high = wilson(hits, trials)
    rows.append([f"passkey in the window: key {window[0]['distance']}, {window[1]['distance']}, ..., "
                 f"{window[-1]['distance']} tokens from the answer, {window[0]['trials']} trials each",
                 listed([percent(100 * t["accuracy"]) for t in window]) + " %"])
    rows.append([f"the same, all {trials} trials",
                 f"{100 * hits / trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"])
    shares = {n: s for n, s in arm.shares().items() if n <= 1.5 * d.L}
    rows.append([f"passkey, key at the start of prompts of {listed([str(n) for n in shares])} tokens",
                 f"{listed([percent(s) for s in shares.values()])} %; k_max {by_seed(arm, 'passkey k_max')}"])
    run = arm.runs[0]
    marks = {n: loss for n, loss in run["losses"] if n in (1000, 2000, 4000, 5000, run["steps"])}
    rows.append([f"training loss, mean of the {run['span']} steps before step {listed([str(n) for n in marks])}",
                 listed([f"{x:.3f}" for x in marks.values()])])
    if run["validation"]:
        rows.append([f"validation loss while training, at step {listed([str(n) for n, _ in run['validation']])}",
                     listed([f"{x:.3f}" for _, x in run["validation"]])])
    return table(["", ""], rows, "ll")


# --- the matrix -------------------------------------------------------------------------------------------------------

def matrix(d: Data, rows: Sequence[Named]) -> list[str]:
    windows = [d.L, 4 * d.L, 8 * d.L, 16 * d.L, 32 * d.L]
    head = ["arm", "seeds", *map(str, windows), "passkey 20 %", "80 %", "training s", "k tok/s"]
    out = []
    for label, names in rows:
        if arm := d.find(names):
            trained = arm.values("train s") if label != "base" else []
            rates = [tokens / s for tokens, s in zip(arm.values("train tokens"), trained)]
            out.append([label, str(arm.seeds), *(spread(arm, arm.ppl_metric(w)) for w in windows),
                        by_seed(arm, "passkey k_max"), by_seed(arm, "passkey 80 % at"),
                        f"{sum(trained) / len(trained):.1f}" if trained else "",
                        f"{sum(rates) / len(rates) / 1000:,.0f}" if trained else ""])
    return table(head, out)


def untrained(d: Data) -> list[Named]:
    return [("base", "base")] + [(f"{label}, target {s * d.L}", zero(d, s, kind))
                                 for kind, label in KINDS.items() for s in (2, 4, 8, 16, 32)]


def full_length(d: Data) -> list[Named]:
    rows = [(f"{label}, target {s * d.L}, {steps} steps", arm(d, s, steps))
            for label, arm in (("PI", pi), ("direct", direct)) for s in (4, 8, 16, 32) for steps in (200, 1000)]
    rows += [(f"{KINDS[kind]} at full length, target {8 * d.L}, {steps} steps", full(kind, steps))
             for kind in ("ntk", "yarn") for steps in (200, 1000)]
    return rows + [(f"no extension, 1000 steps more at {d.L}", "more-steps")]


def skipwise(d: Data) -> list[Named]:
    rows = []
    for s in (4, 8, 16, 32):
        t = s * d.L
        rows += [(f"PoSE linear, {t}, 200 steps", f"pose-linear-{t}-200steps"),
                 (f"PoSE linear, {t}, 1000 steps", pose(d, s))]
    rows += [(f"PoSE {KINDS[kind]}, {s * d.L}", pose(d, s, kind)) for kind in ("ntk", "yarn") for s in (4, 8, 16, 32)]
    at = 8 * d.L
    rows += [(f"linear, {at}, {label}", f"pose-linear-{at}-{name}") for label, name in (
        ("3 chunks", "chunks3"), ("a chunk per token", f"chunks{d.L}"), ("v1", "v1"),
        ("text offset = position offset", "content-same"), ("text without a gap", "content-zero"))]
    return rows + [(f"RandPos linear, {s * d.L}", f"randpos-{s * d.L}") for s in (4, 8)]


def e2(d: Data) -> list[Named]:
    return [(f"E2-LLM, G = {g}", f"e2-max-factor{g}") for g in (4, 8, 16, 32)] + [
        ("G = 16, no offset t", "e2-16-fixed-t"), ("G = 16, g fixed", "e2-16-fixed-g")]


def clex(d: Data) -> list[Named]:
    return [(f"dynamic NTK, target {16 * d.L}, untrained", f"zero-dynamic|{zero(d, 16, 'dynamic')}"),
            ("CLEX at L", "clex"), ("CLEX at L, learned part frozen", "clex-prior"), ("CLEX at 4L", "clex-at-4L"),
            ("CLEX at L, positions in two chunks", SKIP), ("the same, continuous t", "skip-continuous-t"),
            ("CLEX at L, positions in two chunks, learned part frozen", "clex-skip-prior"),
            ("CLEX at 4L, positions in two chunks", "clex-skip-at-4L"),
            ("untrained CLEX, log n everywhere", "clex-logn-constant"),
            ("untrained CLEX, log n beyond L", "clex-logn-position")]


def causes(d: Data) -> list[Named]:
    """An arm with one change below the arm without it."""
    at = lambda s: s * d.L  # noqa: E731
    return [(f"PI, {at(4)}, 200 steps", pi(d, 4, 200)), ("the same, 5 times the key sequences", f"pi-keys-{at(4)}"),
            ("the same, rate 1.5e-4", "pi-low-rate-200steps"),
            (f"PI, {at(4)}, 1000 steps", pi(d, 4)), ("the same, rate 1.5e-4", "pi-low-rate-1000steps"),
            (f"PI, {at(8)}, 200 steps", pi(d, 8, 200)), ("the same, 5 times the key sequences", f"pi-keys-{at(8)}")] + [
        row for kind in ("linear", "yarn") for s in (8, 16) for row in (
            (f"PoSE {KINDS[kind]}, {at(s)}", pose(d, s, kind)),
            ("the same, 5 times the key sequences", f"pose-keys-{at(s)}-{kind}"),
            ("the same, rate 1.5e-4", f"pose-{kind}-low-rate-{at(s)}"))] + [
        ("E2-LLM, G = 8", "e2-max-factor8"), ("the same, 5 times the key sequences", "e2-keys")]


# --- the claims -------------------------------------------------------------------------------------------------------

HEADLINE = "P1 P2 P3 P4 P6 S1 S2 S3 S7 C1 C2 C3 C5 C7 E1 E3 E4 E8".split()  # what a method is for


def claims_table(rows: Sequence[dict]) -> list[str]:
    out = []
    for row in rows:
        parts, missing = [], 0
        for p in row["parts"]:
            if p["verdict"].startswith("not run"):
                missing += 1
                continue
            fails = "" if p["verdict"] == "holds" else f": {p['verdict']}"
            parts.append(f"{'' if p['counts'] else '+ '}{p['part']}: {p['figure']}, must be {p['must']}{fails}")
        if missing:
            parts.append(f"({missing} part{'s' * (missing > 1)} not run)")
        out.append([f"**{row['claim']}** {row['title']}", row["paper"], "<br>".join(parts),
                    f"**{row['verdict']}**"])
    return table(["claim", "papers", "ours, 95 % interval; a part that fails says so", "verdict"], out, "llll")


def headline(d: Data) -> list[str]:
    return claims_table([row for row in d.claims if row["claim"] in HEADLINE])


def other_claims(d: Data) -> list[str]:
    return claims_table([row for row in d.claims if row["claim"] not in HEADLINE])


# --- causes -----------------------------------------------------------------------------------------------------------

def keys_seen(d: Data) -> list[str]:
    """Key sequences seen in training, and the share found in prompts of 2L."""
    scales = (4, 8, 16, 32)
    pose_200 = lambda s: f"pose-linear-{s * d.L}-200steps"  # noqa: E731
    at_8 = lambda kind, steps: {8: full(kind, steps)}  # noqa: E731
    rows = [("PI, 200 steps", {s: pi(d, s, 200) for s in scales}), ("PI, 1000 steps", {s: pi(d, s) for s in scales}),
            ("PoSE linear, 200 steps", {s: pose_200(s) for s in scales}),
            ("PoSE linear, 1000 steps", {s: pose(d, s) for s in scales}),
            ("YaRN, untrained", {s: zero(d, s, "yarn") for s in scales})]
    rows += [(f"{KINDS[kind]} at full length, {steps} steps", at_8(kind, steps))
             for kind in ("ntk", "yarn") for steps in (200, 1000)]
    out = []
    for label, arms in rows:
        cells = []
        for s in scales:
            arm = d.find(arms[s]) if s in arms else None
            if arm:
                cells.append(f"{arm.key_sequences():.0f}: {percent(arm.shares().get(2 * d.L))} %")
            else:
                cells.append("not run" if s in arms else "")
        if set(cells) - {"", "not run"}:
            out.append([label, *cells])
    if out:
        out[0][1] = out[0][1].replace(":", " seen:")
    return table(["", *(f"s = {s}" for s in scales)], out, "lllll")


def worst_lengths(d: Data) -> list[str]:
    scales = (4, 8, 16, 32)
    rows = [(label, {s: pose(d, s, kind) for s in scales})
            for label, kind in (("linear", "linear"), ("NTK", "ntk"), ("YaRN", "yarn"))]
    rows += [("YaRN, untrained", {s: zero(d, s, "yarn") for s in scales})]
    rows += [(f"{KINDS[kind]} at full length", {8: full(kind)}) for kind in ("ntk", "yarn")]
    out = []
    for label, arms in rows:
        found = {s: d.find(names) for s, names in arms.items()}
        worst = {s: min(x for n, x in arm.shares().items() if n <= s * d.L)
                 for s, arm in found.items() if arm and arm.shares()}
        if worst:
            out.append([label, *(f"{worst[s]:.0f} %" if s in worst else "" for s in scales)])
    return table(["", *(f"{s}L" for s in scales)], out, "lllll")


def e2_bins(d: Data) -> list[str]:
    edges = [0, d.L, 2 * d.L, 4 * d.L, 8 * d.L, 16 * d.L]
    rows = [("E2-LLM, G = 32 (g = 32 was trained)", "e2-max-factor32"), ("E2-LLM, G = 16", "e2-max-factor16"),
            ("PoSE linear, s = 32", pose(d, 32)), ("PI, s = 32, 200 steps", pi(d, 32, 200))]
    cell = lambda x: "" if x is None else f"{x:.3f}"  # noqa: E731
    return table(["", *map(str, edges[:-1])],
                 [[label, *(cell(arm.loss_at(a, b)) for a, b in zip(edges, edges[1:]))]
                  for label, names in rows if (arm := d.find(names))])


def e2_scales(d: Data) -> list[str]:
    windows = [d.L << i for i in range(6)]
    rows = [(str(g), f"e2-max-factor{g}") for g in (4, 8, 16, 32)]
    rows += [("16, no t", "e2-16-fixed-t"), ("PoSE linear, s = 32", pose(d, 32))]
    return table(["G", *map(str, windows)],
                 [[label, *(figure(arm.ppl(w)) for w in windows)] for label, names in rows if (arm := d.find(names))])


# --- cost and pilot ---------------------------------------------------------------------------------------------------

def cost_table(d: Data) -> list[str]:
    out = []
    for row in d.cost7b:
        cost = ["out of memory", "", ""]
        if row["seconds"] is not None:
            cost = [f"{row['seconds']:.3f}", f"{row['tokens_per_second']:,.0f}", f"{row['peak_bytes'] / 2**30:.1f}"]
        kind = row["name"].split("-")[0]
        out.append([{"pose": "PoSE", "e2": "E2-LLM"}.get(kind, kind), str(row["window"]),
                    str(row["target"]), str(row["batch"]), "yes" if row["recompute"] else "no", *cost])
    return table(["training", "window", "target", "batch", "recomputed", "s per step", "tok/s", "peak GiB"], out,
                 "lrrrlrrr")


PILOT = (("none", "base", "none"), ("linear s = 8, untrained", "zero-4096-linear", "zs-pi8"),
         ("NTK s = 8, untrained", "zero-4096-ntk", "zs-ntk8"), ("YaRN s = 8, untrained", "zero-4096-yarn", "zs-yarn8"),
         ("PI, full length, 200 steps", "pi-full", "pi-full"),
         ("direct, full length, 200 steps", "direct-full", "ft-full"),
         ("PoSE linear, 200 steps", "pose-linear-200steps", "pose-lin-200"),
         ("PoSE linear, 1000 steps", "pose-linear-1000steps", "pose-lin"),
         ("PoSE YaRN, 1000 steps", "pose-yarn", "pose-yarn"), ("E2-LLM, G = 16", "e2", "e2"), ("CLEX", "clex", "clex"),
         ("RandPos", "randpos", "randpos-lin"), ("1000 steps more", "more-steps", "cont-L"))


def pilot_seconds(d: Data) -> dict[str, tuple[Optional[float], Optional[float]]]:
    """Seconds of each stage, ours and PyTorch's."""
    ours, phases = d.pilot_times, d.pilot_pytorch.get("phases", {})
    train = {name: arm.mean("train s") or 0 for name, arm in d.arms["pilot"].items()}
    theirs = sum(s for name, s in phases.items() if name.startswith("train:"))
    return {"start of the program": (None, ours.get("pytorch_start")),
            "text, tokenizer, compile": (ours.get("text"), phases.get("data+compile")),
            "base": (train.pop("base", None), phases.get("pretrain")),
            "training of the arms": (sum(train.values()), theirs),
            "evaluation": (ours.get("evaluation"), phases.get("eval"))}


def pilot_times(d: Data) -> list[str]:
    cell = lambda x: "" if x is None else f"{x:.1f}"  # noqa: E731
    return table(["seconds", "ours", "PyTorch"], [[k, cell(a), cell(b)] for k, (a, b) in pilot_seconds(d).items()])


def pilot_table(d: Data) -> list[str]:
    windows = [d.L << i for i in range(4)]
    out = []
    for label, name, other in PILOT:
        ours, theirs = d.arms["pilot"].get(name), d.pilot_pytorch.get("arms", {}).get(other)
        if ours and theirs:
            out.append([label, *(f"{figure(ours.ppl(w))} / {figure(theirs['ppl'].get(str(w)))}" for w in windows),
                        f"{by_seed(ours, 'passkey k_max')} / {theirs['kmax']}"])
    return table(["ours / PyTorch", *map(str, windows), "passkey 20 %"], out)


# --- what was not run -------------------------------------------------------------------------------------------------

def trained_alike(d: Data) -> list[str]:
    """Names of arms that stand in several recipes."""
    return ([f(d, s) for f in (pi, direct, pose) for s in (4, 8, 16, 32)] + [pose(d, 16, "yarn"), full("yarn"), SKIP]
            + [f"zero-dynamic|{zero(d, 16, 'dynamic')}"])


def elsewhere(d: Data, folder: str, arm: str) -> str:
    """The comparison that has more seeds of an arm."""
    names = next((names for names in trained_alike(d) if arm in names.split("|")), arm)
    other, own = d.find(names), d.arms[folder].get(arm, Arm())
    return f"{arm} ({other.seeds} in {other.folder})" if other and other.seeds > own.seeds else arm


def not_run(d: Data) -> list[str]:
    out = []
    for name in COMPARISONS:
        arms = recipe_arms(name)
        groups: dict[tuple[int, ...], list[str]] = {}  # arms by the seeds that are missing
        for arm, seeds in arms.items():
            there = d.seeds_run(name, arm)
            if left := tuple(s for s in seeds if s not in there and not (s == 0 and there)):
                groups.setdefault(left, []).append(arm)
        unseeded = groups.pop((0,), [])
        partly = min(groups, key=len, default=())
        # Not named if every arm with seeds lacks some.
        every = sum(map(len, groups.values())) == sum(s != [0] for s in arms.values())
        others = every and len(groups.get(partly, [])) > 1
        texts = [listed([elsewhere(d, name, arm) for arm in unseeded])] * bool(unseeded)
        for seeds, lacking in sorted(groups.items(), key=lambda group: -len(group[0])):
            what = listed([elsewhere(d, name, arm) for arm in lacking])
            if others and seeds == partly:
                what = f"{'the other' if len(groups) > 1 else 'all'} {len(lacking)}"
            texts.append(f"seed{'s' * (len(seeds) > 1)} {listed([str(s) for s in seeds])} of {what}")
        total = sum(map(len, arms.values()))
        missing = len(unseeded) + sum(len(seeds) * len(lacking) for seeds, lacking in groups.items())
        out.append([name, str(total), str(total - missing) if total else "the base", "; ".join(texts)])
    return table(["recipe", "arms of the recipe", "run", "missing"], out, "lrrl")


# --- the page ---------------------------------------------------------------------------------------------------------

def of(rows: Callable[[Data], list[Named]]) -> Callable[[Data], list[str]]:
    return lambda d: matrix(d, rows(d))


TABLES: dict[str, Callable[[Data], list[str]]] = {
    "base": base_table, "matrix-untrained": of(untrained), "matrix-full": of(full_length), "matrix-pose": of(skipwise),
    "matrix-e2": of(e2), "matrix-clex": of(clex), "matrix-causes": of(causes),
    "claims-headline": headline, "claims-others": other_claims,
    "keys-seen": keys_seen, "worst-lengths": worst_lengths, "e2-bins": e2_bins, "e2-scales": e2_scales,
    "clex-goals": lambda d: study_table(d.clex_goals), "cost7b": cost_table, "pilot-times": pilot_times,
    "pilot": pilot_table, "not-run": not_run,
    "lora": lambda d: lora_table(read_rows(DATA / "lora.jsonl"), table, figure)}
BLOCK = re.compile(r"(<!-- table (\S+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def rendered(d: Data, page: str) -> tuple[str, list[str]]:
    """The page with its tables made again, and what was different."""
    differs, seen = [], []

    def block(found: re.Match[str]) -> str:
        name, old = found[2], found[3]
        seen.append(name)
        if name not in TABLES or "<!-- table" in old:
            differs.append(f"{name}: {'no end before the next table' if name in TABLES else 'no such table'}")
            return found[0]
        new = "\n".join(TABLES[name](d)) + "\n"
        if new != old:
            lines = set(old.splitlines()) ^ set(new.splitlines())
            differs.append(f"{name}: {len(lines)} lines differ")
        return found[1] + new + found[4]

    page = BLOCK.sub(block, page)
    differs += [f"{name}: not on the page" for name in TABLES if name not in seen]
    differs += [f"{name}: twice on the page" for name in TABLES if seen.count(name) > 1]
    return page, differs


# --- facts ------------------------------------------------------------------------------------------------------------

def facts(d: Data) -> list[str]:
    out = ["claims:"]
    for verdict in (*WORST_FIRST, "holds (test)", "not run", "not tested"):
        ids = [c["claim"] for c in d.claims if re.sub(r" \(\d.*", "", c["verdict"]) == verdict]
        partly = [c["claim"] for c in d.claims if c["claim"] in ids and "parts not run" in c["verdict"]]
        if ids:
            out.append(f"  {verdict}: {len(ids)} of {len(d.claims)}: {' '.join(ids)}"
                       + (f" (parts not run: {' '.join(partly)})" if partly else ""))
    base = d.find("base")
    out += ["", "arms: ppl at L, 2L, 4L, 8L, 16L, 32L; the same over that at L; at L over the base's;",
            "      k_max by seed, mean; training loss at the end, median ms per step, training s"]
    shown = set()
    for folder in COMPARISONS:
        for name, arm in d.arms[folder].items():
            if (name == "base" and folder != "base") or not arm.seeds:
                continue
            ppl = [arm.ppl(d.L << i) for i in range(6)]
            ratios = [x / ppl[0] if x and ppl[0] else None for x in ppl[1:]]
            k = arm.values("passkey k_max")
            loss, step, seconds = arm.last_loss(), arm.step_ms(), arm.mean("train s")
            line = (f"{' '.join(map(figure, ppl))} | {' '.join(f'{x:.3f}' for x in ratios if x)}"
                    f" | {ppl[0] / base.ppl(d.L):.4f} | {' '.join(f'{x:g}' for x in k)}, {sum(k) / len(k):g}"
                    if ppl[0] and base and k else "")
            trained = f" | {loss:.3f} {step:.2f} ms {seconds:.2f} s" if loss and step and seconds else ""
            if (name, line, trained) not in shown:
                shown.add((name, line, trained))
                out.append(f"  {folder}/{name} ({arm.seeds}): {line}{trained}")
    out += ["", "passkeys found, % by length:"]
    out += [f"  {folder}/{name}: " + " ".join(f"{n}:{x:.0f}" for n, x in arm.shares().items())
            for folder in COMPARISONS for name, arm in d.arms[folder].items()
            if any(arm.shares().values()) and (name != "base" or folder == "base")]
    out += ["", "step time (medians, ms) over that of more-steps:"]
    plain = d.find("more-steps")
    for arm in [a for folder in COMPARISONS for a in d.arms[folder].values() if a.name != "base"]:
        if plain and (step := arm.step_ms()) and (other := plain.step_ms()):
            out.append(f"  {arm.folder}/{arm.name}: {step:.2f} / {other:.2f} = {step / other:.3f}, "
                       f"{step - other:+.2f} ms")
    return out + cost_facts(d) + pilot_facts(d)


def cost_facts(d: Data) -> list[str]:
    out = ["", "7B, full over PoSE with the same batch toward that window: seconds per step, per token, peak:"]
    rows = [r for r in d.cost7b if r["seconds"]]
    for f in rows:
        for p in (r for r in rows if r["name"].startswith("pose") and r["target"] == f["window"]):
            if f["name"].startswith("full") and p["batch"] == f["batch"]:
                per_token = p["tokens_per_second"] / f["tokens_per_second"]
                out.append(f"  {f['name']} / {p['name']}: {f['seconds'] / p['seconds']:.3f} (inverse "
                           f"{p['seconds'] / f['seconds']:.3f}), {per_token:.2f}, "
                           f"{f['peak_bytes'] / p['peak_bytes']:.3f}")
    return out


def pilot_facts(d: Data) -> list[str]:
    sums = [sum(x for x in column if x) for column in zip(*pilot_seconds(d).values())]
    wall, other = d.pilot_times.get("all"), d.pilot_pytorch.get("wall_s")
    out = ["", f"pilot: {wall} s against {other} s" + (f" ({wall / other:.3f})" if wall and other else "")
           + f"; stages add up to {sums[0]:.1f} and {sums[1]:.1f} s"]
    arms = d.arms["pilot"]
    if "base" in arms and arms["base"].runs:
        tokens, seconds = (sum(a.mean(m) or 0 for a in arms.values()) for m in ("train tokens", "train s"))
        run, theirs = arms["base"].runs[0], d.pilot_pytorch.get("pretrain", {})
        out.append(f"  training {tokens / seconds / 1e6:.3f} M tok/s, base of {run['steps']} steps; PyTorch's base "
                   f"{theirs.get('tok_s')} tok/s, {theirs.get('steps')} steps of "
                   f"{d.pilot_pytorch.get('pretrain_step_ms')} ms")
        curve = {row[0]: row for row in theirs.get("curve", [])}
        for n, loss in run["losses"]:
            row = curve.get(n, [n, None, None])
            out.append(f"  step {n}: training loss {loss:.4f}, PyTorch's {row[1]}, its validation {row[2]}")
    for label, name, other_name in PILOT:
        ours, them = arms.get(name), d.pilot_pytorch.get("arms", {}).get(other_name, {}).get("ppl", {})
        if ours:
            ratios = [(ours.ppl(w) or math.nan) / them.get(str(w), math.nan) for w in (d.L, 2 * d.L, 4 * d.L, 8 * d.L)]
            step = f"; {ours.step_ms():.2f} ms per step" if ours.step_ms() else ""
            grid = [row["mean"] for metric, row in ours.rows.items() if re.match(r"passkey-grid @\d+ k", metric)]
            far = f"passkey-grid {min(grid):.0f} to {max(grid):.0f} %, mean {sum(grid) / len(grid):.0f}" if grid else ""
            out.append(f"  {label}: ours / PyTorch {' '.join(f'{r:.3f}' for r in ratios)}{step}; {far}")
    return out


# --- main -------------------------------------------------------------------------------------------------------------

def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--facts", action="store_true", help="print figures that the text quotes")
    parser.add_argument("--import", dest="folders", nargs="*", type=Path, default=[], metavar="FOLDER",
                        help="output folders of `ropewalk compare` recipes/papers/*.toml")
    parser.add_argument("--pilot", type=Path, help="the output folder of recipes/pilot.toml")
    parser.add_argument("--pilot-log", type=Path, help="what that run printed: times of its stages")
    parser.add_argument("--pilot-pytorch", type=Path, help="the JSON of the pilot's PyTorch program")
    parser.add_argument("--pilot-pytorch-log", type=Path, help="what that program printed: the time of its start")
    parser.add_argument("--lora", type=Path, help="the output folder of recipes/papers/lora.toml")
    parser.add_argument("--cost7b", type=Path, help="JSONL of `ropewalk bench window`")
    parser.add_argument("--claims", type=Path, help="JSONL of scripts/claims.py, in place of claims made here")
    o = parser.parse_args()
    what = Import(o.folders, o.pilot, o.pilot_log, o.pilot_pytorch, o.pilot_pytorch_log, o.cost7b, o.claims, o.lora)
    if what != Import([]):
        import_results(what)
        print("papers_tables: imported; without --import the page is written")
        return 0
    data = Data()
    if o.facts:
        print("\n".join(facts(data)))
        return 0
    page, differs = rendered(data, old := PAGE.read_text())
    pictures = {DATA / name: draw(data) for name, draw in PICTURES.items()}
    differs += [f"{p.name}: differs" for p, text in pictures.items() if not p.exists() or p.read_text() != text]
    for line in differs:
        print(f"papers_tables: {line}", file=sys.stderr)
    if o.check:
        return 1 if differs else 0
    if page != old:
        PAGE.write_text(page)
    for path, text in pictures.items():
        path.write_text(text)
    print(f"papers_tables: {len(TABLES)} tables and {len(pictures)} pictures, {len(differs)} differed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
