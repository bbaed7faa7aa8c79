"""Files from strangers: mutated checkpoints, descriptions, CSV files and run folders.

    python -m tests.soak.fuzz --examples 100000

Each either loads as something valid or raises our own error; nothing else comes out, it takes less than a second of
processor time, and memory stays below ten times the file's size (and six megabytes for tables and blocks).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401  # or its import would count as memory of a file
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.data.series import read_series
from gpu_lstm.data.text import read_text
from gpu_lstm.data.tokens import read_vocabulary
from gpu_lstm.errors import GpuLstmError
from gpu_lstm.training import Run, Settings, checkpoint
from gpu_lstm.training.folder import MANIFEST, newest, resume_name
from gpu_lstm.training.lock import NAME, Holder
from tests import test_training as small
from tests.support import NUMPY

FACTOR, SLACK = 10, 6_000_000


def example_files() -> dict[str, bytes]:
    """A resume checkpoint of each kind, and CSV files."""
    found = {}
    with tempfile.TemporaryDirectory() as base:
        for kind, make in small.TASKS.items():
            run = Run(make(), small.settings(epochs=1), Path(base) / kind, {"options": {"a": 1}})
            run.go(lambda event: None, lambda: True)
            found[kind] = newest(Path(base) / kind)[0].read_bytes()
    rows = [f"{n % 3},{'ab'[n % 3 // 2]},{n * 0.5},{-n}e-3,train" for n in range(12)]
    found["csv"] = "\n".join(["series,label,x,y,split", *rows, ""]).encode()
    found["plain csv"] = b"time,value\n1,2.5\n2,3.5\n3,4\n"
    return found


def change_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with some bytes changed, cut out, doubled or put in, or cut short."""
    size = len(content)
    place, piece = st.integers(0, size), st.binary(min_size=0, max_size=9)
    edit = st.tuples(place, st.integers(0, 12) | st.integers(0, size), piece)
    early = st.tuples(st.integers(0, min(size, 400)), st.integers(0, 4), piece)

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = content
        for at, gone, new in edits:
            changed = changed[:at] + new + changed[at + gone :]
        return changed

    return st.lists(edit | early, min_size=1, max_size=4).map(apply)


ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 1, 10**9, 2**31, 2**63, 10**30]), st.floats(),
    st.text(max_size=5), st.just("text"), st.just([]), st.just({}), st.lists(st.integers(), max_size=3),
)  # fmt: skip


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where all values within nested dictionaries and lists are."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in paths_of(part, (*path, key)))]


def change_json(value: Any) -> st.SearchStrategy[Any]:
    """The value with one to three of its parts replaced by something odd or taken away."""
    places = [path for path in paths_of(value) if path]
    edit = st.tuples(st.sampled_from(places), ODD, st.booleans())

    def apply(edits: list[tuple[tuple[Any, ...], Any, bool]]) -> Any:
        changed = copy.deepcopy(value)
        for (*path, last), odd, gone in edits:
            part = changed
            try:
                for key in path:
                    part = part[key]
                if gone:
                    del part[last]
                else:
                    part[last] = copy.deepcopy(odd)  # two edits may hold the same, and one lie in the other
            except (KeyError, IndexError, TypeError):
                continue  # an earlier edit took it away
        return changed

    return st.lists(edit, min_size=1, max_size=3).map(apply)


def guarded(action: Callable[[], object], size: int, counts: Counter[str]) -> None:
    """Do it; only our error may come out, within memory. Prints what takes long: a second of processor time."""
    tracemalloc.reset_peak()
    before, begun = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        action()
        counts["valid"] += 1
    except GpuLstmError:
        counts["refused"] += 1
    seconds, grown = time.process_time() - begun, tracemalloc.get_traced_memory()[1] - before
    if seconds > 1:
        print(f"took {seconds:.1f} s for a file of {size:,} bytes")
    assert grown < FACTOR * size + SLACK, f"took {grown:,} bytes for a file of {size:,}"


