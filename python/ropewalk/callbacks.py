"""Callbacks for :class:`ropewalk.Trainer` that write what other programs read."""

from __future__ import annotations

import os
from typing import Any, Union


class TensorBoard:
    """Writes TensorBoard event files: loss, learning rate, gradient norm and speed by step, and the validation loss.

    It needs a package that writes them: tensorboardX, or PyTorch with tensorboard. Raises ImportError, which says so.
    """

    def __init__(self, folder: Union[str, os.PathLike]):
        self._writer = _summary_writer()(os.fspath(folder))

    def on_step(self, step: Any) -> None:
        self._writer.add_scalar("train/loss", step.loss, step.step)
        self._writer.add_scalar("train/lr", step.lr, step.step)
        self._writer.add_scalar("train/grad_norm", step.grad_norm, step.step)
        self._writer.add_scalar("train/tokens_per_s", step.tokens_per_s, step.step)

    def on_validation(self, validation: Any) -> None:
        self._writer.add_scalar("validation/loss", validation.loss, validation.step)

    def on_end(self, _result: Any) -> None:
        self._writer.close()


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(
                "event files are written by another package: pip install tensorboardX"
            ) from None
    return SummaryWriter


class WeightsAndBiases:
    """Logs to a run of Weights & Biases: ``WeightsAndBiases(wandb.init(project="long"))``.

    run: anything with ``log(values, step=...)``, such as what wandb.init() returns.
    """

    def __init__(self, run: Any):
        self._run = run

    def on_step(self, step: Any) -> None:
        values = {"train/loss": step.loss, "train/lr": step.lr, "train/grad_norm": step.grad_norm}
        self._run.log({**values, "train/tokens_per_s": step.tokens_per_s}, step=step.step)

    def on_validation(self, validation: Any) -> None:
        self._run.log({"validation/loss": validation.loss}, step=validation.step)

    def on_end(self, _result: Any) -> None:
        finish = getattr(self._run, "finish", None)
        if finish is not None:
            finish()
