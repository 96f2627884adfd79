#!/usr/bin/env python3
"""Multiple choice counted by transformers and by `ropewalk eval choice`: the same log-likelihoods and accuracies?

  python3 tests/hf/hf_choice.py --model MODEL --books TEXT.txt... --ropewalk build/cpu/bin/ropewalk
  python3 tests/hf/hf_choice.py --model MODEL --items FILE.jsonl --ropewalk build/cpu/bin/ropewalk

FILE has lines of {"context", "choices", "answer"}, or WinoGrande's of {"sentence", "option1", "option2", "answer"}.
Without it two tasks of --count items each are made from the books: `cloze` (which of four continuations is the real
one; `ropewalk cloze` makes it) and `names` (which of two names of the same book stands in the gap; WinoGrande's form,
where the context differs and the continuation is the same). The rule is lm-evaluation-harness's: context and
continuation, joined by a space, are encoded together; the continuation's tokens are those after the context's own; acc
takes the highest sum of log p, acc_norm divides it by the continuation's bytes. Both sides compute in f32 on the CPU.
Ends with code 0 if every sum agrees within 1e-3 and both accuracies are the same, 1 if not. Needs torch and
transformers.
"""
import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def name_items(books, count):
    """Sentences with a name in them that stands at least five times within its book, and another such name."""
    rng, items = random.Random(1), []
    texts = [" ".join(Path(book).read_text(encoding="utf-8").split()) for book in books]
    for text in texts:
        mentions = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,11}(?=[ ,;.])", text)
        names = sorted(name for name in set(mentions) if mentions.count(name) >= 5)
        sentences = [s for s in re.findall(r"(?<=[.!?] )[A-Z][^.!?\"_]{60,200}[.!?](?= [A-Z])", text)
                     if re.search(r" (%s) [a-z]" % "|".join(names), s)]
        for sentence in rng.sample(sentences, -(-count // len(texts))):
            gap = re.search(r" (%s) [a-z]" % "|".join(names), sentence)
            options = [gap[1], rng.choice([name for name in names if name not in sentence])]
            answer = rng.randrange(2)
            items.append({"sentence": sentence[:gap.start(1)] + "_" + sentence[gap.end(1):], "option1": options[answer],
                          "option2": options[1 - answer], "answer": str(answer + 1)})
    return items[:count]


def pairs_of(item):
    """Contexts and continuations of the choices, and the index of the right one."""
    if "sentence" in item:
        before, after = item["sentence"].split("_")
        return [(before + item[key], after.strip()) for key in ("option1", "option2")], int(item["answer"]) - 1
    return [(item["context"], choice) for choice in item["choices"]], item["answer"]


def log_likelihood(model, tokenizer, bos, window, context, continuation):
    import torch

    before = tokenizer.encode(context, add_special_tokens=False)
    whole = tokenizer.encode(context + " " + continuation, add_special_tokens=False)
    ids, first = [bos] + whole, len(before) + 1
    cut = max(0, len(ids) - window - 1)
    ids, first = ids[cut:], max(1, first - cut)
    with torch.no_grad():
        log_p = model(torch.tensor([ids[:-1]])).logits[0].float().log_softmax(-1)
    return sum(float(log_p[i - 1, ids[i]]) for i in range(first, len(ids)))


def compare(name, path, args, model, tokenizer):
    """Prints one line; true if both sides agree."""
    items = [json.loads(line) for line in open(path, encoding="utf-8")]
    out = Path(str(path) + ".result.json")
    subprocess.run([args.ropewalk, "--quiet", "--device", "cpu", "eval", "choice", str(path), "--model", args.model,
                    "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
    ours = json.loads(out.read_text(encoding="utf-8"))
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else model.config.bos_token_id
    worst, hits, norm, sums_in_all = 0.0, 0, 0, 0
    for item, row in zip(items, ours["rows"], strict=True):
        pairs, answer = pairs_of(item)
        sums = [log_likelihood(model, tokenizer, bos, ours["protocol"]["window"], *pair) for pair in pairs]
        worst = max([worst] + [abs(s - row[f"log_p_{c}"]) for c, s in enumerate(sums)])
        scaled = [s / len(continuation.encode()) for s, (_, continuation) in zip(sums, pairs)]
        hits += sums.index(max(sums)) == answer
        norm += scaled.index(max(scaled)) == answer
        sums_in_all += len(sums)
    n, total = len(items), ours["totals"][0]
    print(f"{name}: {n} items, {sums_in_all} sums  acc {hits / n:.4f} and {total['acc']:.4f}  acc_norm {norm / n:.4f} "
          f"and {total['acc_norm']:.4f}  largest difference of log p {worst:.1e}", flush=True)
    same = abs(hits / n - total["acc"]) < 1e-9 and abs(norm / n - total["acc_norm"]) < 1e-9
    return same and worst < 1e-3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--items")
    parser.add_argument("--books", nargs="+", default=[])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--ropewalk", default="build/cpu/bin/ropewalk")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with tempfile.TemporaryDirectory() as folder:
        tasks = {"items": args.items}
        if not args.items:
            tasks = {name: Path(folder) / f"{name}.jsonl" for name in ("cloze", "names")}
            subprocess.run([args.ropewalk, "--quiet", "cloze", "--data", *args.books, "--out", str(tasks["cloze"]),
                            "--items", str(args.count)], check=True, stdout=subprocess.DEVNULL)
            lines = [json.dumps(item) + "\n" for item in name_items(args.books, args.count)]
            tasks["names"].write_text("".join(lines), encoding="utf-8")
        agree = [compare(name, path, args, model, tokenizer) for name, path in tasks.items()]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
