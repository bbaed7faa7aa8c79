"""Models of one's own, trained: the loop's promises, data in every form, callbacks."""

import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_lstm
from gpu_lstm import LSTM, Adam, Concat, Embedding, InputError, Linear, LSTMCell, Pool, compose, find_learning_rate, fit
from gpu_lstm.data.samples import Samples, Stream, shuffled
from gpu_lstm.models import MODELS, Model
from gpu_lstm.models.base import gather
from gpu_lstm.training import EarlyStop, TensorBoard, TrainingError, checkpoint, folder
from gpu_lstm.training.tensorboard import NAME, events
from tests.support import NUMPY

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6, 2))
Y = X[:, :, 0].sum(axis=1)
LISTS = [x[: 1 + n % 6] for n, x in enumerate(X)]


def small(dtype="float32", backend=NUMPY, **more):
    where = {"backend": backend, "dtype": dtype}
    return compose(lstm=LSTM(2, 8, **where, **more), last=Pool("last"), head=Linear(8, 1, **where))


def same_params(a, b):
    for name, array in a.params.items():
        np.testing.assert_array_equal(array, b.params[name])


def batch(step):
    picked = np.random.default_rng(step).integers(0, 40, 8)
    return X[picked], Y[picked]


def test_it_learns_and_says_what_happened():
    model = small()
    history = fit(model, (X, Y), "mse", epochs=40, batch_size=8, learning_rate=0.02, validation=0.2,
                  metrics=["mae", "rmse"])  # fmt: skip
    assert history.outcome.end == "finished" and history.outcome.steps == len(history.losses) == 160
    assert len(history.scores) == len(history.validated) == len(history.metrics["mae"]) == 10
    assert min(history.scores) < 0.3 * np.var(Y)
    np.testing.assert_allclose(np.square(history.metrics["rmse"]), history.scores, rtol=1e-6)
    assert history.outcome.best == min(history.scores)


def test_the_model_ends_with_what_scored_best():
    model = small()
    history = fit(model, batch, "mse", steps=40, learning_rate=0.02, validation=(X, -Y), warm_up=0)
    assert history.scores[-1] > 1.05 * min(history.scores)
    error = np.mean((model.predict(X)[:, 0] + Y) ** 2)
    assert error == pytest.approx(min(history.scores), rel=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        lambda: batch,
        lambda: lambda epoch: [batch(5 * epoch + k) for k in range(5)],
        lambda: lambda epoch: (batch(5 * epoch + k) for k in range(5)),
        lambda: [batch(k) for k in range(5)],
    ],
    ids=["function of the step", "function of the epoch", "generator function", "list"],
)
def test_batches_in_every_form_are_the_same_training(data):
    first, second = small(), small()
    one = fit(first, batch, "mse", steps=5, warm_up=0)
    two = fit(second, data(), "mse", steps=5, warm_up=0)
    assert one.losses == two.losses
    same_params(first, second)


def test_more_of_an_iterable_than_it_has_is_refused():
    with pytest.raises(InputError, match="data has ended before batch 4 of epoch 1; expected 9"):
        fit(small(), [batch(k) for k in range(3)], "mse", steps=9)
    with pytest.raises(InputError, match="data is a generator, which can be read once"):
        fit(small(), (batch(k) for k in range(3)), "mse", steps=3)
    with pytest.raises(InputError, match="steps is None"):
        fit(small(), batch, "mse")
    stream = Stream(lambda epoch: iter(range(10 * epoch, 10 * epoch + 4)), 4)
    assert [stream(k) for k in (0, 1, 2, 3, 4, 5, 10, 11, 0)] == [0, 1, 2, 3, 10, 11, 22, 23, 0]


def test_lists_of_sequences_are_padded_and_tokens_and_static_inputs_find_their_axes():
    where = {"backend": NUMPY}
    model = compose(
        vectors=(Embedding(5, 3, **where), "words"), lstm=LSTM(3, 8, **where), last=Pool("last"),
        both=(Concat(), "last", "static"), head=Linear(10, 2, **where),
    )  # fmt: skip
    words = [RNG.integers(0, 5, 1 + n % 4) for n in range(30)]
    static = RNG.standard_normal((30, 2))
    labels = np.array([len(w) % 2 for w in words])
    data = ({"words": words, "static": static}, labels)
    history = fit(model, data, "cross_entropy", epochs=60, learning_rate=0.02, batch_size=10, validation=data,
                  metrics=["accuracy"])  # fmt: skip
    assert history.metrics["accuracy"][-1] == 1
    scores = model.predict({"words": words, "static": static})
    assert scores.shape == (30, 2)
    alone = model.predict({"words": words[7:8], "static": static[7:8]})
    np.testing.assert_allclose(alone[0], scores[7], rtol=1e-5)


