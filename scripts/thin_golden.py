#!/usr/bin/env python3
"""Copies golden_{rope,ode,clex}.safetensors without the tensors that would only make a clone larger.

    python3 scripts/thin_golden.py GOLDEN_FOLDER tests/data

Names, layout and metadata stay as they are, and the tests take what they find, so they also pass over the full files
(ROPEWALK_GOLDEN=GOLDEN_FOLDER).
"""
import fnmatch
import json
import os
import struct
import sys

DROP = {
    "golden_rope": [
        # logits are nine tenths of the file; one case of each kind keeps them
        "dynamic4_T96/logits", "dynamic4_inside/logits", "yarn4_beta/logits", "longrope_short/logits",
    ],
    "golden_ode": ["*/f32/*/adj/*"],
    "golden_clex": [
        "hd128_*/grad_*.near", "hd128_*/grad_*.f32.*", "hd128_pf2_*/grad_up.*", "hd32_pf2_*/grad_*.f32.bp.all",
    ],
}


def thin(source, target, patterns):
    with open(source, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    kept = {"__metadata__": header.pop("__metadata__")}
    parts, end = [], 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        if any(fnmatch.fnmatchcase(name, p) for p in patterns):
            continue
        begin, stop = entry["data_offsets"]
        parts.append(data[begin:stop])
        kept[name] = dict(entry, data_offsets=[end, end + stop - begin])
        end += stop - begin
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    print("%s: %d of %d tensors, %.2f MB" % (target, len(kept) - 1, len(header), os.path.getsize(target) / 1e6))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    for name, patterns in DROP.items():
        thin(os.path.join(sys.argv[1], name + ".safetensors"), os.path.join(sys.argv[2], name + ".safetensors"), patterns)
