"""``gpu-lstm train text|series|classify|regress|label``: what it takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpu_lstm.backend import DTYPES
from gpu_lstm.cli.launch import add_ranks
from gpu_lstm.cli.options import RUNS, Parsers, add_device, add_parser, number, positive, whole
from gpu_lstm.cli.parallel import ORDERS
from gpu_lstm.cli.runs import KINDS, run
from gpu_lstm.cli.sequences import RULES
from gpu_lstm.cli.series import add_column_options, add_time_options
from gpu_lstm.cli.tables import add_table_options
from gpu_lstm.data.tokens import KINDS as KINDS_OF_TOKENS
from gpu_lstm.layers.options import Options
from gpu_lstm.training.fitting import DROPOUT, FEW, HELD_OUT, LEARNING_RATE, WARM_UP


def with_kind(arguments: list[str]) -> list[str]:
    """Complete ``train`` without a kind: text, or with --resume whatever is resumed."""
    if arguments[:1] == ["train"] and (len(arguments) == 1 or arguments[1].startswith("-")):
        if any(argument in ("-h", "--help") for argument in arguments[1:2]):
            return arguments
        return ["train", "text", *arguments[1:], "--any-kind"]
    return arguments


def add_parser_for(kinds: Parsers, kind: str, about: str) -> argparse.ArgumentParser:
    """Add one kind's parser with the options that all kinds have."""
    parser = add_parser(kinds, kind, run, about)
    parser.set_defaults(kind=kind, parser=parser)
    shipped = f", or the name of shipped ones ({KINDS[kind]})" if KINDS[kind] else " (has to be named)"
    parser.add_argument("data", nargs="?", help=f"your own data, - for standard input{shipped}")
    parser.add_argument("--any-kind", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=f"folder of the run; the next free {RUNS}/{kind} if not given")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with a run, as it was set up")
    parser.add_argument(
        "--init", type=Path, metavar="RUN", help="begin with the weights of another run: its sizes and names stay"
    )
    add_device(parser)
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES,
        help="float16, bfloat16: mixed precision, what layers pass on in 16 bits, sums and parameters in float32",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same weights, bit for bit")
    parser.add_argument(
        "--hidden-size", type=positive, help="units of each LSTM layer (without a default: as the data need it)"
    )
    parser.add_argument("--num-layers", type=positive, default=1, help="LSTM layers, one on top of the other")
    parser.add_argument("--dropout", type=number, help="share of outputs of a layer that are put to 0 in training")
    parser.add_argument(
        "--lstm", nargs="+", default=[], metavar="OPTION",
        help=f"of the LSTM family: {Options.words()}; the plain LSTM if not given",
    )  # fmt: skip
    parser.add_argument("--batch", type=positive, help="sequences per step")
    parser.add_argument("--epochs", type=positive, help="times through all data (without a default: as they need it)")
    parser.add_argument("--learning-rate", type=number, help="of the optimizer, at the schedule's highest")
    parser.add_argument("--optimizer", choices=("adam", "adamw", "sgd", "rmsprop"), help="how parameters move")
    parser.add_argument(
        "--schedule", default="cosine", choices=("cosine", "constant"), help="of the learning rate, after its warm-up"
    )
    parser.add_argument(
        "--warm-up", type=number, default=50, metavar="STEPS",
        help="over which the learning rate rises; below 1 a share of all steps",
    )  # fmt: skip
    parser.add_argument("--clip", type=number, default=1.0, help="largest norm of the gradients")
    parser.add_argument("--validations", type=positive, default=10, help="how often to validate in the whole run")
    parser.add_argument("--patience", type=whole, default=0, help="validations without gain before it stops; 0 never")
    parser.add_argument(
        "--recompute", action="store_true", help="compute activations twice: far less memory for long sequences"
    )
    parser.add_argument(
        "--graph", action="store_true",
        help="on a GPU: record a training step once and replay it as a CUDA graph, where steps wait for the host",
    )  # fmt: skip
    add_rank_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say how much memory it would take")
    parser.add_argument("--keep", type=positive, help="how many of the last checkpoints to keep (3)")
    parser.add_argument("--save-minutes", type=number, help="save at least so often, besides at validations (10)")
    parser.add_argument(
        "--on-nonfinite", choices=("stop", "skip"), help="what to do with a step whose loss or gradient is NaN (stop)"
    )
    return parser


def add_rank_options(parser: argparse.ArgumentParser) -> None:
    """Add how many ranks train together, and how."""
    add_ranks(parser)
    parser.add_argument(
        "--shares", type=positive, metavar="N",
        help="parts into which ranks cut each batch; the same number makes the same bits on any number of ranks that "
        "divides it (without a default: 1 alone, among ranks 8 or the next multiple)",
    )  # fmt: skip
    parser.add_argument(
        "--reduce", choices=ORDERS, default="ordered",
        help="how ranks add up gradients: fast leaves the order to MPI or NCCL, and the bits to the number of ranks",
    )  # fmt: skip


SEQUENCE_KINDS = {
    "classify": "a classifier of sequences, on a table with a row a step",
    "regress": "numbers about sequences, on a table with a row a step",
    "label": "a class of each step of sequences, on a table with a row a step",
}


