"""The recurrence as a node of PyTorch's graph: tensors to our arrays and back, and what backward needs of them."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gpu_lstm import layers
from gpu_lstm.backend import Array, Backend, CupyBackend, NumpyBackend
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.layers.base import Tape
from gpu_lstm.layers.changed import changed

PLAIN = "gpu_lstm.interop.torch.to_torch(from_torch(module)) makes a torch.nn.LSTM of it"
"""What to do where only PyTorch's own module will do."""

Tensors = Sequence[Tensor | None]


@dataclass(frozen=True)
class Part:
    """Where an array lies: in which of some tensors, and where in its memory."""

    tensor: int
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, tensors: Tensors) -> Tensor:
        """Return the array, as a tensor on the same memory."""
        whole = tensors[self.tensor]
        assert whole is not None, "it holds this part"
        return whole.as_strided(self.shape, self.strides, whole.storage_offset() + self.start)


@dataclass
class Call:
    """One call of the module: what isn't a tensor, and what forward hands to backward.

    PyTorch keeps the arrays of the tape, so that its hooks reach them: checkpoints drop them, others move them or bring
    back what was written over. The tape itself has a `Part` for each.
    """

    lstm: layers.LSTM
    names: list[str]
    lengths: Any
    resets: Tensor | None
    seed: tuple[int, ...] | None = None
    keep: bool = True
    tape: Tape | None = None
    # arrays of the tape in memory of their own, not in that of a tensor that goes in or comes out
    kept: list[Tensor] = field(default_factory=list)
    # of the tensors that `Part` counts: those that go in, those that come out, and `kept`
    strides: list[tuple[int, ...]] = field(default_factory=list)
    # tensors that come out and are a part of a kept one: h of all steps, which begins with the initial state
    shared: list[tuple[int, Part]] = field(default_factory=list)

    def run(self, tensors: Tensors) -> tuple[list[Tensor], Tape]:
        """Run forward over x, h0, c0 and the weights; return [h, c, outputs] and the tape."""
        x, h0, c0, *weights = map(functools.partial(native, self.lstm.backend), ("x", "h0", "c0", *self.names), tensors)
        lstm = self.lstm.over(dict(zip(self.names, weights, strict=True)))
        y, state, tape = lstm.forward(x, (h0, c0), self.lengths, self.seed, self.keep, self.resets, guard=False)
        return [torch.from_dlpack(array) for array in (*state, *(y if isinstance(y, tuple) else (y,)))], tape

    def put_away(self, tape: Tape, tensors: Tensors, outputs: Sequence[Tensor]) -> None:
        """Take a tape apart."""
        known = [*tensors, *outputs]
        spans = [_span(tensor) for tensor in known]

        def place(value: Any) -> Any:
            if value not in self.lstm.backend:
                return value
            tensor = torch.from_dlpack(value)
            span = _span(tensor)
            around = _around(spans, span)
            if not around:
                around = [len(known)]
                known.append(tensor)
                spans.append(span)
            return _part(spans, around[0], tensor)

        self.tape = changed(tape, place)
        first = len(tensors) + len(outputs)
        self.kept = [tensor for tensor in known[first:] if tensor is not None]
        self.strides = [() if tensor is None else tensor.stride() for tensor in known]
        for number, output in enumerate(outputs, len(tensors)):
            self.shared += [(number, _part(spans, n, output)) for n in _around(spans, _span(output)) if n >= first]

    def take_tape(self, tensors: Tensors) -> Tape:
        """Put the tape together again, from the tensors that `Part` counts.

        Where it was taken before, because the graph was retained, it is made anew: backward overwrites its arrays.
        """
        tape, self.tape = self.tape, None
        if tape is None or len(tensors) < len(self.strides):
            return self.run(tensors[: 3 + len(self.names)])[1]
        tensors = [
            tensor if tensor is None or tensor.stride() == strides else _restrided(tensor, strides)
            for tensor, strides in zip(tensors, self.strides, strict=True)
        ]
        for number, part in self.shared:
            output, kept = tensors[number], tensors[part.tensor]
            assert output is not None and kept is not None, "both are saved"
            if output.data_ptr() != part.of(tensors).data_ptr():  # somebody may have written to the kept one
                tensors[part.tensor] = kept.clone()
                part.of(tensors).copy_(output)
        arrays: dict[Part, Array] = {}

        def back(value: Any) -> Any:
            if not isinstance(value, Part):
                return value
            if value not in arrays:
                arrays[value] = native(self.lstm.backend, "tape", value.of(tensors))
            return arrays[value]

        whole: Tape = changed(tape, back)
        return whole


Span = tuple[int, int]
"""Addresses of a tensor's first byte and of the one behind its last."""


def _span(tensor: Tensor | None) -> Span:
    if tensor is None:
        return 0, -1
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (1 + steps) * tensor.itemsize


def _around(spans: Sequence[Span], inner: Span) -> list[int]:
    """Return which spans have another one inside, the smallest first: weights may lie in gaps of each other."""
    found = [number for number, (first, end) in enumerate(spans) if first <= inner[0] and inner[1] <= end]
    return sorted(found, key=lambda number: spans[number][1] - spans[number][0])


