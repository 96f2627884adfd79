"""The C API (ropewalk.h) through ctypes: its structs, its functions, and its errors as exceptions."""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

OK, ARGUMENT, INPUT, MEMORY, BUFFER, INTERNAL, STOPPED = range(7)
ADD_BOS, PARSE_SPECIAL = 1, 2


class Error(Exception):
    """What the library refused, and why. `status` is the ropewalk_status."""

    def __init__(self, message: str, status: int = INPUT):
        super().__init__(message)
        self.status = status


class LoadOptions(c.Structure):
    _fields_ = [("size", c.c_size_t), ("tokenizer", c.c_char_p), ("device", c.c_char_p), ("rope", c.c_char_p)]


class GenerateOptions(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("max_tokens", c.c_int64),
        ("temperature", c.c_double),
        ("top_k", c.c_int64),
        ("top_p", c.c_double),
        ("seed", c.c_uint64),
        ("ignore_ends", c.c_int32),
    ]


class Setting(c.Structure):
    _fields_ = [("name", c.c_char_p), ("value", c.c_char_p)]


class Document(c.Structure):
    _fields_ = [
        ("name", c.c_char_p),
        ("text", c.c_char_p),
        ("bytes", c.c_size_t),
        ("ids", c.POINTER(c.c_int32)),
        ("count", c.c_size_t),
    ]


OnToken = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int32, c.c_void_p, c.c_size_t)
OnProgress = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int64, c.c_int64)
OnNotice = c.CFUNCTYPE(None, c.c_void_p, c.c_char_p)


class EvaluateOptions(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("documents", c.POINTER(Document)),
        ("documents_count", c.c_size_t),
        ("on_progress", OnProgress),
        ("user", c.c_void_p),
    ]


class StepStruct(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("step", c.c_int64),
        ("steps", c.c_int64),
        ("loss", c.c_double),
        ("grad_norm", c.c_double),
        ("lr", c.c_double),
        ("tokens", c.c_int64),
        ("tokens_per_s", c.c_double),
        ("seconds", c.c_double),
    ]


class ValidationStruct(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("step", c.c_int64),
        ("loss", c.c_double),
        ("tokens", c.c_int64),
        ("documents", c.c_int64),
        ("window", c.c_int64),
    ]


OnStep = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(StepStruct))
OnValidation = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(ValidationStruct))


class TrainOptions(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("device", c.c_char_p),
        ("documents", c.POINTER(Document)),
        ("documents_count", c.c_size_t),
        ("on_step", OnStep),
        ("on_validation", OnValidation),
        ("on_notice", OnNotice),
        ("user", c.c_void_p),
    ]


class TrainResultStruct(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("end", c.c_int32),
        ("reserved", c.c_int32),
        ("steps", c.c_int64),
        ("tokens", c.c_int64),
        ("seconds", c.c_double),
    ]


def _load() -> c.CDLL:
    path = os.environ.get("ROPEWALK_LIBRARY") or str(Path(__file__).with_name("libropewalk.so"))
    library = c.CDLL(path)
    handle, size, ids, text, status = c.c_void_p, c.c_size_t, c.POINTER(c.c_int32), c.c_char_p, c.c_int
    out_size, out_handle, settings = c.POINTER(c.c_size_t), c.POINTER(c.c_void_p), c.POINTER(Setting)

    def declare(name: str, result: Any, *arguments: Any) -> None:
        function = getattr(library, "ropewalk_" + name)
        function.restype, function.argtypes = result, list(arguments)

    declare("version", text)
    declare("last_error", text)
    declare("load", status, text, c.POINTER(LoadOptions), out_handle)
    declare("free", None, handle)
    declare("vocab_size", c.c_int32, handle)
    declare("context_length", c.c_int64, handle)
    declare("bos", c.c_int32, handle)
    declare("eos", c.c_int32, handle)
    declare("tokenize", status, handle, text, size, c.c_uint32, ids, size, out_size)
    declare("detokenize", status, handle, ids, size, c.c_void_p, size, out_size)
    declare("generate_defaults", None, c.POINTER(GenerateOptions))
    declare("generate", status, handle, ids, size, c.POINTER(GenerateOptions), OnToken, handle, c.POINTER(c.c_int64))
    declare("logits", status, handle, ids, size, size, c.c_void_p, size, out_size)
    declare("score", status, handle, ids, size, size, c.c_void_p, size, out_size)
    declare("extend", status, handle, settings, size)
    declare("rope", status, handle, c.c_void_p, size, out_size)
    declare("save", status, handle, text)
    declare("evaluate", status, handle, text, settings, size, c.POINTER(EvaluateOptions), out_handle)
    declare("cloze", status, settings, size, c.POINTER(Document), size, out_handle)
    declare("result_json", text, handle, out_size)
    declare("result_free", None, handle)
    declare("trainer_create", status, text, settings, size, c.POINTER(TrainOptions), out_handle)
    declare("trainer_run", status, handle, c.POINTER(TrainResultStruct))
    declare("trainer_model", status, handle, out_handle)
    declare("trainer_free", None, handle)
    declare("set_threads", status, c.c_int32)
    return library


