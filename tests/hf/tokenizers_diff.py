#!/usr/bin/env python3
"""Ropewalk's tokenizers beside Hugging Face's, on random and hand-picked strings.

    pip install tokenizers sentencepiece
    python3 tests/hf/tokenizers_diff.py --ropewalk build/cpu/bin/ropewalk --text stories.txt
        [--llama2 tokenizer.model] [--strings 20000] [--vectors tests/data/tokenizers/hf_vectors.json]

Trains small tokenizers on --text with the published normalizers and pre-tokenizers (GPT-2, GPT-NeoX, Llama 3, Qwen 2,
Llama 2, Gemma, Mistral's Metaspace), with added tokens of every option, and compares the ids of every string. Prints one
line per tokenizer and exits with 1 if any string differs. --vectors writes the tokenizers and some of the strings with
their ids as one file for the tests that run without Python.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = WORDS + r"\p{N}{1,3}" + REST
QWEN2 = WORDS + r"\p{N}" + REST
ADDED = [AddedToken('<|im_start|>', special=False, normalized=False), AddedToken('<left>', lstrip=True, special=False),
         AddedToken('<right>', rstrip=True, special=False, normalized=False), AddedToken('the', special=False),
         AddedToken('word', single_word=True, special=False, normalized=False), AddedToken('$', special=False),
         AddedToken('\u00e9t\u00e9', special=False, normalized=True)]


def byte_level(name, pre, normalizer, text, size, added):
    t = Tokenizer(models.BPE(ignore_merges=name == 'llama3'))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizer, pre, decoders.ByteLevel()
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=size, show_progress=False,
                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if added:
        t.add_tokens(ADDED)
    return t


def sentencepiece_style(pre, normalizer, text, size, byte_fallback, added):
    options = dict(unk_token='<unk>', fuse_unk=True, byte_fallback=byte_fallback)
    special = ['<unk>', '<s>', '</s>'] + (['<0x%02X>' % b for b in range(256)] if byte_fallback else [])
    t = Tokenizer(models.BPE(**options))
    t.normalizer, t.pre_tokenizer = normalizer, pre
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=special))
    saved = json.loads(t.to_str())  # byte pieces are part of the vocabulary, not added tokens
    saved['added_tokens'] = saved['added_tokens'][:3]
    t = Tokenizer.from_str(json.dumps(saved))
    t.decoder = decoders.Sequence([decoders.Replace('\u2581', ' '), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(' ', 1, 0)])
    if added:
        t.add_tokens(ADDED)
    return t


def make(text, size):
    bytes_ = lambda **o: pre_tokenizers.ByteLevel(add_prefix_space=False, **o)
    split = lambda r: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r), 'isolated'), bytes_(use_regex=False)])
    llama2 = normalizers.Sequence([normalizers.Prepend('\u2581'), normalizers.Replace(' ', '\u2581')])
    meta = lambda s, split: pre_tokenizers.Metaspace(prepend_scheme=s, split=split)
    lines = lambda i=None: iter(text)
    out = {}
    for added in (False, True):
        tail = '+added' if added else ''
        out['gpt2' + tail] = byte_level('gpt2', bytes_(), None, lines(), size, added)
        out['gpt2-prefix' + tail] = byte_level('gpt2', pre_tokenizers.ByteLevel(), None, lines(), size, added)
        out['neox' + tail] = byte_level('neox', bytes_(), normalizers.NFC(), lines(), size, added)
        out['llama3' + tail] = byte_level('llama3', split(LLAMA3), None, lines(), size, added)
        out['qwen2' + tail] = byte_level('qwen2', split(QWEN2), normalizers.NFC(), lines(), size, added)
        out['nfkc-digits' + tail] = byte_level(
            'digits', pre_tokenizers.Sequence([pre_tokenizers.Digits(True), bytes_()]),
            normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]), lines(), size, added)
        out['nfd' + tail] = byte_level('nfd', bytes_(), normalizers.NFD(), lines(), size, added)
        out['llama2' + tail] = sentencepiece_style(None, llama2, lines(), size, True, added)
        out['llama2-unk' + tail] = sentencepiece_style(None, llama2, lines(), size, False, added)
        out['metaspace-first' + tail] = sentencepiece_style(meta('first', False), None, lines(), size, True, added)
        out['metaspace-split' + tail] = sentencepiece_style(meta('always', True), None, lines(), size, False, added)
        out['gemma' + tail] = sentencepiece_style(
            pre_tokenizers.Split(' ', 'merged_with_previous'), normalizers.Replace(' ', '\u2581'), lines(), size, True, added)
    return out


def known_code_points():
    """Assigned code points that HF's normalizers treat as Unicode does: their tables are older than Unicode 14."""
    forms = [('NFKD', normalizers.NFKD()), ('NFC', normalizers.NFC())]
    out, left_out = [], 0
    for c in range(1, 0x30000):
        if unicodedata.category(chr(c)) in ('Cs', 'Cn', 'Co'):
            continue
        probes = ('a' + chr(c), 'a\u0301' + chr(c), 'a' + chr(c) + '\u0316')
        if all(hf.normalize_str(p) == unicodedata.normalize(form, p) for form, hf in forms for p in probes):
            out.append(c)
        else:
            left_out += 1
    print(f'{left_out} code points left out that tokenizers {tokenizers.__version__} normalizes by older tables')
    return out


