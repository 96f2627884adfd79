"""Training runs: a recipe, the text, callbacks, and the model that comes of it."""

from __future__ import annotations

import ctypes as c
import json
import os
import sys
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Union

from . import _library as lib
from .model import Model


class Step(NamedTuple):
    """One optimizer step."""

    step: int  #: counted from 1
    steps: int  #: of the run
    loss: float  #: nats per scored token
    grad_norm: float  #: before clipping
    lr: float
    tokens: int  #: scored in this step
    tokens_per_s: float
    seconds: float  #: of training so far


class Validation(NamedTuple):
    """The loss on the text of the setting `validation`."""

    step: int  #: after so many steps
    loss: float  #: nats per token
    tokens: int
    documents: int
    window: int


class TrainResult(NamedTuple):
    """How a run ended."""

    end: str  #: "finished", "stopped" (by a callback), or "was finished" (by an earlier process)
    steps: int  #: done so far
    tokens: int  #: scored, over all processes that the run took
    seconds: float  #: of training
    losses: List[float]  #: one per step of this process


class Trainer:
    """One training run.

        Trainer(base="base", data="books/", out="long", method="pose", scaling="yarn", target=4096, steps=200).run()

    base: the model folder that the run extends or goes on with; None: a new model.
    data: paths, or token ids of the base's tokenizer as numpy arrays, one per document; None: the recipe's, or built-in
    stories.
    out: the folder that the run leaves, in Hugging Face layout; None: nothing is written, and :meth:`model` has the
    weights.
    recipe: the text of a recipe.toml; the settings win over it.
    settings: those of ``ropewalk train --help``, with _ for -.
    callbacks: objects with any of the methods ``on_step(Step)``, ``on_validation(Validation)``, ``on_notice(str)`` and
    ``on_end(TrainResult)``, or plain functions, which are called as on_step. A true answer of on_step or on_validation
    stops the run after this step, with a checkpoint where `out` is given.

    The same recipe and text give the same weights as ``ropewalk train``, bit for bit.

    Raises :class:`ropewalk.Error` before anything is written if the run cannot be as it is asked for.
    """

    def __init__(
        self,
        base: Optional[Union[str, os.PathLike]] = None,
        data: Optional[lib.Data] = None,
        out: Optional[Union[str, os.PathLike]] = None,
        *,
        recipe: Optional[str] = None,
        callbacks: Iterable[Any] = (),
        device: str = "auto",
        progress: bool = True,
        scaling: Union[None, str, Dict[str, Any]] = None,
        **settings: Any,
    ):
        self._handle: Optional[c.c_void_p] = None
        self._callbacks = list(callbacks)
        self._progress = progress
        self._out = out
        self._bar: Any = None
        self._losses: List[float] = []
        self._guard = lib.Guard()
        self._end: Optional[str] = None
        paths, arrays = lib.split_data(data)
        text = json.dumps(scaling) if isinstance(scaling, dict) else scaling
        values, count = lib.settings_of({"from": base, "data": paths, "out": out, "scaling": text, **settings})
        documents = lib.documents_of(arrays or [])
        guard = self._guard
        self._kept: tuple = (
            lib.OnStep(lambda _, step: guard(self._step, step.contents)),
            lib.OnValidation(lambda _, found: guard(self._validation, found.contents)),
            lib.OnNotice(lambda _, line: guard(self._notice, line.decode("utf-8", "replace")) and None),
        )
        options = lib.TrainOptions(
            c.sizeof(lib.TrainOptions), device.encode(), documents, len(arrays or []), *self._kept, None
        )
        handle = c.c_void_p()
        text_of_recipe = recipe.encode() if recipe is not None else None
        guard.check(
            lib.library.ropewalk_trainer_create(text_of_recipe, values, count, c.byref(options), c.byref(handle))
        )
        self._handle = handle

    def _call(self, name: str, *arguments: Any) -> bool:
        stop = False
        for callback in self._callbacks:
            method = getattr(callback, name, None)
            if method is None and name == "on_step" and callable(callback):
                method = callback
            if method is not None:
                stop = bool(method(*arguments)) or stop
        return stop

    def _step(self, s: lib.StepStruct) -> bool:
        step = Step(s.step, s.steps, s.loss, s.grad_norm, s.lr, s.tokens, s.tokens_per_s, s.seconds)
        self._losses.append(step.loss)
        if self._bar is None and self._progress:
            self._bar = lib.progress_bar("train", step.steps, True)
            self._progress = self._bar is not None
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
            self._bar.update(step.step - self._bar.n)
        return self._call("on_step", step)

    def _validation(self, v: lib.ValidationStruct) -> bool:
        return self._call("on_validation", Validation(v.step, v.loss, v.tokens, v.documents, v.window))

    def _notice(self, line: str) -> None:
        if any(hasattr(callback, "on_notice") for callback in self._callbacks):
            self._call("on_notice", line)
        else:
            print("ropewalk:", line, file=sys.stderr)

    def run(self) -> TrainResult:
        """Trains, once. What a callback raises stops the run and is raised again."""
        if self._handle is None:
            raise ValueError("the trainer is closed")
        result = lib.TrainResultStruct(size=c.sizeof(lib.TrainResultStruct))
        try:
            self._guard.check(lib.library.ropewalk_trainer_run(self._handle, c.byref(result)))
        finally:
            self._kept = ()  # nothing is called any more, and nothing refers to this object in a circle
            if self._bar is not None:
                self._bar.close()
        self._end = ("finished", "stopped", "was finished")[result.end]
        found = TrainResult(self._end, result.steps, result.tokens, result.seconds, self._losses)
        self._call("on_end", found)
        return found

    def model(self) -> Model:
        """The model as it is: before run() its base under the new recipe, afterwards the trained one. It shares the
        trainer's weights and stays usable without it."""
        if self._handle is None:
            raise ValueError("the trainer is closed")
        if self._end == "was finished" and self._out is not None:
            return Model.load(self._out)
        handle = c.c_void_p()
        lib.check(lib.library.ropewalk_trainer_model(self._handle, c.byref(handle)))
        return Model(handle)

    def close(self) -> None:
        """Frees the trainer. Models that came of it stay."""
        if self._handle is not None:
            lib.library.ropewalk_trainer_free(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and lib is not None:
            self.close()

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


Callback = Callable[[Step], Any]
