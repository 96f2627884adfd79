"""Ropewalk: trains RoPE language models and extends their context window.

    model = ropewalk.Model.load("base")
    trainer = ropewalk.Trainer(base="base", data="books/", out="long", method="pose", scaling="yarn", target=4096)
    trainer.run()
    ropewalk.evaluate.perplexity(trainer.model(), "held-out/")

Everything is computed by the C++ library through its C API (ropewalk.h); arrays are numpy's.
"""

from . import callbacks, evaluate
from ._library import Error, set_threads, version
from .model import Model
from .trainer import Trainer, TrainResult

__version__ = version()
__all__ = ["Error", "Model", "TrainResult", "Trainer", "callbacks", "evaluate", "set_threads", "version"]
