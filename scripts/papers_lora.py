"""For scripts/papers_tables.py: low-rank adapters against full training (recipes/papers/lora.toml), docs/papers/lora.jsonl.

A row per arm: the perplexities by window, the shares of keys found, and by window the ratio to full training with its
95 % interval (2000 bootstrap draws of documents and seeds).
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

from claims_results import Results, ratio

WINDOWS = (512, 1024, 2048, 4096)
FULL = "full"
ARMS = (("everything, rate 4e-4", FULL), ("LoRA, rate 2e-3", "lora"),
        ("LoRA, norms, embeddings, rate 5e-4", "lora-norms-embeddings-lr5e-4"),
        ("LoRA, norms, embeddings, rate 2e-3", "lora-norms-embeddings-lr2e-3"))


def lora_rows(folder: Path) -> list[dict]:
    """Of a folder of `ropewalk compare recipes/papers/lora.toml`."""
    results, table = Results([folder]), [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]
    rows = []
    for _, arm in ARMS:
        mine = {r["metric"]: r for r in table if r["arm"] == arm}
        if f"ppl @{WINDOWS[0]}" not in mine:
            continue
        row = {"arm": arm, "seeds": mine[f"ppl @{WINDOWS[0]}"]["seeds"], "train s": mine["train s"]["mean"],
               "ppl": {str(w): mine[f"ppl @{w}"]["mean"] for w in WINDOWS},
               "keys": {m[9:].split()[0]: r["mean"] for m, r in mine.items() if m.startswith("passkey @")}, "ratio": {}}
        for w in WINDOWS:
            e = ratio(results.ppl(arm, w), results.ppl(FULL, w))
            low, high = e.interval() or (e.value, e.value)
            row["ratio"][str(w)] = [e.value, low, high]
        rows.append(row)
    return rows


def lora_table(rows: Sequence[dict], table, figure) -> list[str]:
    body = []
    for label, arm in ARMS:
        for r in (r for r in rows if r["arm"] == arm):
            cells = [figure(r["ppl"][str(w)]) for w in WINDOWS]
            for w in (WINDOWS[0], WINDOWS[-1]):
                value, low, high = r["ratio"][str(w)]
                cells.append("" if arm == FULL else f"{value:.4f} [{low:.4f}, {high:.4f}]")
            body.append([label, str(r["seeds"]), *cells, f"{r['keys']['4096']:.0f} %"])
    return table(["what is trained", "seeds", *(f"ppl {w}" for w in WINDOWS), f"over full, {WINDOWS[0]}",
                  f"over full, {WINDOWS[-1]}", "keys at 4096"], body)
