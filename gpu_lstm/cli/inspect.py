"""``gpu-lstm inspect``: a page that shows what the cells of a trained model do."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.cli.opening import Opened, opened
from gpu_lstm.cli.options import (
    Parsers,
    add_device,
    add_parser,
    add_run,
    announce,
    data_path,
    place_for,
    positive,
    reading_text,
)
from gpu_lstm.cli.series import read_again
from gpu_lstm.data.text import encode_file, read_part
from gpu_lstm.data.tokens import UNKNOWN, Characters, read_vocabulary
from gpu_lstm.errors import InputError
from gpu_lstm.models import Forecaster, LanguageModel
from gpu_lstm.training.checkpoint import write_whole

LONGEST = 20_000
"""Steps that a browser still shows at ease."""


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "inspect", run, "make a page that shows what the cells of a trained model do")
    add_run(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="text to read, for a language model; that of --data if not given")
    source.add_argument("--data", help="file to read; the training data if not given, of a text its held-out part")
    parser.add_argument("--length", type=positive, default=2000, help=f"steps to show, at most {LONGEST:,}")
    parser.add_argument(
        "--start",
        type=int,
        help="first step to show; if not given, 0 of a text, and of a series so that its end is shown",
    )
    parser.add_argument("--out", type=Path, help="HTML file to write; inspect.html beside the model if not given")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Load whatever kind the checkpoint is, look into it, write the page."""
    if options.length > LONGEST:
        raise InputError(f"--length is {options.length}; expected at most {LONGEST}: use --start to see other parts")
    if options.start is not None and options.start < 0:
        raise InputError(f"--start is {options.start}; expected at least 0")
    with opened(options, *PAGES) as found:
        path = found.path
        out = place_for("--out", options.out, path.parent, "inspect.html", path, options.data or path)
        if bits := found.description.get("weights"):
            raise InputError(f"checkpoint {path} has weights of {bits}; expected the one it was made of")
        if options.text is not None and found.kind != "text":
            raise InputError(f"--text is for language models; {path} is of kind {found.kind!r}, which takes --data")
        page = PAGES[found.kind](found, announce(options), options)
    content = page.encode()
    write_whole(out, content)
    print(f"wrote {out} ({len(content) / 1e6:.1f} MB); open it in a browser")
    return 0


def of_text(found: Opened, backend: Backend, options: argparse.Namespace) -> str:
    """The page of a language model."""
    from gpu_lstm.inspect import text_page

    path, model = found.path, found.model(backend, options.tier)
    assert isinstance(model, LanguageModel)
    vocabulary = read_vocabulary(found.description["vocabulary"])
    if not isinstance(vocabulary, Characters):
        raise InputError(f"checkpoint {path} has {vocabulary.tokens} as tokens; the page is for characters")
    if len(vocabulary) != model.config["vocabulary_size"]:
        raise InputError(f"checkpoint {path} has a vocabulary of {len(vocabulary)}; its model has another")
    text, where = passage(vocabulary, found, options)
    about = {"text": where} | facts(found, model)
    title = f"Inside {path.resolve().parent.name}"
    return text_page(model, vocabulary.encode(text), text, title, about, options.start or 0)


def passage(vocabulary: Characters, found: Opened, options: argparse.Namespace) -> tuple[str, str]:
    """The text to show of a model, and where it is from.

    Raises InputError where the text is missing, or has characters that the model never saw.
    """
    start, how = options.start or 0, reading_text(found.description["options"])
    if options.text is not None:
        name, where = "--text", "given with --text"
        text = options.text[start : start + options.length]
        if not options.text:
            raise InputError("--text is empty; expected at least one character")
    elif options.data is not None:
        name = where = options.data
        text = read_part(data_path(options.data), start, options.length, how["encoding"])
    else:
        name = found.data(None)
        tokens = encode_file(data_path(name), vocabulary, **how)
        cut = len(tokens) - int(len(tokens) * found.description["options"]["validation"])
        text = vocabulary.decode(tokens[cut + start : cut + start + options.length])
        where = f"{name}, held-out part (from character {cut:,})"
    if not text:
        raise InputError(f"--start is {start}; {name} has no character there")
    unknown = sorted({c for c, token in zip(text, vocabulary.encode(text), strict=True) if token == 0 or c == UNKNOWN})
    if unknown:
        named = ", ".join(map(repr, unknown[:10])) + (" and more" if len(unknown) > 10 else "")
        raise InputError(f"{name} has characters that the model never saw: {named}")
    return text, f"{where}, from character {start:,}" if start else where


def of_series(found: Opened, backend: Backend, options: argparse.Namespace) -> str:
    """The page of a forecaster."""
    from gpu_lstm.inspect import series_page

    model = found.model(backend, options.tier)
    assert isinstance(model, Forecaster)
    name = found.data(options.data)
    data = read_again(data_path(name), found.description)
    known = len(data.values)
    start = max(int(data.starts[-2]), known - options.length) if options.start is None else options.start
    if start >= known:
        raise InputError(f"--start is {start}; {name} has {known} steps")
    end = int(data.starts[np.searchsorted(data.starts, start, "right")])  # nothing looks beyond a stretch
    values = np.asarray(data.values[start : min(start + options.length, end)])
    about = {"series": f"{', '.join(data.names)} of {name}"} | facts(found, model)
    return series_page(model, values, data.names, f"Inside {found.path.resolve().parent.name}", about, start)


def facts(found: Opened, model: LanguageModel | Forecaster) -> dict[str, str]:
    """Where and how, for the page's end."""
    return {
        "checkpoint": str(found.path),
        "parameters": f"{model.count():,}",
        "trained": f"{found.description['step']:,} steps" if "step" in found.description else "unknown",
        "run on": f"{model.backend.name}, {model.dtype}, tier {model.lstm.plan.tier}",
    }


PAGES = {"text": of_text, "series": of_series}
