"""What a model makes of text: perplexity, passkey retrieval, and the other protocols of ``ropewalk eval``."""

from __future__ import annotations

import ctypes as c
import json
import os
import tempfile
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from . import _library as lib
from .model import Model

Windows = Union[int, Sequence[int]]
Path = Union[str, os.PathLike]
Items = Union[Path, Sequence[Mapping[str, Any]]]


def run(
    model: Model,
    kind: str,
    data: Optional[lib.Data] = None,
    *,
    progress: bool = True,
    on_progress: Optional[Callable[[int, int], Any]] = None,
    **settings: Any,
) -> Dict[str, Any]:
    """Runs one protocol: ppl, lastk, bins, longppl, passkey, needle, tasks, ruler, longbench or choice.

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


def needle(
    model: Model, *, length: Optional[Windows] = None, trials: Optional[int] = None, **settings: Any
) -> Dict[Tuple[int, float], float]:
    """The share of prompts whose hidden number the model finds, by length in tokens and depth: ``{(4096, 0.5): 1.0}``.

    Depth 0 is the beginning of the prompt, 1 its end.
    """
    found = run(model, "needle", length=length, trials=trials, **settings)
    return {(int(t["length"]), float(t["depth"])): float(t["accuracy"]) for t in found["totals"] if "depth" in t}


def ruler(
    model: Model,
    data: Optional[lib.Data] = None,
    *,
    window: Optional[Windows] = None,
    task: Union[None, str, Sequence[str]] = None,
    trials: Optional[int] = None,
    **settings: Any,
) -> Dict[str, Dict[int, float]]:
    """RULER's scores by task and length: ``{"vt": {4096: 0.8}, "average": {4096: 0.7}}``.

    data: text for the haystacks; without it the tasks that need text are left out. window: tokens of prompt and answer
    together. task: one or several of RULER's thirteen (default: all that the text suffices for). trials: prompts of each
    task and length. "average" is there with two or more tasks.
    """
    found = run(model, "ruler", data, window=window, task=task, trials=trials, **settings)
    scores: Dict[str, Dict[int, float]] = {}
    for total in found["totals"]:
        scores.setdefault(str(total["task"]), {})[int(total["length"])] = float(total["score"])
    return scores


def longppl(
    model: Model,
    data: lib.Data,
    *,
    window: Optional[int] = None,
    short_window: Optional[int] = None,
    **settings: Any,
) -> Dict[str, float]:
    """LongPPL: the perplexity of the tokens that the long context decides, with what it is judged by.

    window and short_window: tokens of the long and of the short context. Returns {"longppl", "longppl_low",
    "longppl_high", "ppl" of all judged tokens, "tokens", "key_tokens"}; longppl is NaN where no token is key.
    """
    found = run(model, "longppl", data, window=window, short_window=short_window, **settings)
    names = ("longppl", "longppl_low", "longppl_high", "ppl", "tokens", "key_tokens")
    total = found["totals"][0]
    return {name: float("nan") if total[name] is None else float(total[name]) for name in names}


def choice(
    model: Model, items: Items, *, shots: Optional[int] = None, shots_file: Optional[Path] = None, **settings: Any
) -> Dict[str, float]:
    """Multiple choice by log-likelihood, counted as lm-evaluation-harness does.

    items: a file of JSON lines (BoolQ's, PIQA's, RACE's, WinoGrande's, ARC's, HellaSwag's, or our own), or a list of
    {"context", "choices", "answer"}, as :func:`cloze` makes it. shots: the first so many items of shots_file stand
    solved before every question. Returns {"acc", "acc_norm" by bytes, "acc_char", "acc_answer", "items"}.
    """
    more: Dict[str, Any] = dict(shots=shots, shots_file=shots_file, **settings)
    if isinstance(items, (str, os.PathLike)):
        found = run(model, "choice", file=items, **more)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "items.jsonl")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(dict(item)) + "\n" for item in items)
            found = run(model, "choice", file=path, **more)
    names = ("acc", "acc_norm", "acc_char", "acc_answer", "items")
    return {name: float(found["totals"][0][name]) for name in names}


def cloze(
    data: Union[Path, Sequence[Path], None] = None,
    *,
    text: Union[None, str, Sequence[str]] = None,
    items: int = 200,
    **settings: Any,
) -> List[Dict[str, Any]]:
    """Makes a multiple-choice set from books, for :func:`choice`: which of four continuations is the real one?

    data: paths; or text: documents as strings. items: questions. settings: choices, context_words, choice_words, seed,
    as of ``ropewalk cloze``. Returns a list of {"context", "choices", "answer"}.
    """
    paths = [os.fspath(data)] if isinstance(data, (str, os.PathLike)) else data
    values, count = lib.settings_of({"data": None if paths is None else list(paths), "items": items, **settings})
    texts = [t.encode("utf-8") for t in ([text] if isinstance(text, str) else text or [])]
    documents = (lib.Document * max(1, len(texts)))()
    for document, written in zip(documents, texts):
        document.text, document.bytes = written, len(written)
    result = c.c_void_p()
    lib.check(lib.library.ropewalk_cloze(values, count, documents if texts else None, len(texts), c.byref(result)))
    try:
        lines = lib.library.ropewalk_result_json(result, None).decode("utf-8")
    finally:
        lib.library.ropewalk_result_free(result)
    return [json.loads(line) for line in lines.split("\n") if line]