def test_something_said_at_each_step_comes_back_by_sequence():
    model = compose(lstm=LSTM(2, 8, backend=NUMPY), head=Linear(8, 3, backend=NUMPY))
    labels = [np.arange(len(x)) % 3 for x in LISTS]
    history = fit(model, (LISTS, labels), "cross_entropy", epochs=50, learning_rate=0.03, validation=(LISTS, labels),
                  metrics={"right": lambda p, t: float(np.mean(p.argmax(axis=1) == t))})  # fmt: skip
    assert history.metrics["right"][-1] > 0.9
    said = model.predict(LISTS)
    assert [one.shape for one in said] == [(len(x), 3) for x in LISTS]
    right = np.concatenate([p.argmax(axis=1) == t for p, t in zip(said, labels, strict=True)]).mean()
    assert right == pytest.approx(max(history.metrics["right"]), abs=0.05)
    assert model.predict(X[:3]).shape == (3, 6, 3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("form", ["arrays", "function"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(form, dtype, tmp_path):
    data, more = ((X, Y), {"epochs": 7, "batch_size": 5}) if form == "arrays" else (batch, {"steps": 56})
    more |= {"learning_rate": 0.01, "validation": (X, Y), "seed": 3}
    whole, parted = small(dtype, dropout=0.0), small(dtype, dropout=0.0)
    fit(whole, data, "mse", out=tmp_path / "whole", **more)
    first = fit(parted, data, "mse", out=tmp_path / "parted", callbacks=[lambda event: event.step == 23], **more)
    assert first.outcome.end == "stopped" and first.outcome.step == 23
    again = small(dtype, dropout=0.0)
    second = fit(again, data, "mse", out=tmp_path / "parted", resume=True, **more)
    assert second.outcome.step == 56 and len(second.losses) == 33
    same_params(whole, again)
    last = folder.resume_name(56)
    assert (tmp_path / "whole" / last).read_bytes() == (tmp_path / "parted" / last).read_bytes()
    assert (tmp_path / "whole" / folder.BEST).read_bytes() == (tmp_path / "parted" / folder.BEST).read_bytes()
    finished = fit(small(dtype), data, "mse", out=tmp_path / "parted", resume=True, **more)
    assert finished.losses == []
    with pytest.raises(InputError, match="already holds a run"):
        fit(small(dtype), data, "mse", out=tmp_path / "parted", **more)
    with pytest.raises(InputError, match=r"learning_rate is 0.5; the run in .* has 0.01, which stays"):
        fit(small(dtype), data, "mse", out=tmp_path / "parted", resume=True, **{**more, "learning_rate": 0.5})
    if form == "arrays":
        with pytest.raises(InputError, match="data is '"):
            fit(small(dtype), (X + 1, Y), "mse", out=tmp_path / "parted", resume=True, **more)
    with pytest.raises(InputError, match="model is "):
        fit(small(dtype, num_layers=2), data, "mse", out=tmp_path / "parted", resume=True, **more)


@pytest.fixture
def sigint():
    """What a shell gives a command in the background is to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("in_a_run", [False, True])
def test_ctrl_c_ends_after_the_step_with_the_best_parameters_and_a_run_that_goes_on(in_a_run, tmp_path):
    def press(event):
        if event.step == 23:
            signal.raise_signal(signal.SIGINT)
        if event.best:
            best.update({name: array.copy() for name, array in model.params.items()})

    out = {"out": tmp_path / "run"} if in_a_run else {}
    more = {"epochs": 7, "batch_size": 5, "learning_rate": 0.01, "validation": (X, Y), "seed": 3}
    best, model, whole = {}, small(dropout=0.0), small(dropout=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, (X, Y), "mse", callbacks=[press], **more, **out)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    for name, array in best.items():
        np.testing.assert_array_equal(model.params[name], array)
    if in_a_run:
        assert fit(model, (X, Y), "mse", resume=True, **more, **out).outcome.step == 56
        fit(whole, (X, Y), "mse", **more)
        same_params(whole, model)


def test_a_history_is_one_line():
    history = fit(small(), (X, Y), "mse", epochs=9, validation=(X, Y), metrics=["mae"])
    assert re.match(rf"History\(finished after step {history.outcome.step} of .*, best score [\d.]+;", repr(history))
    assert f"; mae {len(history.scores)}, {history.metrics['mae'][0]:.4g} to " in repr(history)
    assert len(repr(history)) < 200


def test_a_checkpoint_makes_the_model_again(tmp_path):
    model = small()
    fit(model, (X, Y), "mse", epochs=2, validation=0.5, out=tmp_path)
    again, description = checkpoint.load_model(tmp_path / folder.BEST, "composed", NUMPY)
    assert repr(again) == repr(model) and description["fit"]["loss"] == "mse"
    same_params(model, again)
    arrays, description = checkpoint.load(tmp_path / folder.BEST)
    description["model"]["parts"][0]["layer"]["hidden_size"] = 10**6
    with pytest.raises(InputError, match="does not fit its own description"):
        checkpoint.check_amounts(arrays, description, tmp_path)
    del description["model"]["parts"][0]["layer"]["input_size"]
    with pytest.raises(InputError, match="has a damaged description"):
        checkpoint.check_amounts(arrays, description, tmp_path)


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    found = []
    for seed in (1, 1, 2):
        model = compose(lstm=LSTM(2, 8, 2, dropout=0.3, backend=NUMPY), last=Pool(), head=Linear(8, 1, backend=NUMPY))
        fit(model, (X, Y), "mse", epochs=3, validation=0.2, seed=seed)
        found.append(model)
    same_params(found[0], found[1])
    assert not np.array_equal(found[0].params["head.weight"], found[2].params["head.weight"])


def test_early_stop_and_callbacks():
    history = fit(small(), (X, Y), "mse", epochs=30, validation=0.2, validations=30, patience=2, learning_rate=1.0,
                  schedule="constant", warm_up=0)  # fmt: skip
    assert history.outcome.end == "early" and history.outcome.step < 30
    seen = []
    fit(small(), batch, "mse", steps=6, callbacks=[lambda event: seen.append(event.step)])
    assert seen == [1, 2, 3, 4, 5, 6]
    stopped = fit(small(), batch, "mse", steps=60, callbacks=[EarlyStop(4, 1, until=100.0)])
    assert stopped.outcome.end == "stopped" and stopped.outcome.step == 4
    flat = EarlyStop(2, 3)
    events = [gpu_lstm.training.Event(step, 99, 1.0, 1.0) for step in range(12)]
    assert [flat(event) for event in events].index(True) == 7  # one mean that is lowest, three that are not

    def breaks(event):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(small(), batch, "mse", steps=6, callbacks=[breaks])
    with pytest.raises(InputError, match="validation is None; expected data to validate on"):
        fit(small(), batch, "mse", steps=6, patience=2)


def test_tensorboard_gets_what_happened(tmp_path):
    history = fit(small(), batch, "mse", steps=6, callbacks=[TensorBoard(tmp_path / "board")])
    found = [step for _, step, _ in events(tmp_path / "board" / NAME)]
    assert found == [0, 1, 2, 3, 4, 5, 6] and len(history.losses) == 6


def test_a_learning_rate_is_found_and_the_model_stays_as_it_was():
    model, untouched = small(), small()
    found = find_learning_rate(model, (X, Y), "mse", batch_size=20)
    same_params(model, untouched)
    assert found.rates[0] == pytest.approx(1e-5) and found.rates == sorted(found.rates)
    assert 1e-3 < found.suggestion < 0.1
    assert found.losses[found.rates.index(10 * found.suggestion)] == min(found.losses)
    history = fit(model, (X, Y), "mse", epochs=40, learning_rate=found.suggestion, validation=(X, Y))
    assert min(history.scores) < 0.3 * np.var(Y)
    with pytest.raises(InputError, match="expected rates above 0 that rise"):
        find_learning_rate(model, (X, Y), "mse", lowest=1, highest=0.1)
    assert len(find_learning_rate(model, [batch(k) for k in range(3)], "mse", steps=10).rates) <= 10


def test_what_does_not_fit_is_refused_before_anything_is_trained():
    untouched = small()
    for data, loss, more, told in (
        ((X, Y[:3]), "mse", {}, "samples are 40 of x, 3 of y"),
        ((X[:, :, :1], Y), "mse", {}, "lstm, which takes x"),
        ((X, Y), None, {}, "loss is None; expected the name of a loss"),
        ((X, Y), "mse", {"metrics": ["f1"], "validation": 0.5}, "metric is 'f1'; expected one of accuracy"),
        ((X, Y), "cross_entropy", {}, "target has dtype float64; expected whole numbers"),
        ((X, Y), "mse", {"validation": 2.0}, "validation is 2.0"),
        ((np.where(X > 2, np.nan, X), Y), "mse", {}, "x has NaN or infinity"),
        (([x.T for x in X[:, :, :1]] + [X[0]], Y), "mse", {}, "x has sequences of shapes"),
        ({"x": X}, "mse", {}, "a batch is a str"),
        (batch, "mse", {"steps": 3, "resume": True}, "resume is True without out"),
        (batch, "mse", {"steps": 3, "validation": 0.1}, "validation is 0.1; expected data"),
        (3, "mse", {"steps": 3}, "data is a int"),
    ):
        model = small()
        with pytest.raises(InputError, match=told):
            fit(model, data, loss, **more)
        same_params(model, untouched)


def test_training_that_diverges_says_so():
    def wrong(prediction, target):
        return np.float32(np.nan), prediction

    with pytest.raises(TrainingError, match="loss is nan"):
        fit(small(), batch, wrong, steps=3)


class Echo(Model):
    """A graph of one's own: a cell that sees its last output, over as many steps as asked."""

    kind = "echo"

    def __init__(self):
        self.cell, self.head = LSTMCell(1, 4, backend=NUMPY), Linear(4, 1, backend=NUMPY)
        self.lstm = LSTM(1, 4, backend=NUMPY)  # where and in what it computes
        super().__init__({"cell": self.cell, "head": self.head}, {})

    def loss(self, x, target, seed=None):
        state, tapes, y = None, [], x
        for _ in range(3):
            h, c, cell = self.cell.forward(y, state)
            y, head = self.head.forward(h)
            state = h, c
            tapes.append((cell, head))
        loss, dy = gpu_lstm.mean_squared(y, target)
        dh, dc, total = 0.0, None, {}
        for cell, head in reversed(tapes):
            dh_head, of_head = self.head.backward(head, dy)
            dy, (dh, dc), of_cell = self.cell.backward(cell, dh + dh_head, dc)
            for name, gradient in gather({"cell": of_cell, "head": of_head}).items():
                total[name] = total.get(name, 0) + gradient
        return loss, {name: total[name] for name in self.params}


def test_a_model_with_a_graph_of_its_own_trains_by_the_same_loop(tmp_path):
    x = RNG.standard_normal((16, 1)).astype(np.float32)
    model = Echo()
    history = fit(model, [(x, 0.5 * x)], epochs=150, learning_rate=0.03, validation=[(x, 0.5 * x)], out=tmp_path)
    assert history.scores[-1] < 0.01 < history.losses[0]
    assert "echo" not in MODELS
    with pytest.raises(InputError, match="loss is 'mse'; expected None"):
        fit(Echo(), [(x, x)], "mse")
    with pytest.raises(InputError, match="data is a tuple"):
        fit(Echo(), (x, x))


def test_optimizers_take_a_model_a_layer_or_parameters():
    for given in (lambda m: (m,), lambda m: (m.params,), lambda m: (dict(m.params),), lambda m: (NUMPY, m.params)):
        model = small()
        optimizer = Adam(*given(model), 0.01)
        assert optimizer.backend.name == "numpy" and optimizer.learning_rate == 0.01
        before = model.params["head.bias"].copy()
        optimizer.update(model.loss(X[:, :4].swapaxes(0, 1), Y[:40])[1])
        np.testing.assert_allclose(np.abs(model.params["head.bias"] - before), 0.01, rtol=1e-3)
    assert Adam(LSTM(2, 3, backend=NUMPY)).learning_rate == 1e-3


def test_fit_on_every_backend(backend):
    model = small(backend=backend)
    history = fit(model, (X, Y), "mse", epochs=3, learning_rate=0.02, validation=(LISTS, Y))
    expected = fit(small(), (X, Y), "mse", epochs=3, learning_rate=0.02, validation=(LISTS, Y))
    np.testing.assert_allclose(history.losses, expected.losses, rtol=1e-4)
    np.testing.assert_allclose(history.scores, expected.scores, rtol=1e-4)


@pytest.mark.gpu
def test_recorded_steps_are_those_that_are_asked_one_by_one(backend):
    if backend.name == "numpy":
        with pytest.raises(gpu_lstm.BackendError, match="graph is for a GPU"):
            fit(small(), (X, Y), "mse", graph=True)
        return
    first, second = small(backend=backend), small(backend=backend)
    fit(first, (X, Y), "mse", epochs=6, batch_size=10)
    fit(second, (X, Y), "mse", epochs=6, batch_size=10, graph=True)
    for name, array in first.params.items():
        np.testing.assert_array_equal(backend.to_numpy(array), backend.to_numpy(second.params[name]))


def test_the_names_of_everyday_are_at_the_top_and_imported_when_asked_for():
    code = (
        "import sys, gpu_lstm; assert 'gpu_lstm.models' not in sys.modules and 'tqdm' not in sys.modules; "
        "assert set(gpu_lstm.__all__) <= set(dir(gpu_lstm)); print(*(getattr(gpu_lstm, n) for n in gpu_lstm.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    later: dict = vars(gpu_lstm)["_LATER"]
    for room, names in later.items():
        for name in names:
            assert getattr(gpu_lstm, name) is getattr(importlib.import_module(f"gpu_lstm.{room}"), name)
    stub = Path(gpu_lstm.__file__).with_suffix(".pyi").read_text(encoding="utf-8")  # what type checkers see
    assert sorted(re.findall(r" as (\w+)\n", stub)) == sorted(gpu_lstm.__all__)
    with pytest.raises(AttributeError, match="module 'gpu_lstm' has no attribute 'LTSM'"):
        getattr(gpu_lstm, "LTSM")  # noqa: B009


def test_sequences_of_very_different_lengths_go_in_batches_of_similar_ones():
    lists = [RNG.standard_normal((2 + n % 3, 2)) for n in range(60)] + [RNG.standard_normal((300, 2))]
    batches = shuffled(Samples.of(lists, np.arange(61)), 8, (0,))
    for epoch in range(3):
        found = [batches.make(epoch * batches.steps + k) for k in range(batches.steps)]
        assert sorted(n for one in found for n in one.target) == list(range(61))
        assert max(len(one) * one.lengths().max() for one in found) <= 300
    assert fit(small(), (lists, np.arange(61.0)), "mse", batch_size=8).outcome.step == batches.steps


def test_a_model_is_saved_and_loaded(tmp_path):
    model = small()
    gpu_lstm.save(model, tmp_path / "model.safetensors")
    again = gpu_lstm.load(tmp_path / "model.safetensors", "numpy")
    assert repr(again) == repr(model)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    with pytest.raises(InputError, match="Echo is of your own, and can't be named in a file"):
        gpu_lstm.save(Echo(), tmp_path / "echo.safetensors")


def test_a_run_keeps_the_name_of_a_loss_of_ones_own(tmp_path):
    def squares(prediction, target):
        return gpu_lstm.mean_squared(prediction, target)

    fit(small(), batch, squares, steps=4, out=tmp_path, callbacks=[lambda event: event.step == 2])
    assert fit(small(), batch, squares, steps=4, out=tmp_path, resume=True).outcome.step == 4
    with pytest.raises(InputError, match="loss is 'mse'; the run in .* has 'squares', which stays"):
        fit(small(), batch, "mse", steps=4, out=tmp_path, resume=True)
    assert "fit" not in gpu_lstm.load(tmp_path).config and gpu_lstm.load(tmp_path).about["fit"]["loss"] == "squares"
