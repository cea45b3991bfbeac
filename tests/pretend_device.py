"""A device that computes on the CPU and pretends not to, for tests of code meant for a GPU on a machine without one.

Mixing its tensors with the CPU's raises, and reads back to the host, which make a GPU's queue run dry, are counted by
what they were and where. It needs torch >= 2.11, whose door for such devices is still experimental.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")

DEVICE = torch.device("pretend", 0)
_SOURCES = "/dmt_ray/"
_READS = frozenset({"_local_scalar_dense", "nonzero", "equal", "masked_select"})
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})

#: Reads back to the host since the last ``clear``, by "what @ where".
reads: Counter[str] = Counter()


class _Pretend(torch.Tensor):
    """A tensor on the device; ``inner`` has the numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _Pretend:
        outer = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
            requires_grad=inner.requires_grad,
        )
        outer.inner = inner
        return outer

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _where() -> str:
    for frame in reversed(traceback.extract_stack()):
        if _SOURCES in frame.filename:
            return f"{frame.filename.rsplit(_SOURCES)[-1]}:{frame.lineno}"
    return "outside"


def _note(what: str) -> None:
    reads[f"{what} @ {_where()}"] += 1


def _inner(value: object) -> object:
    return value.inner if isinstance(value, _Pretend) else value


def _outer(value: object) -> object:
    plain = isinstance(value, torch.Tensor) and not isinstance(value, _Pretend)
    return _Pretend(value) if plain else value  # type: ignore[arg-type]


def _count_reads(name: str, args: Sequence[Any], target: str | None) -> None:
    if name in _READS:
        _note(name)
    if name in _INDEXING and any(
        index is not None and isinstance(index, _Pretend) and index.dtype == torch.bool for index in args[1]
    ):
        _note("boolean index")
    if name == "_to_copy" and target == "cpu":
        _note("copy to the host")


def _refuse_mixing(name: str, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
    if name in ("copy_", "_to_copy"):
        return
    if name in _INDEXING and isinstance(args[0], _Pretend) and (len(args) < 3 or isinstance(args[2], _Pretend)):
        return  # an index may come from the CPU
    if any(not isinstance(tensor, _Pretend) and tensor.dim() > 0 for tensor in tensors):
        raise RuntimeError(f"{name} mixes the device with the CPU at {_where()}")


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name = func.__name__.split(".")[0]
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    here = any(isinstance(tensor, _Pretend) for tensor in tensors)
    device = kwargs.get("device")
    target = None if device is None else torch.device(device).type
    if here:
        _count_reads(name, args, target)
        _refuse_mixing(name, args, tensors)
    if target == DEVICE.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    result = func(*tree_map(_inner, tuple(args)), **tree_map(_inner, dict(kwargs)))
    if name == "copy_":
        return args[0]
    if not (here if target is None else target == DEVICE.type):
        return result
    if func._schema.is_mutable and isinstance(args[0], _Pretend) and result is args[0].inner:
        return args[0]
    return tree_map(_outer, result)


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        made = func in (torch.tensor, torch.as_tensor) and device is not None
        if made and torch.device(device).type == DEVICE.type:
            del kwargs["device"]
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.tolist and isinstance(args[0], _Pretend):
            _note("tolist")
            return args[0].inner.tolist()
        return func(*args, **kwargs)


def _empty_strided(size: Any, stride: Any, **options: Any) -> torch.Tensor:
    return _Pretend(torch.empty_strided(size, stride, dtype=options.get("dtype")))


def _empty(size: Any, **options: Any) -> torch.Tensor:
    layout = options.get("memory_format") or torch.contiguous_format
    return _Pretend(torch.empty(size, dtype=options.get("dtype"), memory_format=layout))


def _copy_from(source: Any, destination: Any, non_blocking: bool = False) -> Any:
    if isinstance(source, _Pretend) and not isinstance(destination, _Pretend):
        _note("copy to the host")
    _inner(destination).copy_(_inner(source))  # type: ignore[attr-defined]
    return destination


_library = torch.library.Library("aten", "IMPL")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")


@contextlib.contextmanager
def pretend() -> Iterator[torch.device]:
    """Let the device work inside, count reads from zero, and return it."""
    reads.clear()
    with _Functions(), _Dispatch():
        yield DEVICE
