"""Models from Python: tokens, generation, logits, scores, RoPE recipes."""

import threading

import numpy as np
import pytest

import ropewalk


def test_text_becomes_tokens_and_text_again(model):
    text = "Line 7: ünïcode, \x00 and all."
    ids = model.tokenize(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert model.detokenize(ids) == text
    assert model.tokenize("").size == 0 and model.detokenize([]) == ""
    assert model.tokenize(text, bos=True)[0] == model.bos


def test_greedy_generation_takes_the_most_likely_token_of_the_logits(model):
    prompt = model.tokenize("Line 1", bos=True)
    seen = []
    model.generate(prompt, tokens=5, temperature=0, ignore_ends=True, on_token=lambda id, piece: seen.append(id))
    ids = list(prompt)
    for id in seen:
        assert int(model.logits(ids, first=-1)[0].argmax()) == id
        ids.append(id)
    assert len(seen) == 5


def test_a_callback_stops_generation_and_its_exception_comes_out(model):
    seen = []
    options = dict(seed=1, ignore_ends=True)
    text = model.generate("Line", tokens=50, on_token=lambda *token: seen.append(token) or len(seen) == 3, **options)
    assert len(seen) == 3 and text == model.generate("Line", tokens=3, **options)

    def fails(*_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.generate("Line", on_token=fails)


def test_scores_are_the_log_softmax_of_the_logits(model):
    ids = model.tokenize("Line 5 of the little story", bos=True)
    logits = model.logits(ids).astype(np.float64)
    assert logits.shape == (ids.size, model.vocab_size)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = log_p[np.arange(ids.size - 1), ids[1:]]
    np.testing.assert_allclose(model.score(ids), expected, atol=1e-5)
    np.testing.assert_allclose(model.score(ids, first=10), expected[9:], atol=1e-5)


def test_a_rope_recipe_at_load_and_extend_give_the_same_model(base, tmp_path):
    yarn = ropewalk.Model.load(base, device="cpu").extend(128, scaling="yarn")
    assert yarn.rope["rope_type"] == "yarn" and yarn.context_length == 128
    again = ropewalk.Model.load(base, device="cpu", rope=yarn.rope)
    assert np.array_equal(yarn.logits("Line 5"), again.logits("Line 5"))
    assert not np.array_equal(yarn.logits("Line 5"), ropewalk.Model.load(base, device="cpu").logits("Line 5"))
    yarn.save(tmp_path / "long")
    assert ropewalk.Model.load(tmp_path / "long").rope == yarn.rope


def test_refusals_are_errors_with_the_reason(model, base, tmp_path):
    with pytest.raises(ropewalk.Error, match="nowhere"):
        ropewalk.Model.load(tmp_path / "nowhere")
    with pytest.raises(ropewalk.Error, match="spiral"):
        ropewalk.Model.load(base, rope="spiral")
    with pytest.raises(ropewalk.Error, match="vocabulary"):
        model.logits([0, 10**6])
    with pytest.raises(ropewalk.Error, match="unknown setting 'colour'"):
        model.extend(128, colour="red")
    with pytest.raises(ropewalk.Error, match="parameters of its own"):
        model.extend(128, method="clex")
    with pytest.raises(ropewalk.Error, match="holds a model"):
        model.save(base)
    with pytest.raises(ValueError, match="one row"):
        model.score(np.zeros((2, 3), dtype=np.int32))
    with pytest.raises(ValueError, match="integer"):
        model.score([0.5, 1.5])
    closed = ropewalk.Model.load(base)
    closed.close()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        closed.generate("Line")


def test_models_work_in_different_threads(base):
    answers = [None] * 4

    def work(i):
        answers[i] = ropewalk.Model.load(base, device="cpu").generate("Line", tokens=8, seed=3)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1 and answers[0] is not None
