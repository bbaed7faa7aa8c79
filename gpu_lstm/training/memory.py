"""How much memory training will take, or a step of one layer, from sizes alone, before anything is allocated.

The peak of a step is where most arrays are alive at once. `_text`, `_series`, `_sequences` and `_label` follow their
model's ``loss`` and give the moments that can be the peak, as bytes of all arrays alive besides parameters and
gradients. What is counted is what training adds to the process; the data set is not, which is streamed where it is
large.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpu_lstm.errors import InputError
from gpu_lstm.layers.options import Options
from gpu_lstm.layers.schedule import segments
from gpu_lstm.models.amounts import model_amounts, series_widths
from gpu_lstm.native.kernels import ARITHMETIC

SLOTS = {"sgd": 1, "rmsprop": 1, "adam": 2, "adamw": 2}
"""Arrays of the parameters' size in an optimizer's state."""
UPDATE_TEMPORARIES = 3
"""Arrays of the largest parameter's size that an optimizer needs while it updates one."""
BLAS = 24_000_000
"""Bytes that OpenBLAS packs matrices into, where products aren't our own; measured with two threads."""
SLAB, SLAB_ROWS = 256, 200
"""Depth of the slabs of a product's factor that each thread of ``kernels/cpu`` packs, and rows of the other factor."""
NORMALISATION = 6
"""Arrays of z's size at once in `normalise_backward`, its arguments included."""
LOSS_COPIES, LOSS_FLAGS = 3, 1
"""Arrays of the logits' size, theirs included, in `softmax_cross_entropy` as array expressions; and of booleans."""


@dataclass(frozen=True)
class Job:
    """What training does at each step: `steps` T of `batch` B sequences."""

    kind: str
    config: dict[str, Any]
    dtype: str
    optimizer: str
    steps: int
    batch: int
    recompute: bool = False
    fused: bool = True  # products, cross-entropy and optimizers run in compiled kernels
    widened: bool = False  # no kernel takes 16-bit arrays: the recurrence and the products get copies in float32
    least_steps: int = 1  # of a segment, as the backend has it
    beside: bool = False  # products of a segment may go beside the recurrence of the next one
    sums: int = 0  # arrays of the gradients' size in which they are added up over shares

    @property
    def item(self) -> int:
        """Bytes of a number in what layers pass on."""
        return 2 if self.short else self.wide

    @property
    def wide(self) -> int:
        """Bytes of a parameter, of a sum and of a number in c."""
        return 8 if self.dtype == "float64" else 4

    @property
    def short(self) -> bool:
        """Whether layers pass on 16-bit numbers."""
        return ARITHMETIC[self.dtype] != self.dtype

    @property
    def rows(self) -> int:
        """T B."""
        return self.steps * self.batch


@dataclass(frozen=True)
class Prediction:
    """Bytes, by what they are for."""

    parameters: int
    optimizer: int
    gradients: int
    activations: int

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.parameters + self.optimizer + self.gradients + self.activations

    def lines(self) -> list[str]:
        """For people."""
        names = ("parameters", "optimizer", "gradients", "activations", "peak")
        return [f"{name:12}{readable(getattr(self, name)):>10}" for name in names]


def predict(job: Job) -> Prediction:
    """Peak memory of training, by parts."""
    amounts = model_amounts(job.kind, job.config)
    parameters = job.wide * (amounts["embedding"] + amounts["lstm"] + amounts["head"])
    hidden = job.config["hidden_size"]
    largest = job.wide * max(amounts["embedding"], 4 * hidden * hidden, amounts["head"])
    moments = MOMENTS[job.kind](job)
    blas = 0 if job.fused else BLAS
    update = 0 if job.fused else UPDATE_TEMPORARIES * largest
    packed = job.wide * 4 * hidden * hidden  # the recurrent weights, as the compiled tier wants them
    activations = round(max(*moments, update - packed)) + packed + blas
    if job.short:  # the rounded weights
        activations += job.item * (amounts["lstm"] + amounts["head"])
    return Prediction(parameters, SLOTS[job.optimizer] * parameters, (1 + job.sums) * parameters, activations)


