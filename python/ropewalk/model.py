"""A loaded model with its tokenizer."""

from __future__ import annotations

import ctypes as c
import json
import os
from typing import Any, Callable, Dict, List, Optional, Union

import numpy as np

from . import _library as lib

Prompt = Union[str, np.ndarray, List[int]]
Rope = Union[str, Dict[str, Any]]


class Model:
    """A causal language model. One thread at a time may use it; different models may work in different threads.

    Every method may raise :class:`ropewalk.Error` (what was refused, and why) and ``MemoryError``.
    """

    def __init__(self, handle: c.c_void_p):
        self._handle: Optional[c.c_void_p] = handle

    @classmethod
    def load(
        cls,
        path: Union[str, os.PathLike],
        *,
        device: str = "auto",
        rope: Optional[Rope] = None,
        tokenizer: Optional[Union[str, os.PathLike]] = None,
    ) -> "Model":
        """Loads a Hugging Face folder, the folder of a run, a ``.gguf`` file, or a llama2.c ``.bin`` file.

        device: "cpu", "cuda", "cuda:1", or "auto" (the GPU if there is one). On the CPU it computes in float32, on a
        GPU in bfloat16. rope: another rope_scaling than config.json's, a kind ("linear") or a dict with its fields.
        """
        text = json.dumps(rope) if isinstance(rope, dict) else rope
        options = lib.LoadOptions(
            size=c.sizeof(lib.LoadOptions),
            tokenizer=lib.encode(tokenizer) if tokenizer is not None else None,
            device=device.encode(),
            rope=text.encode() if text is not None else None,
        )
        handle = c.c_void_p()
        lib.check(lib.library.ropewalk_load(lib.encode(path), c.byref(options), c.byref(handle)))
        return cls(handle)

    def close(self) -> None:
        """Frees the weights. The model cannot be used afterwards."""
        if self._handle is not None:
            lib.library.ropewalk_free(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and lib is not None:
            self.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    @property
    def handle(self) -> c.c_void_p:
        """The ropewalk_model pointer, for other bindings."""
        if self._handle is None:
            raise ValueError("the model is closed")
        return self._handle

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return lib.library.ropewalk_vocab_size(self.handle)

    @property
    def context_length(self) -> int:
        """The window in tokens."""
        return lib.library.ropewalk_context_length(self.handle)

    @property
    def bos(self) -> Optional[int]:
        """The token that a text begins with, if there is one."""
        id = lib.library.ropewalk_bos(self.handle)
        return id if id >= 0 else None

    @property
    def eos(self) -> Optional[int]:
        """The token that a text ends with, if there is one."""
        id = lib.library.ropewalk_eos(self.handle)
        return id if id >= 0 else None

    @property
    def rope(self) -> Optional[Dict[str, Any]]:
        """The RoPE recipe as config.json's rope_scaling; None for plain RoPE."""
        return json.loads(self._text(lib.library.ropewalk_rope))

    def _text(self, function: Any, *arguments: Any) -> str:
        size = c.c_size_t()
        status = function(self.handle, *arguments, None, 0, c.byref(size))
        if status not in (lib.OK, lib.BUFFER):
            lib.check(status)
        room = c.create_string_buffer(size.value + 1)
        lib.check(function(self.handle, *arguments, room, size.value, c.byref(size)))
        return room.raw[: size.value].decode("utf-8", "replace")

    def tokenize(self, text: Union[str, bytes], *, bos: bool = False, special: bool = False) -> np.ndarray:
        """Token ids int32 [T]. bos: the beginning-of-text token first. special: "<s>" in the text becomes its id."""
        data = lib.encode(text) if isinstance(text, str) else text
        flags = (lib.ADD_BOS if bos else 0) | (lib.PARSE_SPECIAL if special else 0)
        count = c.c_size_t()
        ids = np.empty(len(data) + 1, dtype=np.int32)
        call = lib.library.ropewalk_tokenize
        status = call(self.handle, data, len(data), flags, lib.ids_pointer(ids), ids.size, c.byref(count))
        if status == lib.BUFFER:
            ids = np.empty(count.value, dtype=np.int32)
            status = call(self.handle, data, len(data), flags, lib.ids_pointer(ids), ids.size, c.byref(count))
        lib.check(status)
        return ids[: count.value].copy()

    def detokenize(self, ids: Any) -> str:
        """The text of token ids; special tokens give nothing."""
        array = lib.token_ids(ids)
        return self._text(lib.library.ropewalk_detokenize, lib.ids_pointer(array), array.size)

    def _prompt(self, prompt: Prompt) -> np.ndarray:
        return self.tokenize(prompt, bos=self.bos is not None) if isinstance(prompt, str) else lib.token_ids(prompt)

    def generate(
        self,
        prompt: Prompt,
        *,
        tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        ignore_ends: bool = False,
        on_token: Optional[Callable[[int, str], Any]] = None,
    ) -> str:
        """The text that follows a prompt: text, which begins with BOS where the tokenizer has one, or token ids.

        temperature 0 takes the most likely token. on_token(id, piece) is called for each; a true answer stops.
        """
        ids = self._prompt(prompt)
        pieces: List[bytes] = []
        guard = lib.Guard()

        def take(_user: Any, id: int, piece: Any, size: int) -> int:
            pieces.append(c.string_at(piece, size))
            return guard(on_token, id, pieces[-1].decode("utf-8", "replace")) if on_token else 0

        options = lib.GenerateOptions(
            c.sizeof(lib.GenerateOptions), tokens, temperature, top_k, top_p, seed, int(ignore_ends)
        )
        callback = lib.OnToken(take)
        status = lib.library.ropewalk_generate(
            self.handle, lib.ids_pointer(ids), ids.size, c.byref(options), callback, None, None
        )
        guard.check(status)
        return b"".join(pieces).decode("utf-8", "replace")

    def logits(self, ids: Prompt, *, first: int = 0) -> np.ndarray:
        """Logits float32 [T - first, V]: row i is what the model says of the token after ``ids[first + i]``."""
        array = self._prompt(ids)
        first = range(array.size)[first] if first < 0 and array.size else first
        out = np.empty((max(0, array.size - first), self.vocab_size), dtype=np.float32)
        written = c.c_size_t()
        pointer = out.ctypes.data_as(c.c_void_p)
        call = lib.library.ropewalk_logits
        lib.check(call(self.handle, lib.ids_pointer(array), array.size, first, pointer, out.size, c.byref(written)))
        return out

    def score(self, ids: Prompt, *, first: int = 1) -> np.ndarray:
        """log p(ids[i] | ids[:i]) in nats for i = first, ..., T - 1: float64 [T - first]. Their sum is the
        log-likelihood."""
        array = self._prompt(ids)
        out = np.empty(max(0, array.size - first), dtype=np.float64)
        written = c.c_size_t()
        pointer = out.ctypes.data_as(c.c_void_p)
        call = lib.library.ropewalk_score
        lib.check(call(self.handle, lib.ids_pointer(array), array.size, first, pointer, out.size, c.byref(written)))
        return out

    def extend(
        self, target: int, *, method: str = "full", scaling: Optional[Rope] = None, **options: Any
    ) -> "Model":
        """Gives this model the RoPE recipe of a method for `target` tokens, without training. Returns itself.

        ``model.extend(4096, scaling="yarn")`` is YaRN without fine-tuning. options: `factor`, and the fields of the
        method (``ropewalk train --help``). A kind that learns parameters (CLEX) is refused: train it.
        """
        text = json.dumps(scaling) if isinstance(scaling, dict) else scaling
        settings, count = lib.settings_of({"target": target, "method": method, "scaling": text, **options})
        lib.check(lib.library.ropewalk_extend(self.handle, settings, count))
        return self

    def save(self, folder: Union[str, os.PathLike]) -> None:
        """Writes a Hugging Face folder with the RoPE recipe and the tokenizer. A folder with a model is refused."""
        lib.check(lib.library.ropewalk_save(self.handle, lib.encode(folder)))
