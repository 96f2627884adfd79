#!/usr/bin/env python3
"""Prompts of RULER's published generators, for tests/data/ruler.json.

  git clone https://github.com/NVIDIA/RULER && python3 tests/hf/ruler_vectors.py RULER > tests/data/ruler.json

Runs scripts/data/synthetic of the clone (Apache-2.0) as it is, with seed 42 and the arguments that synthetic.yaml and
constants.py give each task. Their word lists, essays, SQuAD and HotpotQA are not part of the clone; small ones stand in
for them, and four bytes for a token. They change which words are drawn, and none of the rules. Needs numpy and tqdm.
"""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NEEDLES = {  # haystack, keys, values, their numbers: scripts/synthetic.yaml
    "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
    "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
    "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
    "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("needle", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("needle", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
    "niah_multiquery": ("essay", "words", "numbers", 1, 1, 4),
}
OTHERS = {"vt": "variable_tracking", "cwe": "common_words_extraction", "fwe": "freq_words_extraction", "qa_1": "qa",
          "qa_2": "qa"}
LENGTHS = {"cwe": 4096, "vt": 1536, "niah_multikey_2": 1536, "niah_multikey_3": 3072}  # tokens; the others 1024
STUBS = {
    "tokenizer.py": "class Four:\n  def text_to_tokens(self, text): return list(range((len(text) + 3) // 4))\n"
                    "def select_tokenizer(*_): return Four()\n",
    "nltk/__init__.py": "",
    "nltk/tokenize.py": "import re\ndef sent_tokenize(text): return re.split(r'(?<=[.!?]) ', text)\n",
    "scipy/__init__.py": "",
    "scipy/special.py": "import math\ndef zeta(a):\n  assert a == 2\n  return math.pi ** 2 / 6\n",
    "wonderwords/__init__.py": "from . import random_word\n",
    "wonderwords/random_word.py":
        "def _get_words_from_text_file(name):\n"
        "  ends = {'nounlist.txt': 'er', 'adjectivelist.txt': 'ic', 'verblist.txt': 'ate'}\n"
        "  return [a + v + c + ends[name] for a in 'bdfgklmnprst' for v in 'aeiou' for c in 'dglmnt']\n",
}


def material():
    """What stands in for the files that are not in the clone."""
    essay = " ".join(f"On day {i} a person walked home and said nothing of note." for i in range(120))
    squad = {"data": [{"paragraphs": [
        {"context": f"Town {t} of county {c} has a river called Stream{c}{t}.",
         "qas": [{"question": f"Which river has town {t} of county {c}?", "is_impossible": t == 2,
                  "answers": [{"text": f"Stream{c}{t}"}, {"text": "the river"}]}]} for t in range(3)]} for c in range(4)]}
    hotpotqa = [{"question": f"Which towns has county {c}?", "answer": f"Town {c}",
                 "context": [[f"County {c}", ["It has towns. ", f"They are near lake {c}."]],
                             [f"Town {c}", [f"It is in county {c}."]]]} for c in range(6)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    english = {str(i): "".join(letters[i // 26**p % 26] for p in range(4)) for i in range(5000)}
    return {"PaulGrahamEssays.json": {"text": essay}, "squad.json": squad, "hotpotqa.json": hotpotqa,
            "english_words.json": english}


def make(task, scripts, tasks):
    name = "niah" if task in NEEDLES else OTHERS[task]
    length = LENGTHS.get(task, 1024)
    command = [sys.executable, scripts / "synthetic" / f"{name}.py", "--save_dir", scripts / "out", "--save_name", task,
               "--tokenizer_path", "none", "--tokenizer_type", "hf", "--max_seq_length", length, "--num_samples", 1,
               "--tokens_to_generate", tasks[name]["tokens_to_generate"], "--random_seed", 42,
               "--template", tasks[name]["template"] + tasks[name]["answer_prefix"]]
    if task in NEEDLES:
        names = ("type_haystack", "type_needle_k", "type_needle_v", "num_needle_k", "num_needle_v", "num_needle_q")
        for key, value in zip(names, NEEDLES[task]):
            command += [f"--{key}", value]
    if name == "qa":
        command += ["--dataset", "squad" if task == "qa_1" else "hotpotqa"]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, cwd=scripts / "synthetic",
                   env={**os.environ, "PYTHONPATH": str(scripts)})
    lines = (scripts / "out" / task / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    kept = ("input", "answer_prefix", "outputs")
    return {"length": length, **{key: json.loads(lines[0])[key] for key in kept}}


def main():
    source = Path(sys.argv[1]) / "scripts" / "data"
    with tempfile.TemporaryDirectory() as folder:
        scripts = Path(folder) / "data"
        shutil.copytree(source, scripts)
        for path, text in STUBS.items():
            (scripts / path).parent.mkdir(exist_ok=True)
            (scripts / path).write_text(text)
        given = material()
        for name, value in given.items():
            (scripts / "synthetic" / "json" / name).write_text(json.dumps(value))
        spec = importlib.util.spec_from_file_location("constants", scripts / "synthetic" / "constants.py")
        constants = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(constants)
        out = {"source": "https://github.com/NVIDIA/RULER, made by tests/hf/ruler_vectors.py", "seed": 42,
               "essay": given["PaulGrahamEssays.json"]["text"], "squad": given["squad.json"],
               "hotpotqa": given["hotpotqa.json"],
               "tasks": {task: make(task, scripts, constants.TASKS) for task in [*NEEDLES, *OTHERS]}}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