def load_and_resume(path: Path, kind: str) -> None:
    """What --resume, sample, forecast and evaluate do with a checkpoint."""
    arrays, description = checkpoint.load(path)
    model, _ = checkpoint.load_model(path, kind, NUMPY)
    assert all(np.asarray(param).dtype == model.dtype for param in model.params.values())
    if kind == "text" and "vocabulary" in description:
        read_vocabulary(description["vocabulary"])
    run = Run(small.TASKS[kind](), small.settings(epochs=1), path.parent, {})
    run.resume(arrays, description)
    Settings.read(description.get("settings"), path)


def fuzz(examples: int, folder: Path, number: int = 0) -> Counter[str]:
    """Try about that many files, others for each number; returns how many were valid and how many refused."""
    counts: Counter[str] = Counter()
    files = example_files()
    many = settings(
        max_examples=max(1, examples // 12), deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate,),
    )  # fmt: skip

    def repeatable(test: Any) -> Any:
        return seed(number)(many(test))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracemalloc.start()
        try:
            for kind in small.TASKS:
                _fuzz_checkpoint(kind, files[kind], folder, repeatable, counts)
            for name in ("csv", "plain csv"):
                _fuzz_csv(files[name], folder, repeatable, counts)
            _fuzz_folder(files["text"], folder, repeatable, counts)
        finally:
            tracemalloc.stop()
    return counts


def _fuzz_checkpoint(kind: str, content: bytes, folder: Path, many: Callable[[Any], Any], counts: Counter[str]) -> None:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(content)
    arrays, description = checkpoint.load(path)
    del description["format"]

    @many
    @given(change_bytes(content))
    def bytes_changed(changed: bytes) -> None:
        path.write_bytes(checkpoint.seal(changed))  # or the checksum would refuse all of them
        guarded(lambda: load_and_resume(path, kind), len(changed), counts)

    @many
    @given(change_json(description))
    def description_changed(changed: Any) -> None:
        packed = checkpoint.pack(arrays, changed)
        path.write_bytes(packed)
        guarded(lambda: load_and_resume(path, kind), len(packed), counts)

    bytes_changed()
    description_changed()


def _fuzz_csv(content: bytes, folder: Path, many: Callable[[Any], Any], counts: Counter[str]) -> None:
    path = folder / "data.csv"

    def read_all() -> None:
        for read in (read_series, read_sequences, read_text):
            try:
                read(path)
            except GpuLstmError:
                if read is read_text:
                    raise

    @many
    @given(change_bytes(content))
    def changed(changed: bytes) -> None:
        path.write_bytes(changed)
        guarded(read_all, len(changed), counts)

    @many
    @given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def anything(changed: bytes) -> None:
        path.write_bytes(changed)
        guarded(read_all, len(changed), counts)

    changed()
    anything()


def _fuzz_folder(content: bytes, folder: Path, many: Callable[[Any], Any], counts: Counter[str]) -> None:
    place = folder / "run"
    place.mkdir(exist_ok=True)
    (place / resume_name(1)).write_bytes(content)
    manifest = {"files": {resume_name(1): {"sha256": "0" * 64, "bytes": len(content), "step": 1}}}

    def look() -> None:
        Holder.read((place / NAME).read_bytes())
        newest(place)

    @many
    @given(
        change_json(manifest).map(lambda value: json.dumps(value).encode())
        | change_bytes(json.dumps(manifest).encode())
    )
    def manifest_changed(changed: bytes) -> None:
        (place / MANIFEST).write_bytes(changed)
        (place / NAME).write_bytes(changed)
        guarded(look, len(content), counts)

    manifest_changed()


def main() -> int:
    """Fuzz and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    options = parser.parse_args()
    begun, counts, number = time.perf_counter(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        while counts.total() < options.examples:
            counts += fuzz(4000, Path(folder), options.first + number)
            number += 1
            print(
                f"{counts.total():,} files: {counts['valid']:,} valid, {counts['refused']:,} refused by our own error, "
                f"none by another; {time.perf_counter() - begun:.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