library = _load()


def check(status: int) -> None:
    """Raises what the last call of this thread said, if it failed."""
    if status == OK:
        return
    message = library.ropewalk_last_error().decode("utf-8", "replace")
    if status == MEMORY:
        raise MemoryError(message)
    raise Error(message, status)


def version() -> str:
    """The library's version: "0.2.0"."""
    return library.ropewalk_version().decode()


def set_threads(threads: int) -> None:
    """How many CPU threads all models together use from now on."""
    check(library.ropewalk_set_threads(threads))


def encode(text: Union[str, bytes, os.PathLike]) -> bytes:
    """Text or a path as the C API takes it."""
    return text if isinstance(text, bytes) else os.fspath(text).encode("utf-8")


def token_ids(ids: Any) -> np.ndarray:
    """One row of token ids as int32. Raises ValueError for anything else."""
    array = np.asarray(ids)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise ValueError(f"expected one row of integer token ids, got shape {array.shape} of {array.dtype}")
    if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
        raise ValueError("token ids do not fit into 32 bits")
    return np.ascontiguousarray(array, dtype=np.int32)


def ids_pointer(ids: np.ndarray) -> Any:
    return ids.ctypes.data_as(c.POINTER(c.c_int32))


def _value_text(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, np.floating):
        return repr(float(value))
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def settings_of(values: Mapping[str, Any]) -> Tuple[Any, int]:
    """A ropewalk_setting array and its length; a list gives one entry per element, None gives none."""
    pairs: List[Tuple[str, str]] = []
    for name, value in values.items():
        if value is None:
            continue
        many = isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)
        for item in value if many else [value]:
            pairs.append((name, _value_text(item)))
    array = (Setting * max(1, len(pairs)))()
    for setting, (name, text) in zip(array, pairs):
        setting.name, setting.value = name.encode(), text.encode()
    return array, len(pairs)


Data = Union[str, os.PathLike, np.ndarray, Sequence[Any]]


def split_data(data: Optional[Data]) -> Tuple[Optional[List[str]], Optional[List[np.ndarray]]]:
    """Paths, or documents as arrays of token ids. A list is all of one sort."""
    if data is None:
        return None, None
    if isinstance(data, (str, os.PathLike)):
        return [os.fspath(data)], None
    if isinstance(data, np.ndarray):
        if data.ndim == 1:
            return None, [token_ids(data)]
        return None, [token_ids(row) for row in data]
    items = list(data)
    if not items:
        raise ValueError("data is empty")
    if all(isinstance(item, (str, os.PathLike)) for item in items):
        return [os.fspath(item) for item in items], None
    if any(isinstance(item, (str, os.PathLike)) for item in items):
        raise ValueError("data mixes paths and arrays of token ids")
    if all(isinstance(item, (int, np.integer)) for item in items):
        return None, [token_ids(items)]
    return None, [token_ids(item) for item in items]


def documents_of(arrays: Iterable[np.ndarray]) -> Any:
    """A ropewalk_document array. The arrays must outlive it."""
    arrays = list(arrays)
    out = (Document * max(1, len(arrays)))()
    for document, ids in zip(out, arrays):
        document.ids, document.count = ids_pointer(ids), ids.size
    return out


class Guard:
    """Runs Python callbacks inside C calls: what they raise is kept, stops the call, and is raised again after it."""

    def __init__(self) -> None:
        self.raised: Optional[BaseException] = None

    def __call__(self, function: Any, *arguments: Any) -> int:
        if self.raised is not None:
            return 1
        try:
            return 1 if function(*arguments) else 0
        except BaseException as error:  # KeyboardInterrupt too: it must not vanish inside C
            self.raised = error
            return 1

    def check(self, status: int) -> None:
        if self.raised is not None:
            raise self.raised
        check(status)


def progress_bar(title: str, total: int, enabled: bool) -> Any:
    """A tqdm bar, or None where tqdm is missing or not wanted."""
    if not enabled:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, desc=title)
