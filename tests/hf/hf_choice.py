#!/usr/bin/env python3
"""Multiple choice counted by transformers and by `ropewalk eval choice`: the same log-likelihoods and accuracies?

  python3 tests/hf/hf_choice.py --model MODEL --items FILE.jsonl [--ropewalk build/cpu/bin/ropewalk]
  python3 tests/hf/hf_choice.py --model MODEL --books TEXT.txt... --count 200     # makes a cloze set and uses it

FILE has lines of {"context", "choices", "answer"}. The cloze set asks which of four continuations is the real one: the
other three are continuations of other places in the same books. The rule is lm-evaluation-harness's: context and
choice, joined by a space, are encoded together; the choice's tokens are those after the context's own; acc takes the
highest sum of log p, acc_norm divides it by the choice's bytes. Both sides compute in f32 on the CPU. Ends with code 0
if every sum agrees within 1e-3 and both accuracies are the same, 1 if not. Needs torch and transformers.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path


def cloze_items(books, count):
    rng = random.Random(1)
    places = []
    for book in books:
        words = Path(book).read_text(encoding="utf-8").split()
        for _ in range(2 * count // len(books) + 2):
            at = rng.randrange(100, len(words) - 40)
            places.append((" ".join(words[at - 60:at]), " ".join(words[at:at + rng.randrange(4, 12)])))
    rng.shuffle(places)
    items = []
    for i in range(count):
        choices = [places[i][1]] + [places[j][1] for j in rng.sample(range(count, len(places)), 3)]
        answer = rng.randrange(4)
        choices[0], choices[answer] = choices[answer], choices[0]
        items.append({"context": places[i][0], "choices": choices, "answer": answer})
    return items


def log_likelihood(model, tokenizer, bos, window, context, choice):
    import torch

    before = tokenizer.encode(context, add_special_tokens=False)
    whole = tokenizer.encode(context + " " + choice, add_special_tokens=False)
    ids, first = [bos] + whole, len(before) + 1
    cut = max(0, len(ids) - window - 1)
    ids, first = ids[cut:], max(1, first - cut)
    with torch.no_grad():
        log_p = model(torch.tensor([ids[:-1]])).logits[0].float().log_softmax(-1)
    return sum(float(log_p[i - 1, ids[i]]) for i in range(first, len(ids)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--items")
    parser.add_argument("--books", nargs="+", default=[])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--ropewalk", default="build/cpu/bin/ropewalk")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tempfile.TemporaryDirectory()
    items = [json.loads(line) for line in open(args.items, encoding="utf-8")] if args.items else cloze_items(
        args.books, args.count)
    path, out = Path(folder.name) / "items.jsonl", Path(folder.name) / "out.json"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    subprocess.run([args.ropewalk, "--quiet", "--device", "cpu", "eval", "choice", str(path), "--model", args.model,
                    "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
    ours = json.loads(out.read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else model.config.bos_token_id
    worst, hits, norm = 0.0, 0, 0
    for item, row in zip(items, ours["rows"]):
        sums = [log_likelihood(model, tokenizer, bos, ours["protocol"]["window"], item["context"], c)
                for c in item["choices"]]
        worst = max([worst] + [abs(s - row[f"log_p_{c}"]) for c, s in enumerate(sums)])
        scaled = [s / len(c.encode()) for s, c in zip(sums, item["choices"])]
        hits += sums.index(max(sums)) == item["answer"]
        norm += scaled.index(max(scaled)) == item["answer"]
    n, total = len(items), ours["totals"][0]
    print(f"{n} items  acc {hits / n:.4f} and {total['acc']:.4f}  acc_norm {norm / n:.4f} and {total['acc_norm']:.4f}"
          f"  largest difference of log p {worst:.2e}")
    same = abs(hits / n - total["acc"]) < 1e-9 and abs(norm / n - total["acc_norm"]) < 1e-9
    return 0 if same and worst < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