def step_of_layer(size: tuple[int, int, int, int], dtype: str, threads: int = 0) -> int:
    """Bytes that a training step of one plain LSTM layer takes at its peak, beside x, dy and the parameters.

    Compiled code packs W_hh once more and, in each of its `threads`, slabs of a product's factors; 0: there is none.
    """
    steps, batch, inputs, hidden = size
    config = {"hidden_size": hidden, "num_layers": 1, "dropout": 0.0}
    job = Job("layer", config, dtype, "", steps, batch, least_steps=steps)
    lstm, parameters = _lstm(job, inputs), 4 * hidden * (inputs + hidden + 1)
    first = 2 * batch * hidden * job.item  # slot 0 of h and c
    y = job.rows * hidden * job.item  # the caller may write to it: no view of h
    packed = job.wide * (4 * hidden * hidden + threads * SLAB * (inputs + hidden + SLAB_ROWS)) if threads else 0
    return round(lstm.kept + lstm.backward) + first + y + job.wide * parameters + packed


@dataclass(frozen=True)
class _Lstm:
    """Bytes of an LSTM's arrays besides its input."""

    kept: float  # between forward and backward
    output: float  # y, where it is not a view of what is kept
    backward: float  # what backward adds, with dx


def _lstm(job: Job, inputs: int, directions: int = 1) -> _Lstm:
    """An LSTM's memory: each direction of each layer keeps gates (4 H a row), h and c, and what its options need.

    A layer's input is the h of the one below, or a copy of its own where there is dropout or a second direction.
    """
    hidden: int = job.config["hidden_size"]
    layers: int = job.config["num_layers"]
    options = Options.of(job.config.get("lstm") or {})
    size = options.proj_size or hidden  # of h
    width = size * directions
    inner = (2 if job.config["dropout"] > 0 else 0) + (1 if directions == 2 else 0)
    parts = segments(job.steps, job.batch, least_steps=job.least_steps)

    item, wide = job.item, job.wide
    # Both products normalised; the new c and which of the old stay; o tanh(c) before its projection.
    extra = 8 * options.layer_norm + 2 * (options.zoneout_c > 0) + (options.proj_size > 0)
    of_unit = 4 * (wide if job.widened else item) + wide + item * extra
    cell = hidden * of_unit + size * item * (1 + (options.zoneout_h > 0))

    def activations(rows: int, layers: int) -> int:
        return rows * (directions * layers * cell + width * (layers - 1) * inner * item)

    output = item * job.rows * width if len(parts) > 1 else 0  # whole, beside those of the segments
    kept = activations(job.rows, layers)
    if job.recompute and len(parts) > 1:
        rows = (parts[0][1] - parts[0][0]) * job.batch
        kept = (item * width + wide * hidden * directions) * len(parts) * layers * job.batch
        # A segment's arrays stay with the allocator from one segment to the next.
        if directions == 1:
            kept += activations(rows, layers)
        else:
            kept += (layers - 1) * inner * item * job.rows * width + rows * cell
        if job.beside:  # what the products of the segment before read
            kept += rows * directions * cell
    dx = item * job.rows * (max(inputs, width) if layers > 1 and not (job.recompute and directions == 1) else inputs)
    if job.widened:  # dz rounded, dz and inputs widened for the products
        dx += (parts[0][1] - parts[0][0]) * job.batch * (4 * hidden * (item + wide) + (hidden + width) * wide)
    if options.layer_norm:  # terms of the derivative of a normalised product
        dx += NORMALISATION * (parts[0][1] - parts[0][0]) * job.batch * 4 * hidden * item
    return _Lstm(kept, output, dx)


def _output_size(config: dict[str, Any]) -> int:
    """Width of h."""
    size: int = Options.of(config.get("lstm") or {}).proj_size or config["hidden_size"]
    return size


def _text(job: Job) -> list[float]:
    """Moments of `LanguageModel.loss`."""
    config, item, rows = job.config, job.item, job.rows
    states = rows * _output_size(config) * item
    logits = rows * config["vocabulary_size"]
    lstm = _lstm(job, config["embedding_size"])
    kept = lstm.kept + rows * config["embedding_size"] * item + 3 * 8 * (job.steps + 1) * job.batch
    dropped = config["dropout"] > 0
    head = rows * _output_size(config) * job.wide if job.widened else 0  # its input, for the products
    loss = kept + (2 * states if dropped else lstm.output) + head
    loss += logits * (job.wide if job.fused else LOSS_COPIES * job.wide + LOSS_FLAGS)
    gradients = logits * job.wide * (2 if job.dtype == "float16" else 1)  # that of the loss, and the same scaled
    through_dropout = kept + 4 * states + gradients + head if dropped else 0  # two masked, two unmasked, mask included
    backward = kept + (states if dropped else lstm.output) + gradients + states + lstm.backward
    return [loss, through_dropout, backward]


