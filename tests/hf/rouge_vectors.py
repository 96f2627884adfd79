#!/usr/bin/env python3
"""Writes tests/data/rouge.json: summaries with their scores, and words with their stems, by the packages themselves.

  python3 tests/hf/rouge_vectors.py BOOK.txt > tests/data/rouge.json

Needs rouge-score (which brings NLTK). The words are those of its rules' examples and the most frequent endings of the
book.
"""
import json
import re
import sys

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer

PAIRS = [
    ("The cat sat on the mat.", "The cat is on the mat."),
    ("police killed the gunman", "police kill the gunman"),
    ("the gunman kill police", "police kill the gunman"),
    ("", "something"),
    ("something", ""),
    ("?!...", "words"),
    ("word", "word"),
    ("a a a b", "a b b b"),
    ("The reports describe relational databases; they were described hopefully in 2019.",
     "In 2019 a report hopefully described a relational database, describing its flies and ties."),
    ("naïve café — Überraschung 12,345.67", "naive cafe uberraschung 12345 67"),
    ("one two three four five six seven", "seven six five four three two one"),
]
WORDS = """caresses ponies ties caress cats feed agreed plastered bled motoring sing conflated troubled sized hopping
tanned falling hissing fizzed failing filing happy sky relational conditional rational valenci hesitanci digitizer
conformabli radicalli differentli vileli analogousli vietnamization predication operator feudalism decisiveness
hopefulness callousness formaliti sensitiviti sensibiliti triplicate formative formalize electriciti electrical hopeful
goodness revival allowance inference airliner gyroscopic adjustable defensible irritant replacement adjustment dependent
adoption homologou communism activate angulariti homologous effective bowdlerize probate rate cease controll roll dying
news innings outings cannings howe proceed exceed succeed skies flies dies died spied enjoy enjoyment say by ion sion
archaeology geologi theologi hopefulli possibly ably syzygy yyy yes eyed toying io5 2019s added ed ing ing1""".split()


def main():
    text = open(sys.argv[1], encoding="utf-8").read().lower()
    seen = {}
    for word in re.findall(r"[a-z]{4,}", text):
        seen.setdefault(word[-4:], set()).add(word)
    endings = sorted(seen, key=lambda e: (-len(seen[e]), e))[:150]
    words = sorted(set(WORDS) | {sorted(seen[e])[k] for e in endings for k in (0, -1)})
    stemmer = PorterStemmer()
    pairs = []
    for prediction, reference in PAIRS:
        item = {"prediction": prediction, "reference": reference}
        for stem in (False, True):
            scores = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem).score(reference, prediction)
            item["stemmed" if stem else "plain"] = [scores[k].fmeasure for k in ("rouge1", "rouge2", "rougeL")]
        pairs.append(item)
    print(json.dumps({"pairs": pairs, "stems": {w: stemmer.stem(w) for w in words}}, indent=0))


if __name__ == "__main__":
    main()
