"""A CUDA backend that records launches as a graph, emulated: what is recorded isn't done before it is replayed.

Arrays are `Recorded`: every expression on them is a launch, done at once, or noted while a graph is recorded. What a
recorded launch would fill holds only set bits until then, so that a number which was baked in, or an array which no
recorded launch fills, shows in the results. What would make the host wait is refused, as CuPy does.
"""

from __future__ import annotations

import numpy as np

from tests.emulated import EmulatedBackend


def plain(value):
    """Without the hooks, on the same memory."""
    if isinstance(value, Recorded):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        return type(value)(plain(each) for each in value)
    return value


def garbage(shape, dtype):
    """An array with all bits set: NaN in numbers of any width."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = 255
    if Recorded.backend is not None:
        Recorded.backend.held.append(array)  # launches may know its address only
    return array


class Recorded(np.ndarray):
    """An array of the recording backend."""

    backend = None  # that which is recording

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        inputs, options = plain(inputs), {name: plain(value) for name, value in options.items()}
        function = getattr(ufunc, method)
        if out is None:
            return launched(ufunc.__name__, function, inputs, options)
        target = plain(out)
        asked(ufunc.__name__, lambda: function(*inputs, out=target, **options), *inputs, *target)
        return out[0]

    def __getitem__(self, key):
        found = super().__getitem__(key)
        waits = not isinstance(found, np.ndarray) or not np.may_share_memory(found, self)
        assert not waits or Recorded.backend is None or not found.size, "a copy, or a number on the host"
        return found

    def __setitem__(self, key, value):
        target, value = plain(self), plain(value)
        asked("fill" if np.isscalar(value) else "copy", lambda: target.__setitem__(key, value), target, value)

    def __float__(self):
        assert Recorded.backend is None, "the host waits for the device"
        return float(plain(self))

    def __bool__(self):
        assert Recorded.backend is None, "the host waits for the device"
        return bool(plain(self))


def asked(name, launch, *takes):
    """Do a launch that takes some arrays, or note it, and their memory."""
    count.append(name)
    if Recorded.backend is None:
        launch()
    else:
        Recorded.backend.tape.append(launch)
        memories = [memory(array) for array in _flat(takes) if isinstance(array, np.ndarray)]
        Recorded.backend.reached.update((id(each), each) for each in memories)


def _flat(values):
    """The members of structs, too."""
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def memory(array):
    """The array whose memory an array lies in."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def launched(name, function, inputs, options):
    """A launch that fills a new array."""
    with np.errstate(all="ignore"):
        result = np.asarray(function(*inputs, **options))
    if Recorded.backend is not None:
        result = garbage(result.shape, result.dtype)

    def launch():
        result[...] = function(*inputs, **options)

    asked(name, launch, *inputs)
    return result.view(Recorded)


def converted(value, dtype=None):
    """As an array of that dtype: itself where it is, else a launch or a copy from the host."""
    if not isinstance(value, Recorded):
        count.append("to device")
        return np.array(value, dtype=dtype).view(Recorded)
    if dtype is None or dtype == value.dtype:
        return value
    return launched("astype", np.asarray, (plain(value), dtype), {})


count: list[str] = []
"""The launches of all recording backends, array expressions included, since it was last cleared."""


class Namespace:
    """NumPy's functions, as launches."""

    def __getattr__(self, name):
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type | np.dtype):
            return function

        def call(*arguments, **options):
            arguments, options = plain(arguments), {key: plain(value) for key, value in options.items()}
            if name in ("empty", "empty_like"):
                return garbage(*_shape_and_dtype(*arguments, **options)).view(Recorded)
            result = function(*arguments, **options)
            if not isinstance(result, np.ndarray | np.generic):
                return result
            given = [array for array in arguments if isinstance(array, np.ndarray)]
            if any(np.may_share_memory(result, array) for array in given):
                return result.view(Recorded)
            if "out" in options:
                raise AssertionError("no function with out= is recorded")
            return launched(name, function, arguments, options)

        return call


def _shape_and_dtype(like, dtype=None):
    if isinstance(like, np.ndarray):
        return like.shape, like.dtype if dtype is None else dtype
    return like, dtype


class RecordingBackend(EmulatedBackend):
    """Records what it is asked for as a graph; `launches` has the kernels and products that were done."""

    records = True

    def __init__(self, mode="fast", seed=0, **options):
        super().__init__(mode, seed, **options)
        self.xp, self.tape, self.held, self.reached = Namespace(), None, [], {}

    def asarray(self, value, dtype=None):
        if not isinstance(value, Recorded):
            self._not_recorded("takes data of the host")
        return converted(value, None if dtype is None else self.dtype(dtype))

    def owns(self, x):
        return isinstance(x, Recorded)

    def to_numpy(self, x):
        self._not_recorded("waits for the device")
        count.append("to host")
        return np.array(plain(x))

    def matmul(self, a, b, out, add=False):
        a, b, target = plain(a), plain(b), plain(out)
        asked("matmul", lambda: EmulatedBackend.matmul(self, a, b, target, add), a, b, target)
        return out

    def kernel(self, kernel):
        launch = super().kernel(kernel)

        def ask(grid, block, args, shared_bytes=0):
            args, reached = plain(args), plain(self._reached if kernel.file == "optimizer.cu" else [])

            def done():
                self._reached = reached
                launch(grid, block, args, shared_bytes)

            asked(kernel.name, done, *args, *reached)

        return ask

    def _capture(self, graph, work):
        self.tape, self.reached, Recorded.backend = [], {}, self
        try:
            graph.result = work()
        finally:
            tape, self.tape, Recorded.backend = self.tape, None, None

        def launch():
            count.append("graph")
            with np.errstate(all="ignore"):
                for each in tape:
                    each()

        graph.launch, graph.wait = launch, lambda: None

    def _from_memory(self, host):
        memory, array = np.empty_like(host), garbage(host.shape, host.dtype)
        asked("to device", lambda: array.__setitem__(..., memory))
        return memory, array.view(Recorded)
