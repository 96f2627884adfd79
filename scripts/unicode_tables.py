#!/usr/bin/env python3
"""Writes the Unicode tables of lib/data from the Unicode Character Database as the package unicodedata2 carries it.

    pip install unicodedata2 && python3 scripts/unicode_tables.py

unicode_tables.h    classes that pre-tokenizers and added tokens ask for (\\p{L}, \\p{N}, \\w), combining classes
normal_tables.h     canonical decompositions: NFC and NFD
compat_tables.h and compat_texts.h    compatibility mappings: NFKC and NFKD
Hangul syllables are computed (Unicode 3.12), so they are in no table.
"""
import os
import unicodedata2 as ucd

LIB = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib', 'data')
VERSION = ucd.unidata_version
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and not 0xAC00 <= c < 0xD7A4]


def ranges(taken):
    """Sorted inclusive ranges of the code points above ASCII for which `taken` is true."""
    out = []
    for c in range(0x80, 0x110000):
        if 0xD800 <= c < 0xE000 or not taken(c):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def rows(items):
    """The items with commas, in lines of at most 120 characters."""
    lines, line = [], '    '
    for item in items:
        if len(line) + len(item) + 1 > 120:
            lines.append(line)
            line = '    '
        line += item + ','
    return '\n'.join(lines + [line])


def braces(*numbers):
    return '{' + ','.join(hex(n) for n in numbers) + '}'


def write(name, comment, body):
    with open(os.path.join(LIB, name), 'w') as f:
        f.write(f'''// Internal: {comment[0].lower()}{comment[1:]}
// From the Unicode Character Database, version {VERSION}; written by scripts/unicode_tables.py.
#pragma once
#include <cstdint>

namespace rw::unicode_tables {{

{body}
}}  // namespace rw::unicode_tables
''')


def table(kind, name, items):
    return f'// clang-format off\nconstexpr {kind} {name}[] = {{\n{rows(items)}\n}};\n// clang-format on\n'


def category(c):
    return ucd.category(chr(c))


def is_word(c):
    """\\w of Unicode's regular expressions (UTS 18): Alphabetic, M, Nd, Pc, Join_Control."""
    circled = 0x24B6 <= c <= 0x24E9 or 0x1F130 <= c <= 0x1F149 or 0x1F150 <= c <= 0x1F169 or 0x1F170 <= c <= 0x1F189
    return category(c)[0] in 'LM' or category(c) in ('Nd', 'Nl', 'Pc') or c in (0x200C, 0x200D) or circled


def decomposition(c):
    """(tag, code points) of a mapping; tag '' for a canonical one."""
    parts = ucd.decomposition(chr(c)).split()
    tag = parts.pop(0) if parts and parts[0].startswith('<') else ''
    return tag, [int(p, 16) for p in parts]


classes = []  # runs of one combining class
for c in CODES:
    k = ucd.combining(chr(c))
    if k and classes and classes[-1][1] == c - 1 and classes[-1][2] == k:
        classes[-1][1] = c
    elif k:
        classes.append([c, c, k])
write('unicode_tables.h', 'Classes of code points above ASCII, as sorted inclusive ranges; included by unicode.cpp alone.',
      'struct Range {\n  uint32_t first, last;\n};\n'
      'struct ClassRun {\n  uint32_t first, last, combining_class;\n};\n\n' + '\n'.join([
          table('Range', 'kLetters', [braces(*r) for r in ranges(lambda c: category(c)[0] == 'L')]),
          table('Range', 'kNumbers', [braces(*r) for r in ranges(lambda c: category(c)[0] == 'N')]),
          table('Range', 'kWord', [braces(*r) for r in ranges(is_word)]),
          table('ClassRun', 'kClasses', [braces(*r) for r in classes])]))

canonical = {c: m for c in CODES for tag, m in [decomposition(c)] if m and not tag}
assert all(len(m) <= 2 for m in canonical.values())
excluded = [c for c, m in canonical.items() if ucd.normalize('NFC', chr(c)) != chr(c) and len(m) == 2]
write('normal_tables.h', 'Canonical decompositions and combining classes; included by normal_form.cpp alone.',
      'struct Canonical {\n  uint32_t code, first, second;  // second 0: one code point\n};\n\n' + '\n'.join([
          table('Canonical', 'kCanonical', [braces(c, *m, *[0] * (2 - len(m))) for c, m in canonical.items()]),
          '/// Pairs of kCanonical that NFC does not compose again.\n' +
          table('uint32_t', 'kNotComposed', [hex(c) for c in excluded])]))

compat = {c: m for c in CODES for tag, m in [decomposition(c)] if m and tag}
runs, pool = [], []  # single code points that count along; the others, each behind its code and length
for c, m in compat.items():
    if len(m) == 1 and runs and runs[-1][1] == c - 1 and runs[-1][2] + c - runs[-1][0] == m[0]:
        runs[-1][1] = c
    elif len(m) == 1:
        runs.append([c, c, m[0]])
    else:
        pool.append((c, m))
write('compat_tables.h', 'Compatibility mappings to one code point; included by normal_form.cpp alone.',
      'struct CompatRun {\n  uint32_t first, last, target;  // first -> target, first + 1 -> target + 1 ...\n};\n\n' +
      table('CompatRun', 'kCompatRuns', [braces(*r) for r in runs]))
write('compat_texts.h', 'Compatibility mappings to several code points; included by normal_form.cpp alone.',
      'struct CompatText {\n  uint32_t code, length;  // of the next code points of kCompatCodes\n};\n\n' + '\n'.join([
          table('CompatText', 'kCompatTexts', [braces(c, len(m)) for c, m in pool]),
          table('uint32_t', 'kCompatCodes', [hex(x) for _, m in pool for x in m])]))
