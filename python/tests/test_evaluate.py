"""Evaluations from Python: the program's numbers, in shapes that a caller expects; sets that are made and judged."""

import json
import math
import os
import random
import shutil
import subprocess

import numpy as np
import pytest

import ropewalk
from ropewalk import evaluate

QUIET = dict(progress=False)
SMALL = dict(context_words=8, choice_words=4)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    draw = random.Random(3)
    words = [a + b for a in ("ka", "lo", "mi", "nu", "pe") for b in ("ra", "sto", "ven", "dil", "qua")]
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_text(" ".join(draw.choice(words) for _ in range(4000)))
    return path


def test_needle_counts_by_length_and_depth(model):
    found = evaluate.needle(model, length=[256, 320], depth=[0, 0.5, 1], trials=2, **QUIET)
    assert sorted(found) == [(n, depth) for n in (256, 320) for depth in (0.0, 0.5, 1.0)]
    assert all(0 <= share <= 1 for share in found.values())


def test_ruler_scores_by_task_and_length_and_their_average(model, book):
    found = evaluate.ruler(model, window=[1100, 1200], task=["niah_single_1", "fwe"], trials=1, **QUIET)
    assert list(found) == ["niah_single_1", "fwe", "average"]
    assert all(list(scores) == [1100, 1200] for scores in found.values())
    assert found["average"][1100] == (found["niah_single_1"][1100] + found["fwe"][1100]) / 2
    with_text = evaluate.ruler(model, book, window=1200, task="niah_single_2", trials=1, **QUIET)
    assert list(with_text) == ["niah_single_2"]
    with pytest.raises(ropewalk.Error, match="text"):
        evaluate.ruler(model, window=1200, task="niah_single_2", **QUIET)


def test_longppl_states_its_key_tokens(model, book):
    found = evaluate.longppl(model, book, window=128, short_window=32, alpha=-50, beta=-50, **QUIET)
    assert found["tokens"] == found["key_tokens"] == 128 - 32  # every token is key
    assert found["longppl"] == pytest.approx(found["ppl"])
    assert found["longppl_low"] <= found["longppl"] <= found["longppl_high"]
    none = evaluate.longppl(model, book, window=128, short_window=32, alpha=50, **QUIET)
    assert none["key_tokens"] == 0 and math.isnan(none["longppl"])
    arrays = evaluate.longppl(model, [model.tokenize(book.read_text())], window=128, short_window=32, alpha=-50, beta=-50)
    assert arrays["ppl"] == found["ppl"]


def test_a_cloze_set_from_files_or_text_is_judged_as_a_list_or_as_a_file(model, book, tmp_path):
    items = evaluate.cloze(book, items=12, **SMALL)
    assert items == evaluate.cloze(text=book.read_text(), items=12, **SMALL)
    assert items != evaluate.cloze(book, items=12, seed=2, **SMALL)
    assert len(items) == 12 and all(len(item["choices"]) == 4 for item in items)
    for item in items:
        assert item["context"] + " " + item["choices"][item["answer"]] in book.read_text()
    path = tmp_path / "cloze.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    judged = evaluate.choice(model, items, **QUIET)
    assert judged == evaluate.choice(model, path, **QUIET) and judged["items"] == 12
    right = sum(
        int(np.argmax([log_p(model, item["context"], choice) for choice in item["choices"]]) == item["answer"])
        for item in items
    )
    assert judged["acc"] == right / 12
    solved = evaluate.choice(model, items, shots=2, shots_file=path, **QUIET)
    assert solved["items"] == 12


def log_p(model, context, choice):
    """lm-evaluation-harness's rule, for contexts that fit into the window."""
    before = model.tokenize(context).size
    ids = model.tokenize(context + " " + choice, bos=True)
    window = model.context_length
    cut = max(0, ids.size - window - 1)
    return model.score(ids[cut:], first=max(1, before + 1 - cut)).sum()


def test_refusals_of_evaluations_and_sets_name_the_reason(model, book):
    with pytest.raises(ropewalk.Error, match="cloze needs 'data'"):
        evaluate.cloze()
    with pytest.raises(ropewalk.Error, match="give one"):
        evaluate.cloze(book, text="words")
    with pytest.raises(ropewalk.Error, match="no setting 'colour'"):
        evaluate.cloze(book, colour="red")
    with pytest.raises(ropewalk.Error):
        evaluate.cloze(text="too short", items=5)
    with pytest.raises(ropewalk.Error, match="no setting 'colour'"):
        evaluate.choice(model, [{"context": "a", "choices": ["b", "c"], "answer": 0}], colour="red", **QUIET)
    with pytest.raises(ropewalk.Error):
        evaluate.choice(model, [{"context": "a"}], **QUIET)
    with pytest.raises(ropewalk.Error, match="vt"):
        evaluate.ruler(model, window=64, task="vt", trials=1, **QUIET)


def test_a_gguf_file_loads_as_the_folder_does(base, tmp_path):
    program = os.environ.get("ROPEWALK_PROGRAM") or shutil.which("ropewalk")
    if program is None:
        pytest.skip("no ropewalk program: name it by ROPEWALK_PROGRAM")
    file = tmp_path / "model.gguf"
    subprocess.run([program, "--quiet", "convert", "gguf", "--model", base, "--out", file, "--type", "f32"], check=True)
    text = "Line 5 of the little story"
    folder = ropewalk.Model.load(base, device="cpu")
    assert np.array_equal(ropewalk.Model.load(file, device="cpu").logits(text), folder.logits(text))
