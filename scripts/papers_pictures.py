"""For scripts/papers_tables.py: the pictures of docs/papers, drawn from the stored results."""
from __future__ import annotations

import math
from typing import Callable, Optional, Sequence

from claims_papers import direct, full, pi, pose, zero
from papers_data import Arm, Data

LEFT, RIGHT, TOP, BOTTOM = 62, 560, 40, 350  # pixels
COLOURS = {"#222": "#d8d5cd", "#1f6fb2": "#6cabf7", "#c0392b": "#f2788f", "#2e8b57": "#55c98b", "#8e44ad": "#c58bec",
           "#e08e0b": "#f0b45a", "#5d8aa8": "#8fc1de", "#7f5539": "#cfa07f"}  # on a light page, and on a dark one
DARK = ('<style>@media (prefers-color-scheme: dark) { [fill="#fff"] { fill: #16181c } text:not([fill]) { fill: #e6e4df } '
        '[stroke="#ddd"] { stroke: #34373c }'
        + "".join(f' [stroke="{a}"] {{ stroke: {b} }} [fill="{a}"] {{ fill: {b} }}' for a, b in COLOURS.items())
        + " }</style>")
PPL_TICKS = (16, 20, 25, 32, 40, 50, 75, 100, 200, 400, 800, 1600, 3200, 6400, 12800)

Series = tuple[str, list[tuple[int, float]]]  # label, points


