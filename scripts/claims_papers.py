"""The papers' claims as inequalities over the arms of recipes/papers, for scripts/claims.py."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

from claims_results import Estimate, Part, Results, Window, claim, combine, ratio, share, share_difference


# --- arms -------------------------------------------------------------------------------------------------------------

def pi(r: Window, s: int, steps: int = 1000) -> str:
    """PI at s times the window; 1000 steps of it stand in four recipes."""
    t = s * r.L
    same = f"|full-linear-{t}|pi-{t}" + ("|pi-4L" if s == 4 else "")
    return f"pi-{t}-{steps}steps" + (same if steps == 1000 else "")


def direct(r: Window, s: int, steps: int = 1000) -> str:
    return f"direct-{s * r.L}-{steps}steps" + ("|direct-4L" if s == 4 and steps == 1000 else "")


def zero(r: Window, s: int, kind: str) -> str:
    return f"zero-{s * r.L}-{kind}"


def pose(r: Window, s: int, kind: str = "linear") -> str:
    t = s * r.L
    if kind == "linear":
        return f"pose-linear-{t}-1000steps|pose-linear-{t}"
    return f"pose-{t}-{kind}" + ("|pose-yarn" if (kind, s) == ("yarn", 16) else "")


def full(kind: str, steps: int = 1000) -> str:
    """Full length at 8L under other frequencies than linear ones."""
    return f"full-{steps}steps-{kind}" + ("|full-yarn" if (kind, steps) == ("yarn", 1000) else "")


SKIP = "clex-skip|skip"  # CLEX at L with positions in two chunks


# --- Position Interpolation (2306.15595) ------------------------------------------------------------------------------

@claim("P1", "without extension, perplexity explodes beyond L", "> 139x at 2x (Table 1)")
def p1(r: Results) -> Iterator[Part]:
    for s in (4, 2, 8):
        yield Part(f"base: {s}L / L", ratio(r.ppl("base", s * r.L), r.ppl("base", r.L)), ">=", 3, also=s != 4)


@claim("P2", "PI without training is usable, the less so the larger s",
       "16.10 / 7.20 = 2.24 at 4x; 112.13 at 8x (Table 3)")
def p2(r: Results) -> Iterator[Part]:
    at = {s: r.ppl(zero(r, s, "linear"), s * r.L) for s in (4, 8)}
    yield Part("4L: PI s = 4 / base", ratio(at[4], r.ppl("base", 4 * r.L)), "<", 1)
    yield Part("PI s = 4 at 4L / base at L", ratio(at[4], r.ppl("base", r.L)), "<=", 4)
    yield Part("PI s = 8 at 8L / s = 4 at 4L", ratio(at[8], at[4]), ">", 1)


@claim("P3", "200 steps suffice", "7.12 <= 7.20; 6.95 after 1000 steps (Table 3)")
def p3(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16, 32):
        early, late = (r.ppl(pi(r, s, n), s * r.L) for n in (200, 1000))
        yield Part(f"{s}L: PI, 200 steps / base at L", ratio(early, r.ppl("base", r.L)), "<=", 1.02, also=s != 4)
        yield Part(f"{s}L: 1000 steps / 200 steps", ratio(late, early), "<=", 1, also=s != 4)


@claim("P4", "the longer window helps", "6.95 < 7.13 (Table 1)")
def p4(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16):
        arm = pi(r, s)
        yield Part(f"PI s = {s}: {s}L / L", ratio(r.ppl(arm, s * r.L), r.ppl(arm, r.L)), "<", 1, also=s != 4)
        gain = combine(lambda x, y: x - y, r.loss(arm, s * r.L, "lastk"), r.loss(arm, r.L, "lastk"))
        yield Part(f"s = {s}: loss of the same tokens, context {s}L less L", gain, "<", 0, ".4f", also=s != 4)


@claim("P5", "direct fine-tuning is worse at long windows", "7.69 after 10 times the steps against 6.95 (Table 1)")
def p5(r: Results) -> Iterator[Part]:
    for s, a, b in [(s, n, n) for s in (4, 8, 16, 32) for n in (200, 1000)] + [(4, 1000, 200), (8, 1000, 200)]:
        x = ratio(r.ppl(direct(r, s, a), s * r.L), r.ppl(pi(r, s, b), s * r.L))
        yield Part(f"{s}L: direct, {a} steps / PI, {b} steps", x, ">", 1, also=s != 4 or a != b)


@claim("P6", "passkey after 200 steps: PI reaches its target, direct does not",
       "8192 = L' against 1792 = 0.875L (Table 4)")
def p6(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16, 32):
        yield Part(f"s = {s}: k_max of PI", r.k_max(pi(r, s, 200)), ">=", s * r.L, ".0f")
        yield Part(f"s = {s}: k_max of direct", r.k_max(direct(r, s, 200)), "<=", 1.5 * r.L, ".0f")


@claim("P7", "inside L the price is small and grows with s", "7.13, 7.11, 7.23 against 7.20 at 4x, 8x, 16x (Table 1)")
def p7(r: Results) -> Iterator[Part]:
    at = {s: r.ppl(pi(r, s), r.L) for s in (4, 8, 16, 32)}
    yield Part("L: PI s = 4 / base", ratio(at[4], r.ppl("base", r.L)), "<=", 1.05)
    for s in (8, 16, 32):
        yield Part(f"L: PI s = {s} / s = {s // 2}", ratio(at[s], at[s // 2]), ">=", 1)


# --- PoSE (2309.10400) ------------------------------------------------------------------------------------------------

@claim("S1", "PoSE is near full length", "2.60 / 2.53 = 1.028, 4.60 / 4.59 = 1.002 at 8x (Table 1)")
def s1(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16):
        x = ratio(r.ppl(pose(r, s), s * r.L), r.ppl(pi(r, s), s * r.L))
        yield Part(f"linear, {s}L: PoSE / full", x, "<=", 1.05, also=s == 16)
    for kind in ("yarn", "ntk"):
        x = ratio(r.ppl(pose(r, 8, kind), 8 * r.L), r.ppl(full(kind), 8 * r.L))
        yield Part(f"{kind}, 8L: PoSE / full", x, "<=", 1.05, also=True)


@claim("S2", "PoSE's cost does not depend on s and is a fraction of full length's", "constant against growing (Fig. 3)")
def s2(r: Results) -> Iterator[Part]:
    skip = lambda s: lambda x: x["name"].startswith("pose") and x["target"] == s * x["window"]  # noqa: E731
    whole = lambda x: x["name"].startswith("full") and any(  # noqa: E731
        x["window"] == y["target"] for y in r.cost7b if skip(8)(y))
    for what, unit, rows in (("step", "time per step", "seconds"), ("peak", "peak memory", "peak_bytes")):
        x = ratio(r.cost(pose(r, 16), what), r.cost(pose(r, 4), what))
        yield Part(f"{unit}: s = 16 / s = 4", x, "~", 0.05)
        yield Part(f"{unit}, 7B: s = 16 / s = 4", r.ratio7b(rows, skip(16), skip(4)), "~", 0.05, also=True)
        rows = "activations" if what == "peak" else rows
        label = f"{'activation memory' if what == 'peak' else unit}, 7B, as many sequences, s = 8: PoSE / full"
        yield Part(label, r.ratio7b(rows, skip(8), whole), "<=", 1 / 3)
        x = ratio(r.cost(pose(r, 8), what), r.cost(f"full-linear-{8 * r.L}|{pi(r, 8)}", what))
        yield Part(f"{unit}, as many tokens, s = 8: PoSE / full", x, "<=", 1, also=True)


@claim("S3", "RandPos is much worse", "15.16 against 4.60 at 8L, 11.63 against 4.84 at L (Table 1)")
def s3(r: Results) -> Iterator[Part]:
    for s, at in ((8, 8), (8, 1), (4, 4), (4, 1)):
        x = ratio(r.ppl(f"randpos-{s * r.L}", at * r.L), r.ppl(pose(r, s), at * r.L))
        yield Part(f"s = {s}, {at if at > 1 else ''}L: RandPos / PoSE", x, ">=", 1.3, also=s == 4)


@claim("S4", "v2 is no worse than v1 at the far end, equal at L", "4.79 against 4.60; 4.84 against 4.84")
def s4(r: Results) -> Iterator[Part]:
    v1 = f"pose-linear-{8 * r.L}-v1"
    yield Part("8L: v1 / v2", ratio(r.ppl(v1, 8 * r.L), r.ppl(pose(r, 8), 8 * r.L)), ">=", 1)
    yield Part("L: v1 / v2", ratio(r.ppl(v1, r.L), r.ppl(pose(r, 8), r.L)), "~", 0.01)


@claim("S5", "three chunks are as good as two, a chunk per token is worst", "2.59, 2.60, 7.73 (Table 5)")
def s5(r: Results) -> Iterator[Part]:
    two, three, all_ = (r.ppl(a, 8 * r.L) for a in (
        pose(r, 8), f"pose-linear-{8 * r.L}-chunks3", f"pose-linear-{8 * r.L}-chunks{r.L}"))
    yield Part("8L: N = 3 / N = 2, near", ratio(three, two), "~", 0.02)
    yield Part("8L: N = 3 / N = 2, no worse", ratio(three, two), "<=", 1)
    yield Part("8L: N = L / the worse of the two", combine(lambda n, a, b: n / max(a, b), all_, two, three), ">", 1)


@claim("S6", "the text's offsets hardly matter", "4.60, 4.68, 4.60 (Table 4)")
def s6(r: Results) -> Iterator[Part]:
    arms = (pose(r, 8), f"pose-linear-{8 * r.L}-content-zero", f"pose-linear-{8 * r.L}-content-same")
    x = combine(lambda *x: max(x) / min(x), *(r.ppl(a, 8 * r.L) for a in arms))
    yield Part("8L: worst / best of uniform, zero, same", x, "<=", 1.03)


@claim("S7", "passkey: 90 % at every length up to the target", ">= 90 % within 16k and 32k")
def s7(r: Results) -> Iterator[Part]:
    for kind in ("linear", "ntk", "yarn"):
        for s in (4, 8, 16, 32):
            arm, reached = pose(r, s, kind), 0
            shares = {n: r.hits(arm, "passkey", lambda t, n=n: t["length"] == n) for n in r.lengths(arm, s * r.L)}
            worst = min((share(c) for c in shares.values()), key=lambda e: e.value,
                        default=Estimate(missing=r.absent(arm, "passkey")))
            for n, counts in shares.items():
                if share(counts).value < 0.9:
                    break
                reached = n
            label = f"{kind}, s = {s}: the worst length (90 % up to {reached} of {s * r.L})"
            yield Part(label, worst, ">=", 0.9, ".0%", also=kind == "ntk")


@claim("S8", "NTK is best in the middle and blows up; YaRN beats linear at large s",
       "NTK-96k 7.98, 20.39, 38.73; 128k: 11.33, 31.18, 34.80 (Table 2)")
def s8(r: Results) -> Iterator[Part]:
    kinds = ("ntk", "linear", "yarn")
    middle, end = ([r.ppl(pose(r, 8, k), n * r.L) for k in kinds] for n in (4, 8))
    best = lambda n, a, b: n / min(a, b)  # noqa: E731
    yield Part("s = 8, 4L: NTK / the better of linear and YaRN", combine(best, *middle), "<", 1)
    yield Part("s = 8, 8L: NTK / the better of linear and YaRN", combine(best, *end), ">", 1.1)
    yield Part("s = 8, NTK: 8L / 4L", ratio(end[0], middle[0]), ">", 1.1)
    for s in (16, 32):
        x = ratio(r.ppl(pose(r, s, "yarn"), s * r.L), r.ppl(pose(r, s), s * r.L))
        yield Part(f"s = {s}, {s}L: YaRN / linear", x, "<=", 1)


# --- CLEX (2310.16450) ------------------------------------------------------------------------------------------------

def clex_arms(r: Results) -> list[str]:
    """Every arm trained by CLEX with the window L."""
    found = [p for f in r.folders for p in sorted(f.iterdir()) if (p / "recipe.toml").exists()]
    texts = {p: (p / "recipe.toml").read_text() for p in found}
    arms = dict.fromkeys(re.sub(r"-seed\d+$", "", p.name) for p, text in texts.items()
                         if 'method = "clex"' in text and f'\nwindow = "{r.L}"' in text)
    return list(dict.fromkeys(SKIP if a in SKIP.split("|") else a for a in arms))


FROZEN = ("clex-prior", "clex-skip-prior")  # the learned part stays at zero


def clex_growth(r: Results, arm: str, s: int) -> Estimate:
    return ratio(r.ppl(arm, s * r.L), r.ppl(arm, r.L))


@claim("C2", "trained at L, CLEX holds to 4L and degrades at 8L", "5.86, 5.70, 5.87, 14.53 at L, 2L, 4L, 8L")
def c2(r: Results) -> Iterator[Part]:
    growth = {a: clex_growth(r, a, 4) for a in clex_arms(r) if a not in FROZEN + ("clex",)}
    best = min((a for a, g in growth.items() if not g.missing), key=lambda a: growth[a].value, default="")
    for arm in ["clex"] + [best] * bool(best):
        label = arm if arm == "clex" else f"{arm.split('|')[-1]}, the best at 4L of its study"
        yield Part(f"{label}: 2L / L", clex_growth(r, arm, 2), "<=", 1, also=arm != "clex")
        yield Part(f"{label}: 4L / L", clex_growth(r, arm, 4), "<=", 1.02, also=arm != "clex")
        yield Part(f"{label}: 8L / L", clex_growth(r, arm, 8), ">", 1.02, also=arm != "clex")


@claim("C3", "trained at 4L, CLEX is flat to 16L, and PI degrades more",
       "5.64 / 5.52 = 1.022 against 8.75 / 5.72 = 1.53")
def c3(r: Results) -> Iterator[Part]:
    grown = {a: ratio(r.ppl(a, 16 * r.L), r.ppl(a, 4 * r.L)) for a in ("clex-at-4L", pi(r, 4), direct(r, 4))}
    clex, linear, tuned = grown.values()
    yield Part("CLEX: 16L / 4L", clex, "<=", 1.05)
    yield Part("16L / 4L: PI / CLEX", ratio(linear, clex), ">", 1)
    yield Part("16L / 4L: direct / CLEX", ratio(tuned, clex), ">", 1, also=True)
    two_chunks = ratio(r.ppl("clex-skip-at-4L", 16 * r.L), r.ppl("clex-skip-at-4L", 4 * r.L))
    yield Part("CLEX in two chunks: 16L / 4L", two_chunks, "<=", 1.05, also=True)
    yield Part("16L / 4L: direct / CLEX in two chunks", ratio(tuned, two_chunks), ">", 1, also=True)


@claim("C4", "no loss inside L", "5.86 against the base's 6.04")
def c4(r: Results) -> Iterator[Part]:
    for arm in ("clex", "clex-at-4L", "clex-skip", "clex-skip-at-4L"):
        yield Part(f"L: {arm} / base", ratio(r.ppl(arm, r.L), r.ppl("base", r.L)), "<=", 1.02, also=arm != "clex")


@claim("C5", "the learned part beats its prior alone", "no figure in the paper")
def c5(r: Results) -> Iterator[Part]:
    for s in (4, 8, 2):
        x = ratio(r.ppl("clex", s * r.L), r.ppl("clex-prior", s * r.L))
        yield Part(f"{s}L: CLEX / prior", x, "<=", 1, also=s == 2)
    for s in (4, 8, 2):
        x = ratio(r.ppl("clex-skip", s * r.L), r.ppl("clex-skip-prior", s * r.L))
        yield Part(f"{s}L: both in two chunks", x, "<=", 1, also=True)


@claim("C7", "the solver takes at most 2 % of a step", "1-2 % (the authors)")
def c7(r: Results) -> Iterator[Part]:
    for what, name in (("steady", "median of steps"), ("step", "whole run")):
        for i, arm in enumerate((f"pose-yarn|{pose(r, 16, 'yarn')}", "more-steps")):
            x = combine(lambda a, b: a / b - 1, r.cost("clex", what), r.cost(arm, what))
            yield Part(f"time over that of {arm.split('|')[0]}, {name}", x, "<=", 0.02, ".1%",
                       also=i > 0 or what == "step")


@claim("C8", "log-n scaling below L must be clamped", "the published code scales by ln n / ln L < 1 there")
def c8(r: Results) -> Iterator[Part]:
    at = r.L // 8
    x = ratio(r.ppl("clex-logn-constant", at), r.ppl("clex-logn-position", at))
    yield Part("L/8: unclamped / clamped", x, ">", 1)


# --- E2-LLM (2401.06951) ----------------------------------------------------------------------------------------------
# An arm's scale is g = ceil(W / L), as the paper chooses it; evaluations `ppl-gN` are at a fixed g = N.

E2 = "e2-max-factor16"


@claim("E1", "one training serves all windows", "2.96, 2.71, 2.54 at 4k, 8k, 16k (g = 4); 3.06 to 2.51 at 32k (g = 16)")
def e1(r: Results) -> Iterator[Part]:
    for g in (2, 4, 8, 16):
        yield Part(f"{g}L / L", ratio(r.ppl(E2, g * r.L), r.ppl(E2, r.L)), "<=", 1.05)
    for g in (2, 4, 8):
        yield Part(f"{g}L / {g // 2 if g > 2 else ''}L", ratio(r.ppl(E2, g * r.L), r.ppl(E2, g * r.L // 2)), "<", 1)
    for g in (2, 4, 8, 16):
        x = ratio(r.ppl(E2, g * r.L), r.ppl(E2, r.L, f"ppl-g{g}"))
        yield Part(f"{g}L / L, both at g = {g}", x, "<=", 1.05, also=True)


@claim("E2", "the price inside L grows slowly with g", "3.06 / 2.96 = 1.034; 3.06 / 2.92 = 1.048 over the base")
def e2(r: Results) -> Iterator[Part]:
    far = r.ppl(E2, r.L, "ppl-g16")
    yield Part("L: g = 16 / g = 4", ratio(far, r.ppl(E2, r.L, "ppl-g4")), "<=", 1.06)
    yield Part("L: g = 16 / base", ratio(far, r.ppl("base", r.L)), "<=", 1.08)
    trained = {n: r.ppl(f"e2-max-factor{n}", r.L) for n in (4, 16)}
    yield Part("L, g = 1: G 16 / G 4", ratio(trained[16], trained[4]), "<=", 1.06, also=True)
    yield Part("L, g = 1: G 16 / base", ratio(trained[16], r.ppl("base", r.L)), "<=", 1.08, also=True)


@claim("E3", "as good as PI trained for that one target", "LongBench 41.13 against 37.65")
def e3(r: Results) -> Iterator[Part]:
    for s in (4, 8, 16):
        x = ratio(r.ppl(E2, s * r.L), r.ppl(pi(r, s), s * r.L))
        yield Part(f"{s}L: E2 / PI", x, "<=", 1.05, also=s == 16)


@claim("E4", "both augmentations are needed", "41.74 > 39.44 (no t) > 38.77 (no g)")
def e4(r: Results) -> Iterator[Part]:
    at_8 = lambda arm: r.hits(arm, "passkey", lambda t: t["length"] == 8 * r.L)  # noqa: E731
    for arm, what in (("e2-16-fixed-t", "t"), ("e2-16-fixed-g", "g")):
        yield Part(f"8L: full / without {what}", ratio(r.ppl(E2, 8 * r.L), r.ppl(arm, 8 * r.L)), "<", 1)
        x = share_difference(at_8(E2), at_8(arm))
        yield Part(f"8L, passkey: full less without {what}", x, ">=", 0, ".0%", also=True)


@claim("E5", "E2 finds a key at the beginning rather than elsewhere; PoSE reaches further", "our hypothesis")
def e5(r: Results) -> Iterator[Part]:
    grid = [n * r.L for n in (2, 4, 8, 16)]
    beyond = lambda t: t["length"] in grid and t["depth"] > 0 and t["mean_distance"] > r.L  # noqa: E731
    elsewhere = r.hits(E2, "needle", beyond)
    first = r.hits(E2, "passkey", lambda t: t["length"] in grid)
    other = pose(r, 16)
    yield Part("E2: key first less elsewhere, further than L", share_difference(first, elsewhere), ">", 0, ".0%")
    x = share_difference(r.hits(other, "needle", beyond), elsewhere)
    yield Part("elsewhere, further than L: PoSE less E2", x, ">", 0, ".0%")
    further = combine(lambda a, b: a - b, r.k_max(other), r.k_max(E2))
    yield Part("k_max, key first: PoSE less E2", further, ">", 0, ".0f")


@claim("E6", "trained to G = 8, larger g still works for a while", "fine to 1.5 G, worse from 2 G")
def e6(r: Results) -> Iterator[Part]:
    at = {g: r.ppl("e2-max-factor8", g * r.L) for g in (8, 12, 16)}
    yield Part("12L / 8L", ratio(at[12], at[8]), "<=", 1.1)
    yield Part("16L / 8L", ratio(at[16], at[8]), ">", 1.1)


@claim("E7", "G saturates", "41.74 at 20, 41.51 at 30, 40.12 at 5")
def e7(r: Results) -> Iterator[Part]:
    at = {g: r.ppl(f"e2-max-factor{g}", 8 * r.L) for g in (4, 8, 16, 32)}
    yield Part("8L: G 32 / G 16", ratio(at[32], at[16]), "~", 0.02)
    yield Part("8L: G 16 / G 4", ratio(at[16], at[4]), "<", 1)
    yield Part("8L: G 16 / G 8", ratio(at[16], at[8]), "<", 1, also=True)


@claim("E8", "costs what fine-tuning at the short window costs", "46.3 GB against 57.4 at 4x, 68.8 at 8x")
def e8(r: Results) -> Iterator[Part]:
    e2_row, plain = (lambda x: x["name"].startswith("e2")), (lambda x: x["name"].startswith("plain"))
    for what, unit, rows in (("peak", "peak memory", "peak_bytes"), ("step", "time per step", "seconds")):
        yield Part(f"{unit}: E2 / more-steps", ratio(r.cost(E2, what), r.cost("more-steps", what)), "~", 0.05)
        yield Part(f"{unit}: E2 / PoSE", ratio(r.cost(E2, what), r.cost(pose(r, 16), what)), "~", 0.05, also=True)
        yield Part(f"{unit}, 7B: E2 / plain", r.ratio7b(rows, e2_row, plain), "~", 0.05, also=True)


# --- neighbours -------------------------------------------------------------------------------------------------------

@claim("N1", "without training NTK beats PI at 2L", "a claim of the community")
def n1(r: Results) -> Iterator[Part]:
    for s in (2, 4):
        x = ratio(r.ppl(zero(r, s, "ntk"), 2 * r.L), r.ppl(zero(r, s, "linear"), 2 * r.L))
        yield Part(f"2L, s = {s}: NTK / PI", x, "<", 1, also=s == 4)


@claim("N2", "YaRN: best untrained; trained as good as PI inside, better beyond",
       "3.35 / 3.34 at 8k, 6.04 / 8.07 at 10k")
def n2(r: Results) -> Iterator[Part]:
    yarn, linear = full("yarn"), pi(r, 8)
    x = ratio(r.ppl(zero(r, 4, "yarn"), 4 * r.L), r.ppl(zero(r, 4, "ntk"), 4 * r.L))
    yield Part("untrained, 4L: YaRN / NTK", x, "<=", 1)
    yield Part("s = 8, 8L: YaRN / PI", ratio(r.ppl(yarn, 8 * r.L), r.ppl(linear, 8 * r.L)), "~", 0.02)
    yield Part("s = 8, 16L: YaRN / PI", ratio(r.ppl(yarn, 16 * r.L), r.ppl(linear, 16 * r.L)), "<", 1)


# --- exact statements -------------------------------------------------------------------------------------------------

TESTS = {  # claim: title, test cases as (file below tests/, name)
    "P8": ("PI's bounds: the corrected one holds, the printed one does not", [
        ("rope/test_bounds.cpp",
         "The corrected interpolation bound holds in 100 000 random trials, and so does the extrapolation bound"),
        ("rope/test_bounds.cpp",
         "The printed interpolation bound is violated by an explicit h, the corrected one is not"),
        ("rope/test_bounds.cpp", "B(s)/d takes the reference values and has its minimum 1.1159 at s = 3643")]),
    "S9": ("PoSE's coverage is its exact formula's", [
        ("rope/test_positions.cpp",
         "PoSE covers every distance as often as the exact formula says, within 3 sigma of 100 000 draws")]),
    "C1": ("CLEX begins as dynamic NTK with s = 2t - 1", [
        ("rope/test_clex.cpp", "With W = 0, CLEX is dynamic NTK with s = 2t - 1, for either prior's own s"),
        ("nn/test_llama.cpp", "CLEX with a zero down-projection is dynamic NTK with s = 2t - 1")]),
    "C6": ("CLEX's gradients are right, by backprop and by the adjoint", [
        ("rope/test_clex.cpp", "gradcheck: the op clex, several t per batch, every switch"),
        ("rope/test_clex.cpp",
         "Adjoint equals backprop within 1e-8 at h = 0.1, and the gap falls as h^5, the error of z as h^4")]),
    "N3": ("all frequencies are the reference's", [
        ("rope/test_scaling.cpp", "Every list of rope_golden.json is met within 1e-6")]),
}


def tested(id: str) -> dict:
    """The row of a claim that unit tests hold."""
    title, cases = TESTS[id]
    root, names, here = Path(__file__).resolve().parent.parent / "tests", [], True
    for file, name in cases:
        here = here and f'TEST_CASE("{name}")' in (root / file).read_text() if (root / file).exists() else False
        names.append(f"test_{Path(file).parent}: {name}")
    return {"claim": id, "title": title, "paper": "", "verdict": "holds (test)" if here else "test not found",
            "tests": names, "parts": []}
