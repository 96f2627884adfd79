"""A run with callbacks: TensorBoard event files, Weights & Biases, and one that stops when the loss is low enough.

python callbacks.py TEXT OUT      (tensorboardX and wandb are used where they are installed)
"""

import sys

import ropewalk


def low_enough(step):
    """A plain function is called after every step; a true answer stops the run, with a checkpoint."""
    return step.loss < 1.0


text, out = sys.argv[1:3]
callbacks = [low_enough]
try:
    callbacks.append(ropewalk.callbacks.TensorBoard(out + "/tensorboard"))
except ImportError as why:
    print(why)
try:
    import wandb

    callbacks.append(ropewalk.callbacks.WeightsAndBiases(wandb.init(project="ropewalk", mode="offline")))
except ImportError:
    print("wandb is not installed: its hook is left out")

settings = dict(hidden=64, layers=2, heads=4, window=64, batch=8, steps=60, lr=3e-3)
print(ropewalk.Trainer(data=text, out=out, callbacks=callbacks, **settings).run())