def chart(title: str, x_label: str, y_label: str, x_ticks: Sequence[int],
          y_ticks: Sequence[tuple[float, str]], share: Callable[[float], float], series: Sequence[Series]) -> str:
    """Lines over a base-2 axis. `share`: height of a value, 0 at the bottom and 1 at the top."""
    low, high = math.log2(x_ticks[0]), math.log2(x_ticks[-1])
    at_x = lambda x: LEFT + (RIGHT - LEFT) * (math.log2(x) - low) / (high - low)  # noqa: E731
    at_y = lambda y: BOTTOM - (BOTTOM - TOP) * share(y)  # noqa: E731
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 400" font-family="sans-serif" font-size="12">',
           DARK, '<rect width="100%" height="100%" fill="#fff"/>', f'<text x="{LEFT}" y="22" font-size="15">{title}</text>']
    for value, text in y_ticks:
        y = at_y(value)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
                   f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    out += [f'<text x="{at_x(x):.1f}" y="368" text-anchor="middle">{x}</text>' for x in x_ticks]
    out.append(f'<text x="{(LEFT + RIGHT) / 2:.1f}" y="390" text-anchor="middle">{x_label}</text>'
               f'<text transform="translate(14,195.0) rotate(-90)" text-anchor="middle">{y_label}</text>')
    for i, ((label, points), colour) in enumerate(zip(series, COLOURS)):
        dots = [(f"{at_x(x):.1f}", f"{at_y(y):.1f}") for x, y in points]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                   + " ".join(f"{x},{y}" for x, y in dots) + '"/>')
        out += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in dots]
        out.append(f'<circle cx="578" cy="{52 + 24 * i}" r="5" fill="{colour}"/>'
                   f'<text x="590" y="{56 + 24 * i}">{label}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def perplexity(d: Data) -> str:
    arms = [("base", "base"), ("PI, s = 16, 1000 steps", pi(d, 16)), ("direct fine-tuning at 2048", direct(d, 4)),
            ("PoSE, linear, s = 32", pose(d, 32)), ("PoSE, YaRN, s = 32", pose(d, 32, "yarn")),
            ("E2-LLM, G = 16", "e2-max-factor16"), ("CLEX, random positions", "clex"),
            ("CLEX, two chunks, continuous t", "skip-continuous-t")]
    windows = [d.L << i for i in range(6)]
    ppl: Callable[[Arm, int], Optional[float]] = lambda arm, w: arm.ppl(w)  # noqa: E731
    series = points(d, arms, lambda arm: [(w, ppl(arm, w)) for w in windows])
    values = [y for _, line in series for _, y in line]
    first = max((t for t in PPL_TICKS if t <= min(values)), default=PPL_TICKS[0])
    low = first * 15 / 16
    high = min((t for t in PPL_TICKS if t >= max(values)), default=PPL_TICKS[-1])
    share = lambda y: math.log(min(y, high) / low) / math.log(high / low)  # noqa: E731
    return chart("Perplexity of 44 test books by evaluation window (trained window 512)", "window, tokens",
                 "perplexity (log)", windows, [(t, str(t)) for t in PPL_TICKS if low <= t <= high], share, series)


def passkey(d: Data) -> str:
    arms = [("base", "base"), ("YaRN s = 8, untrained", zero(d, 8, "yarn")), ("PI s = 8, 200 steps", pi(d, 8, 200)),
            ("PI s = 8, 1000 steps", pi(d, 8)), ("full length, YaRN, 1000 steps", full("yarn")),
            ("PoSE linear s = 8", pose(d, 8)), ("PoSE YaRN s = 8", pose(d, 8, "yarn")),
            ("E2-LLM G = 16", "e2-max-factor16")]
    series = points(d, arms, lambda arm: list(arm.shares().items()))
    return chart("Passkey found, by prompt length (8x arms)", "prompt length, tokens", "% of trials",
                 [d.L // 2 << i for i in range(7)], [(t, str(t)) for t in range(0, 101, 20)],
                 lambda y: y / 100, series)


def points(d: Data, arms: Sequence[tuple[str, str]],
           of: Callable[[Arm], list[tuple[int, Optional[float]]]]) -> list[Series]:
    found = [(label, d.find(names)) for label, names in arms]
    return [(label, [(x, y) for x, y in of(arm) if y is not None]) for label, arm in found if arm]


# --- the README's picture: everything on a log axis, and beside it the band in which the extended models lie

PANELS = ((52, 300), (352, 600))  # left and right edge in pixels
BAND = (29.0, 35.0)
MARKS = ("M-4,0h8M0,-4v8", "M-3,-3h6v6h-6z", "M0,-4l4,7h-8z", "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0",
         "M0,-4.5l4.5,4.5l-4.5,4.5l-4.5,-4.5z", "M-3,-3l6,6M3,-3l-6,6", "M0,4l4,-7h-8z")


def panel(edges: tuple[int, int], name: str, title: str, windows: Sequence[int], ticks: Sequence[tuple[float, str]],
          share: Callable[[float], float], series: Sequence[Series]) -> list[str]:
    """One pair of axes; what leaves it is cut off at its frame."""
    left, right = edges
    low, high = math.log2(windows[0]), math.log2(windows[-1])
    at_x = lambda x: left + (right - left) * (math.log2(x) - low) / (high - low)  # noqa: E731
    at_y = lambda y: BOTTOM - (BOTTOM - TOP) * share(y)  # noqa: E731
    out = [f'<text x="{left}" y="28" font-size="13">{title}</text>',
           f'<clipPath id="{name}"><rect x="{left - 5}" y="{TOP}" width="{right - left + 10}" height="{BOTTOM - TOP + 5}"/></clipPath>']
    for value, text in ticks:
        out.append(f'<line x1="{left}" y1="{at_y(value):.1f}" x2="{right}" y2="{at_y(value):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{at_y(value) + 4:.1f}" text-anchor="end">{text}</text>')
    out += [f'<text x="{at_x(x):.1f}" y="368" text-anchor="middle">{x if x < 1024 else f"{x // 1024}k"}</text>' for x in windows]
    out.append(f'<text x="{(left + right) / 2:.1f}" y="390" text-anchor="middle">window, tokens</text><g clip-path="url(#{name})">')
    for (_, points), colour, mark in zip(series, COLOURS, MARKS):
        dots = [(f"{at_x(x):.1f}", f"{at_y(y):.1f}") for x, y in points]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="' + " ".join(f"{x},{y}" for x, y in dots) + '"/>')
        out += [f'<path transform="translate({x},{y})" d="{mark}" fill="none" stroke="{colour}" stroke-width="1.6"/>' for x, y in dots]
    return out + ["</g>"]


def readme(d: Data) -> str:
    arms = [("the base, as it is", "base"), ("PI, s = 16", pi(d, 16)), ("direct, to 2048", direct(d, 4)),
            ("PoSE, linear, s = 32", pose(d, 32)), ("PoSE, YaRN, s = 32", pose(d, 32, "yarn")),
            ("E2-LLM, G = 16", "e2-max-factor16"), ("CLEX", "clex")]
    windows = [d.L << i for i in range(6)]
    ppl: Callable[[Arm, int], Optional[float]] = lambda arm, w: arm.ppl(w)  # noqa: E731
    series = points(d, arms, lambda arm: [(w, ppl(arm, w)) for w in windows])
    wide = lambda y: math.log(y / 24) / math.log(4000 / 24)  # noqa: E731
    near = lambda y: (y - BAND[0]) / (BAND[1] - BAND[0])  # noqa: E731
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 400" font-family="sans-serif" font-size="12">',
           DARK.replace("text:not([fill])", "text"), '<rect width="100%" height="100%" fill="#fff"/>']
    out += panel(PANELS[0], "all", "perplexity, log axis", windows, [(t, str(t)) for t in (25, 50, 100, 200, 400, 800, 1600, 3200)], wide, series)
    out += panel(PANELS[1], "band", "the same from 29 to 35", windows, [(t, str(t)) for t in range(29, 36)], near, series)
    for i, ((label, _), colour, mark) in enumerate(zip(series, COLOURS, MARKS)):
        y = 60 + 26 * i
        out.append(f'<path transform="translate(632,{y})" d="{mark}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
                   f'<text x="646" y="{y + 4}">{label}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


PICTURES: dict[str, Callable[[Data], str]] = {"perplexity.svg": perplexity, "passkey.svg": passkey, "readme.svg": readme}
