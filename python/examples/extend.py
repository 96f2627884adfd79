"""Extends the window of a model four times by PoSE and YaRN, and plots its perplexity before and after.

python extend.py BASE TRAIN_TEXT TEST_TEXT OUT [STEPS]     (the picture needs matplotlib)
"""

import sys

import matplotlib.pyplot as plt

import ropewalk

base, train_text, test_text, out = sys.argv[1:5]
model = ropewalk.Model.load(base)
window = model.context_length
windows = [window // 2, window, 2 * window, 4 * window]

trainer = ropewalk.Trainer(base, train_text, out, method="pose", scaling="yarn", target=4 * window, lr=1e-3,
                           batch=4, steps=int((sys.argv[5:] or [50])[0]))
result = trainer.run()
print(f"{result.steps} steps in {result.seconds:.0f} s, loss {result.losses[-1]:.3f}")

for name, which in {"base": model, "PoSE + YaRN": trainer.model()}.items():
    curve = ropewalk.evaluate.perplexity(which, test_text, window=windows, max_tokens=4 * window, documents=4)
    print(name, {tokens: round(value, 2) for tokens, value in curve.items()})
    plt.loglog(list(curve), list(curve.values()), "o-", label=name)
plt.xticks(windows, [str(tokens) for tokens in windows])
plt.xlabel("window (tokens)")
plt.ylabel("perplexity")
plt.legend()
plt.savefig(f"{out}/perplexity.svg")