def _part(spans: Sequence[Span], number: int, tensor: Tensor) -> Part:
    start = (tensor.data_ptr() - spans[number][0]) // tensor.itemsize
    return Part(number, start, tuple(tensor.shape), tensor.stride())


def _restrided(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return a copy with these strides: a tensor that hooks gave back may have others."""
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


class Recurrence(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """All layers over all steps, as one node of PyTorch's graph: h, c and the outputs of x, h0, c0 and the weights."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:  # noqa: D102
        with device_of(tensors[0]):
            outputs, tape = call.run(tensors)
            if call.keep:
                call.put_away(tape, tensors, outputs[2:])
            return tuple(outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: D102
        ctx.call, *tensors = inputs
        # PyTorch refuses a backward call after one of these was written to.
        ctx.save_for_backward(*tensors, *output[2:], *ctx.call.kept)
        ctx.call.kept = []
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Any, ...]:  # noqa: D102
        saved = ctx.saved_tensors
        return None, *_Backward.apply(ctx.call, ctx.needs_input_grad[1:], len(saved), *saved, *arriving)


class _Backward(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
    """The way back of `Recurrence`; a node of its own, so that nobody takes its results for constants."""

    @staticmethod
    def forward(call: Call, wanted: Sequence[bool], number: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        with device_of(tensors[0]):
            lstm = call.lstm.over(dict.fromkeys(call.names))  # the weights are on the tape
            tape = call.take_tape(tensors[:number])
            dh, dc, *dy = (native(lstm.backend, "gradient", tensor) for tensor in tensors[number:])
            dx, dstate, found = lstm.backward(tape, dy[0] if len(dy) == 1 else tuple(dy), (dh, dc))
            gradients = [dx, *dstate, *(found[name] for name in call.names)]
            return tuple(
                torch.from_dlpack(array) if want else None for array, want in zip(gradients, wanted, strict=True)
            )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> None:
        raise NotImplementedError("gpu_lstm.interop.torch.LSTM has no second derivatives; use torch.nn.LSTM for them")

    @staticmethod
    def vmap(*_: Any) -> None:
        raise InputError(f"gpu_lstm.interop.torch.LSTM takes one gradient at a time; {PLAIN}, which takes many")


def untraced(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that torch.compile leaves alone: it can't look into ours."""
    dynamo = sys.modules.get("torch._dynamo")
    return run if dynamo is None else _disabled(dynamo, run)


@functools.cache
def _disabled(dynamo: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `run`, disabled by the compiler's own word; made once."""
    disabled: Callable[..., Any] = dynamo.disable(run)
    return disabled


def nothing(call: Call, x: Tensor, h0: Tensor | None, c0: Tensor | None, *weights: Tensor) -> list[Tensor]:
    """Return what ``torch.nn.LSTM`` gives for a batch without a sequence; all gradients are zero."""
    zero = 0 * sum(tensor.sum() for tensor in (x, h0, c0, *weights) if tensor is not None)
    lstm = call.lstm
    sizes = [lstm.output_size, lstm.hidden_size]
    shapes = [(lstm.num_layers * lstm.num_directions, 0, size) for size in sizes]
    shapes += [(x.size(0), 0, size * lstm.num_directions) for size in sizes[: 2 if lstm.options.cells else 1]]
    return [x.new_zeros(shape) + zero for shape in shapes]


def native(backend: Backend, name: str, tensor: Tensor | None) -> Array:
    """Return a tensor as an array of the backend, on the same memory; a negated view as the numbers it stands for.

    Raises InputError where the tensor has no memory to be read.
    """
    if tensor is None:
        return None
    try:
        return backend.require(name, tensor.detach().resolve_neg())
    except (InputError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{name} is a tensor that can't be read; {PLAIN} ({error})") from error


@contextlib.contextmanager
def device_of(tensor: Tensor | None) -> Iterator[None]:
    """Let CuPy work on the tensor's device, on PyTorch's current stream there; nothing to do on a CPU."""
    if tensor is None or tensor.device.type != "cuda":
        yield
        return
    backend: Any = backend_of(tensor.device)
    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    with backend.device, backend.xp.cuda.ExternalStream(stream):
        yield


@functools.cache
def backend_of(device: torch.device) -> Backend:
    """Return the backend for tensors of a device.

    Raises BackendError where the device is neither a CPU nor a CUDA device, or CuPy can't run here.
    """
    if device.type == "cpu":
        return NumpyBackend("numpy (tensors on the CPU)")
    if device.type == "cuda":
        with torch.cuda.device(device):  # and back: making the backend changes the current device
            return CupyBackend(device.index)
    raise BackendError(f"tensors are on device {device}; gpu_lstm runs on cpu and cuda")


@functools.lru_cache(maxsize=64)
def core(
    backend: Backend, dtype: str, input_size: int, hidden_size: int, num_layers: int, named: tuple[tuple[str, Any], ...]
) -> tuple[layers.LSTM, list[str]]:
    """Return a `gpu_lstm.LSTM` without parameters, for any module of these options, and the names of those it takes."""
    lstm = layers.LSTM(input_size, hidden_size, num_layers, **dict(named), backend=backend, dtype=dtype)
    return lstm.over({}), list(lstm.params)