def add_command(commands: Parsers) -> None:
    """Add ``train`` with its kinds."""
    parser = commands.add_parser(
        "train",
        help="train a model: text, series, classify, regress or label; text if nothing is said",
        description="Train a model. Without a kind it is text, on the Shakespeare that ships with the package.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind", parser_class=type(parser))
    text = add_parser_for(kinds, "text", "a language model, on a text file or a folder of them")
    text.add_argument(
        "--tokens", default="characters", choices=KINDS_OF_TOKENS,
        help="what the text is cut into; bytes are for any file, subwords need the tokenizers library",
    )  # fmt: skip
    text.add_argument("--vocabulary", type=positive, default=1024, metavar="N", help="how many subwords, at most")
    text.add_argument("--encoding", default="utf-8", help="of the files, as Python names it")
    text.add_argument(
        "--include", nargs="+", metavar="PATTERN",
        help="files to take of a folder, as '*.txt' or 'letters/*'; all but hidden ones if not given",
    )  # fmt: skip
    text.add_argument("--embedding-size", type=positive, default=64, help="numbers that stand for a token")
    text.add_argument("--length", type=positive, default=64, help="steps of a chunk; the state is carried on")
    text.add_argument("--validation", type=number, default=0.1, help="share of the text held out, at its end")
    text.add_argument("--shuffle-lines", action="store_true", help="take the lines in a new order in every epoch")
    text.add_argument("--sample-length", type=whole, default=160, help="tokens of sample at each validation")
    text.set_defaults(
        hidden_size=256, dropout=0.1, batch=64, epochs=10, learning_rate=4e-3, optimizer="adam", validations=8
    )
    series = add_parser_for(kinds, "series", "a forecaster, on columns of a table with a row for each step")
    series.add_argument("--horizon", type=positive, help="steps ahead (the data's shortest period, else 12)")
    series.add_argument("--length", type=positive, help="known steps of a window (by the data's periods, 128 or more)")
    series.add_argument("--memory", type=positive, help="steps of the slow mean that inputs refer to (a period)")
    series.add_argument("--train", type=number, default=0.7, help="share of the series to train on, at its start")
    series.add_argument("--validation", type=number, default=0.1, help="share after that; the rest is for evaluate")
    series.add_argument("--loss", choices=("mse", "mae", "huber"), help="of values alone (mse)")
    series.add_argument(
        "--quantiles",
        nargs="+",
        type=number,
        default=[],
        metavar="Q",
        help="forecast these quantiles, as 0.1 0.5 0.9; none if not given",
    )
    series.add_argument(
        "--distribution", default="", choices=("gaussian", "student"), help="forecast a distribution (none)"
    )
    series.add_argument(
        "--linear", default="auto", choices=("auto", "ridge", "none"),
        help="what the LSTM corrects: the linear forecast that cross-validation finds best, ridge regression on the "
        "window's values, or none: the last value",
    )  # fmt: skip
    add_column_options(series)
    add_time_options(series)
    add_table_options(series)
    series.set_defaults(
        hidden_size=None, dropout=0.0, batch=32, epochs=None, learning_rate=1e-3, optimizer="adamw", validations=10
    )
    add_sequence_kinds(kinds)


def add_sequence_kinds(kinds: Parsers) -> None:
    """Add the kinds that read sequences: a table with a row a step, in which a column tells the sequences apart."""
    for kind, about in SEQUENCE_KINDS.items():
        parser = add_parser_for(kinds, kind, about)
        parser.add_argument("--columns", nargs="+", help="feature columns; all other numeric ones if not given")
        if kind == "regress":
            parser.add_argument(
                "--target", nargs="+", dest="label", required=True, help="columns of the numbers to say"
            )
            parser.add_argument(
                "--loss", default="mse", choices=("mse", "mae", "huber"), help="in units of their spread"
            )
        else:
            parser.add_argument("--label", default="label", help="column of the class")
            parser.add_argument(
                "--class-weight", default="none", choices=("none", "balanced"),
                help="balanced: each class counts alike in the loss, whatever its size",
            )  # fmt: skip
        parser.add_argument("--series", default="series", help="column that tells the sequences apart")
        parser.add_argument(
            "--validation", type=number, metavar="SHARE",
            help=f"of the training sequences held out, which choose the best model ({HELD_OUT}; 0 below {FEW} labels)",
        )  # fmt: skip
        parser.add_argument(
            "--test", type=number, default=None, metavar="SHARE",
            help="of data without a column 'split': share kept for gpu-lstm evaluate (0.2)",
        )  # fmt: skip
        parser.add_argument(
            "--truncate", type=positive, metavar="STEPS", help="read only so many steps of each; all if not given"
        )
        parser.add_argument("--one-direction", action="store_true", help="read forward only")
        add_table_options(parser)
        parser.set_defaults(
            hidden_size=64, dropout=DROPOUT, batch=32, learning_rate=LEARNING_RATE, optimizer="adamw", validations=15,
            warm_up=WARM_UP, rules=RULES,
        )  # fmt: skip