def _series(job: Job) -> list[float]:
    """Moments of `Forecaster.loss`."""
    config, item, rows = job.config, job.item, job.rows
    series, states = len(config["mean"]), rows * _output_size(config) * item
    width, said = series_widths(config)
    outputs = rows * series * config["horizon"]  # of one part, as many as targets
    lags = len(config["linear"]["weight"][0][0]) if config.get("linear") else 0
    lstm = _lstm(job, width)
    kept = lstm.kept + lstm.output + rows * width // 2 * (2 * item + 3 * 8)
    dropped = config["dropout"] > 0
    targets = kept + (2 * states if dropped else 0) + outputs * (job.wide + 3 * 8) + rows * lags * 8
    gradients = rows * said * 4 * job.wide + (outputs * 6 * job.wide if said > outputs // rows else 0)
    backward = kept + (states if dropped else 0) + gradients + 2 * states + lstm.backward
    return [targets, backward]


def _read(job: Job, directions: int) -> tuple[float, float]:
    """Bytes of the features of a batch of sequences, also of the next one; and of the outputs y (T, B, W)."""
    window, stride = job.config.get("frames", (1, 1))
    features = job.rows * len(job.config["mean"])
    read = features * (2 * 8 * stride + window * (8 + 3 * job.item))
    return read, job.rows * _output_size(job.config) * directions * job.item


def _sequences(job: Job) -> list[float]:
    """Moments of `Classifier.loss` and `Regressor.loss`."""
    pooling = job.config.get("pooling", ("mean",))
    directions = 2 if job.config["bidirectional"] else 1
    read, states = _read(job, directions)
    lstm = _lstm(job, len(job.config["mean"]) * job.config.get("frames", (1, 1))[0], directions)
    kept = lstm.kept + read + states
    wide, largest = states * job.wide // job.item, "max" in pooling
    summed = 2 * wide * (set(pooling) != {"last"})  # what is inside, and a product of it or the largest
    dy = wide * (1 + largest) + states * (len(pooling) > 1)  # where the largest were, a product, and what others gave
    freed = wide if job.short else 0  # a wide gradient, whose memory the heap keeps beside what comes
    return [kept + summed, kept + dy, kept + states + freed + lstm.backward]


def _label(job: Job) -> list[float]:
    """Moments of `Tagger.loss`."""
    directions = 2 if job.config["bidirectional"] else 1
    read, states = _read(job, directions)
    lstm = _lstm(job, len(job.config["mean"]), directions)
    logits = job.rows * job.config["num_classes"]
    kept = lstm.kept + read + states * (3 if job.config["dropout"] > 0 else 1) + 3 * 8 * job.rows  # the mask, too
    loss = kept + logits * job.wide * (1 if job.fused else LOSS_COPIES + 1)
    backward = kept + logits * job.wide * (2 if job.dtype == "float16" else 1) + states
    return [loss, backward + states, backward + lstm.backward]


MOMENTS = {"text": _text, "series": _series, "classify": _sequences, "regress": _sequences, "label": _label}


def check_fits(job: Job, available: int | None) -> None:
    """Refuse a job that needs more memory than there is, and say what would fit.

    Raises InputError where training needs more memory than is available.
    """
    needed = predict(job).peak
    if available is None or needed <= available:
        return
    choices = {"--recompute": replace(job, recompute=True)}
    for name, field in (("--length", "steps"), ("--batch", "batch")):
        if name == "--length" and job.kind in ("classify", "regress", "label"):
            continue
        value = getattr(job, field) // 2
        while value > 1 and predict(replace(job, **{field: value})).peak > available:
            value //= 2
        if value >= 1:
            choices[f"{name} {value}"] = replace(job, **{field: value})
    fitting = [
        f"{name} ({readable(peak)})" for name, choice in choices.items() if (peak := predict(choice).peak) <= available
    ]
    advice = f"would fit: {', '.join(fitting)}" if fitting else "a smaller --hidden-size is needed"
    raise InputError(f"training needs {readable(needed)} of memory, {readable(available)} are free; {advice}")


def readable(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.0e} EB"
