"""Runs from Python: the program's weights bit for bit, numpy arrays as data, callbacks, evaluation."""

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from conftest import story

METHOD = dict(method="pose", scaling="yarn", target=128, chunks=3)
EXTENSION = dict(METHOD, steps=6, batch=2, lr=1e-3, device="cpu", progress=False)
ROOT = Path(__file__).resolve().parents[2]


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def program():
    """The command-line program of a build for any CPU, as this package's library is; None if there is none."""
    named = os.environ.get("ROPEWALK_PROGRAM")
    return named if named else shutil.which("ropewalk")


@pytest.fixture(scope="module")
def extended(base, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "long"
    result = ropewalk.Trainer(base, text, out, **EXTENSION).run()
    assert result.end == "finished" and result.steps == 6 and len(result.losses) == 6
    return out


def test_the_same_weights_as_the_program_bit_for_bit(base, text, extended, tmp_path):
    if program() is None:
        pytest.skip("no ropewalk program: name it by ROPEWALK_PROGRAM")
    options = "--method pose --scaling yarn --target 128 --chunks 3 --steps 6 --batch 2 --lr 1e-3 --device cpu --quiet"
    command = [program(), "train", "--from", base, "--data", text, "--out", tmp_path / "cli", *options.split()]
    subprocess.run(command, check=True)
    assert weights(tmp_path / "cli") == weights(extended)


@pytest.mark.skipif("ROPEWALK_BASE" not in os.environ, reason="name a model by ROPEWALK_BASE, and a text by ROPEWALK_TEXT")
def test_a_model_that_is_named_is_extended_to_the_same_weights_as_by_the_program(tmp_path):
    if program() is None:
        pytest.skip("no ropewalk program: name it by ROPEWALK_PROGRAM")
    named, book = os.environ["ROPEWALK_BASE"], os.environ["ROPEWALK_TEXT"]
    settings = dict(method="pose", scaling="yarn", target=2048, steps=3, batch=2, lr=2e-4)
    result = ropewalk.Trainer(named, book, tmp_path / "python", device="cpu", progress=False, **settings).run()
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [program(), "--device", "cpu", "--quiet", "train", "--from", named, "--data", book]
    subprocess.run([*command, "--out", tmp_path / "cli", *options], check=True)
    assert result.steps == 3 and weights(tmp_path / "cli") == weights(tmp_path / "python")
    print(f"{result.tokens} tokens, losses {[round(loss, 4) for loss in result.losses]}, {len(weights(tmp_path / 'cli'))} equal bytes")


def test_numpy_arrays_as_data_give_the_same_weights_as_the_file(base, extended):
    ids = ropewalk.Model.load(base, device="cpu").tokenize(story())
    trainer = ropewalk.Trainer(base, [ids.astype(np.int64)], **EXTENSION)
    trainer.run()
    model = trainer.model()
    trainer.close()
    assert np.array_equal(model.logits("Line 9"), ropewalk.Model.load(extended, device="cpu").logits("Line 9"))
    assert model.context_length == 128 and model.rope["rope_type"] == "yarn"


def test_a_recipe_file_is_the_same_run(base, text, extended, tmp_path):
    recipe = (extended / "recipe.toml").read_text()
    ropewalk.Trainer(recipe=recipe, out=tmp_path / "again", device="cpu", progress=False).run()
    assert weights(tmp_path / "again") == weights(extended)


class Watch:
    def __init__(self, stop_at=0):
        self.steps, self.validations, self.notices, self.end, self.stop_at = [], [], [], None, stop_at

    def on_step(self, step):
        self.steps.append(step)
        return step.step == self.stop_at

    def on_validation(self, validation):
        self.validations.append(validation)

    def on_notice(self, line):
        self.notices.append(line)

    def on_end(self, result):
        self.end = result


def test_callbacks_see_the_run_and_stop_it_and_it_resumes(base, text, extended, tmp_path):
    out, first, second = tmp_path / "out", Watch(stop_at=2), Watch()
    settings = dict(EXTENSION, validation=text)
    stopped = ropewalk.Trainer(base, text, out, callbacks=[first], **settings).run()
    assert stopped.end == "stopped" and [s.step for s in first.steps] == [1, 2] and first.end == stopped
    ended = ropewalk.Trainer(base, text, out, callbacks=[second], resume=True, **settings).run()
    assert ended.end == "finished" and [s.step for s in second.steps] == [3, 4, 5, 6]
    assert len(second.validations) == 1 and second.validations[0].step == 6
    assert weights(out) == weights(extended)
    trainer = ropewalk.Trainer(base, text, out, callbacks=[Watch()], resume=True, **settings)
    assert trainer.run().end == "was finished"
    found = trainer.model()
    assert found.rope["rope_type"] == "yarn"
    assert np.array_equal(found.logits("Line 9"), ropewalk.Model.load(out, device="cpu").logits("Line 9"))


def test_what_a_callback_raises_comes_out_of_run(base, text, tmp_path):
    def fails(step):
        raise RuntimeError(f"at step {step.step}")

    with pytest.raises(RuntimeError, match="at step 1"):
        ropewalk.Trainer(base, text, tmp_path / "out", callbacks=[fails], **EXTENSION).run()


def test_a_run_that_cannot_be_is_refused_before_anything_is_written(base, text, tmp_path):
    for settings, reason in [
        (dict(colour="red"), "unknown setting 'colour'"),
        (dict(target=8), "shorter"),
        (dict(recipe="[train]\nsteps = 'x'\n"), "steps"),
    ]:
        with pytest.raises(ropewalk.Error, match=reason):
            ropewalk.Trainer(base, text, tmp_path / "out", **{**EXTENSION, **settings})
    with pytest.raises(ropewalk.Error, match="beyond the vocabulary"):
        ropewalk.Trainer(base, [np.array([1, 2, 10**6])], tmp_path / "out", **EXTENSION)
    with pytest.raises(ValueError, match="mixes"):
        ropewalk.Trainer(base, [text, np.array([1, 2])], **EXTENSION)
    assert not (tmp_path / "out").exists()


def test_perplexity_of_files_and_of_arrays_is_the_same_and_passkey_counts(model, text):
    files = ropewalk.evaluate.perplexity(model, text, window=[16, 32], progress=False)
    arrays = ropewalk.evaluate.perplexity(model, model.tokenize(story()), window=[16, 32], progress=False)
    assert list(files) == [16, 32] and files == arrays and all(1 < p < 300 for p in files.values())
    found = ropewalk.evaluate.passkey(model, length=[256, 320], trials=4, progress=False)
    assert list(found) == [256, 320] and all(0 <= share <= 1 for share in found.values())
    whole = ropewalk.evaluate.run(model, "lastk", text, window=[16, 32], last=8, targets=2, progress=False)
    assert whole["kind"] == "lastk" and whole["totals"]


def test_an_evaluation_stops_when_its_progress_says_so(model, text):
    with pytest.raises(ropewalk.Error, match="stopped"):
        ropewalk.evaluate.perplexity(model, text, window=16, progress=False, on_progress=lambda done, total: True)


def test_tensorboard_event_files_hold_the_losses(text, tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    writer = ropewalk.callbacks.TensorBoard(tmp_path / "events")
    run = dict(hidden=16, layers=1, heads=2, window=16, steps=3, batch=2, device="cpu", progress=False)
    result = ropewalk.Trainer(data=text, callbacks=[writer], **run).run()
    (path,) = glob.glob(str(tmp_path / "events" / "*tfevents*"))
    data = Path(path).read_bytes()
    assert b"train/loss" in data and np.float32(result.losses[0]).tobytes() in data


def test_the_weights_and_biases_hook_logs_every_step(text):
    class Run:
        def __init__(self):
            self.logged, self.finished = [], False

        def log(self, values, step):
            self.logged.append((step, values))

        def finish(self):
            self.finished = True

    run = Run()
    settings = dict(hidden=16, layers=1, heads=2, window=16, steps=3, batch=2, device="cpu", progress=False)
    result = ropewalk.Trainer(data=text, callbacks=[ropewalk.callbacks.WeightsAndBiases(run)], **settings).run()
    assert [step for step, _ in run.logged] == [1, 2, 3] and run.finished
    assert run.logged[0][1]["train/loss"] == result.losses[0]


def test_the_example_extends_and_evaluates_in_at_most_25_lines(base, text, tmp_path):
    example = ROOT / "python" / "examples" / "extend.py"
    code = example.read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path / "long"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), MPLBACKEND="Agg")
    subprocess.run([sys.executable, example, base, text, text, out, "3"], check=True, env=environment)
    assert (out / "model.safetensors").exists() and (out / "perplexity.svg").exists()