def strings(text, count, seed):
    """Hand-picked ones, pieces of the text, and random mixtures of what is awkward."""
    rng = random.Random(seed)
    known = known_code_points()
    marks = [c for c in known if unicodedata.combining(chr(c))]
    odd = [c for c in known if unicodedata.decomposition(chr(c))]
    bits = [' ', '  ', '   ', '\n', '\r\n', '\t', '\u00a0', '\u3000', '\u2581', '\u2581\u2581', "'s", "'LL", "don't", '1',
            '12345', '\u0663', '\u2167', '3.14', '_', '--', '...', '!?', '<|im_start|>', '<left>', ' <left> ', '<right>',
            '<right>  ', 'the', 'the\u00e9', 'word', ' word ', 'wordy', 'sword', '$', '\u00e9t\u00e9', 'e\u0301te\u0301',
            '\ud55c\uae00', '\u1112\u1161\u11ab', '\u4f60\u597d', '\U0001f600', '\U0001f468\u200d\U0001f469', '\u017f',
            '\ufdfa', '\ufb01', '\u212b', '\u0344', '<unk>', '<0x41>', 'Once upon a time', 'aaaaaaaa', '\x00', '\x1c', '\x85']
    out = ['', *bits, 'a ' * 40, 'a' * 3000, ' ' * 500, '\u0301' * 40, 'x' + '\u0316\u0301' * 20]
    while len(out) < count:
        kind = rng.random()
        if kind < 0.25:
            at = rng.randrange(max(1, len(text) - 200))
            out.append(text[at:at + rng.randrange(1, 200)])
        else:
            parts = []
            for _ in range(rng.randrange(1, 12)):
                r = rng.random()
                if r < 0.45:
                    parts.append(rng.choice(bits))
                elif r < 0.55:
                    parts.append(chr(rng.choice(marks)))
                elif r < 0.65:
                    parts.append(chr(rng.choice(odd)))
                elif r < 0.8:
                    parts.append(chr(rng.choice(known)))
                else:
                    parts.append(''.join(rng.choice('abcdefghijklmnopqrstuvwxyzABC') for _ in range(rng.randrange(1, 9))))
            out.append(''.join(parts))
    return out[:count]


def ours(ropewalk, path, texts):
    lines = ''.join(json.dumps(t) + '\n' for t in texts)
    p = subprocess.run([ropewalk, 'tokenizer', 'encode', '--tokenizer', path, '--lines'], input=lines.encode(),
                       capture_output=True)
    if p.returncode:
        sys.exit(f'{path}: exit {p.returncode}: {p.stderr.decode()}')
    return [[int(i) for i in line.split()] for line in p.stdout.decode().split('\n')[:-1]]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--ropewalk', required=True)
    arguments.add_argument('--text', required=True)
    arguments.add_argument('--llama2')
    arguments.add_argument('--strings', type=int, default=20000)
    arguments.add_argument('--vocab', type=int, default=1000)
    arguments.add_argument('--seed', type=int, default=0)
    arguments.add_argument('--vectors')
    o = arguments.parse_args()
    text = open(o.text, encoding='utf-8', errors='replace').read()[:300000]
    texts = strings(text, o.strings, o.seed)
    failed = False

    def report(name, got, want):
        nonlocal failed
        wrong = [i for i in range(len(texts)) if got[i] != want[i]]
        failed |= bool(wrong) or len(got) != len(texts)
        print(f'{name:24} {len(texts)} strings  {len(wrong)} differ')
        for i in wrong[:3]:
            print(f'    {ascii(texts[i])[:200]}\n      ropewalk {got[i][:40]}\n      HF       {want[i][:40]}')

    with tempfile.TemporaryDirectory() as folder:
        for name, t in make(text.split('\n'), o.vocab).items():
            path = os.path.join(folder, name)
            os.mkdir(path)
            t.save(path + '/tokenizer.json')
            t.encode_special_tokens = True  # like encode(): special tokens in a text stay text
            report(name, ours(o.ropewalk, path, texts), [e.ids for e in t.encode_batch(texts, add_special_tokens=False)])
        if o.llama2:
            import sentencepiece
            sp = sentencepiece.SentencePieceProcessor(model_file=o.llama2)
            plain = [t.replace('\x00', '') for t in texts]
            texts[:] = plain
            report('llama2.model', ours(o.ropewalk, o.llama2, texts), sp.encode(texts))
    if o.vectors:
        few = [t for t in strings(text, 200, o.seed + 1) if len(t) < 100][:110]
        vectors = {}
        for name, t in make(text.split('\n'), 320).items():
            if not name.endswith('+added'):
                continue
            saved = json.loads(t.to_str())
            t.encode_special_tokens = True
            vectors[name] = {'tokenizer': saved, 'ids': [e.ids for e in t.encode_batch(few, add_special_tokens=False)]}
        json.dump({'texts': few, 'tokenizers': vectors}, open(o.vectors, 'w'), separators=(',', ':'))
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
