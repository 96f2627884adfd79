"""What a model makes of text: perplexity, passkey retrieval, and the other protocols of ``ropewalk eval``."""

from __future__ import annotations

import ctypes as c
import json
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from . import _library as lib
from .model import Model

Windows = Union[int, Sequence[int]]


def run(
    model: Model,
    kind: str,
    data: Optional[lib.Data] = None,
    *,
    progress: bool = True,
    on_progress: Optional[Callable[[int, int], Any]] = None,
    **settings: Any,
) -> Dict[str, Any]:
    """Runs one protocol: ppl, lastk, bins, longppl, passkey, needle, tasks, longbench or choice.

    data: paths, or token ids as arrays, one per document.
    settings: those of ``ropewalk eval KIND --help``, with _ for -.
    progress: a tqdm bar where tqdm is installed. on_progress(done, total): a true answer stops, with an Error.
    Returns what ``ropewalk eval KIND --json`` writes: {"kind", "protocol", "rows", "totals"}.
    """
    paths, arrays = lib.split_data(data)
    values, count = lib.settings_of({"data": paths, **settings})
    guard = lib.Guard()
    bar: List[Any] = [None]

    def report(_user: Any, done: int, total: int) -> int:
        if bar[0] is None:
            bar[0] = lib.progress_bar(kind, total, progress)
        if bar[0] is not None:
            bar[0].update(done - bar[0].n)
        return guard(on_progress, done, total) if on_progress else 0

    documents = lib.documents_of(arrays or [])
    callback = lib.OnProgress(lambda *arguments: guard(report, *arguments))
    options = lib.EvaluateOptions(c.sizeof(lib.EvaluateOptions), documents, len(arrays or []), callback, None)
    result = c.c_void_p()
    try:
        guard.check(
            lib.library.ropewalk_evaluate(model.handle, kind.encode(), values, count, c.byref(options), c.byref(result))
        )
    finally:
        if bar[0] is not None:
            bar[0].close()
    try:
        return json.loads(lib.library.ropewalk_result_json(result, None))
    finally:
        lib.library.ropewalk_result_free(result)


def perplexity(
    model: Model,
    data: lib.Data,
    *,
    window: Optional[Windows] = None,
    stride: Union[None, int, str] = None,
    max_tokens: Optional[int] = None,
    **settings: Any,
) -> Dict[int, float]:
    """Perplexity under sliding windows, by window: ``{1024: 31.2, 4096: 30.8}``.

    window: tokens of a window, BOS included (default: the model's own). stride: tokens from one window to the next, or
    a share such as "1/8" (default "1/2"). max_tokens: only the first so many tokens of each document.
    """
    found = run(model, "ppl", data, window=window, stride=stride, max_tokens=max_tokens, **settings)
    return {int(total["window"]): float(total["ppl"]) for total in found["totals"]}


def passkey(
    model: Model, *, length: Optional[Windows] = None, trials: Optional[int] = None, **settings: Any
) -> Dict[int, float]:
    """The share of prompts whose hidden number the model finds, by length of the prompt in tokens."""
    found = run(model, "passkey", length=length, trials=trials, **settings)
    hits: Dict[int, float] = {}
    trials_of: Dict[int, int] = {}
    for total in found["totals"]:
        if "length" not in total:  # the same trials by distance
            continue
        n = int(total["length"])
        hits[n] = hits.get(n, 0.0) + float(total["accuracy"]) * int(total["trials"])
        trials_of[n] = trials_of.get(n, 0) + int(total["trials"])
    return {n: hits[n] / trials_of[n] for n in sorted(hits)}
