"""Ranks that train together: the same bits on any number of them, the same means as one process, errors told once."""

import hashlib
import pickle
from functools import partial

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError, Linear, Pool, compose, fit
from gpu_lstm.cli import main
from gpu_lstm.data.sequences import UNKNOWN, Sequences
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor, Tagger
from gpu_lstm.native import compiled
from gpu_lstm.parallel import Alone
from gpu_lstm.parallel.ordered import Partial, add, left_over, ordered_sum, whole
from gpu_lstm.training import EarlyStop, Run, Settings, Training, TrainingError
from gpu_lstm.training.folder import newest, read_log
from gpu_lstm.training.tasks import ClassifyTask, LabelTask, RegressTask, SeriesTask, Shared, TextTask, shares_for
from tests.ranks import Aborted, on_ranks
from tests.support import NUMPY

RNG = np.random.default_rng(5)
TOKENS = RNG.integers(0, 7, 1200)
LINES = np.where(RNG.random(1200) < 0.2, 0, TOKENS)
WAVE = np.sin(np.arange(160) / 3)[:, None] * [1.0, 5.0] + RNG.normal(size=(160, 2)) / 9


def text(dropout=0.2, dtype="float32", **more):
    return TextTask(
        LanguageModel(7, 4, 8, 2, dropout, dtype=dtype, backend=NUMPY, seed=1), TOKENS, 16, 6, 0.2, 3, **more
    )


def lines(**more):
    task = text(newline=0, **more)
    task.train.tokens = LINES[: len(task.train.tokens)]
    return task


def series(dropout=0.2, dtype="float32", **more):
    model = Forecaster([0, 0], [1, 4], [0.3, 1], 3, 6, 8, dropout=dropout, dtype=dtype, backend=NUMPY, seed=1, **more)
    return SeriesTask(model, WAVE, 16, 12, (0.6, 0.2), None, 3)


def sequences(kind, longest=8):
    rng = np.random.default_rng(3)
    lengths = rng.integers(2, 8, 60)
    lengths[0] = longest
    steps, starts = lengths.sum(), np.concatenate([[0], np.cumsum(lengths)])
    values, labels = rng.normal(size=(steps, 3)), np.arange(60) % 2
    labels = {"class": labels, "steps": rng.integers(UNKNOWN, 2, steps), "numbers": rng.normal(size=(60, 2))}[kind]
    return Sequences(list("abc"), ["0", "1"], values, starts, labels, np.zeros(60, bool), of_steps=kind == "steps")


def classify(dropout=0.2, dtype="float32", longest=8, **more):
    model = Classifier([0] * 3, [1] * 3, 2, 8, dropout=dropout, dtype=dtype, backend=NUMPY, seed=1)
    return ClassifyTask(model, sequences("class", longest), 16, 0.3, 3, **more)


def weighted(**more):
    return classify(class_weights=np.array([0.4, 1.6]), **more)


def ragged(**more):
    return classify(longest=60, **more)


def label(dropout=0.2, dtype="float32"):
    model = Tagger([0] * 3, [1] * 3, 2, 8, dropout=dropout, dtype=dtype, backend=NUMPY, seed=1)
    return LabelTask(model, sequences("steps"), 16, 0.3, 3)


def regress(dropout=0.2, dtype="float32"):
    model = Regressor([0] * 3, [1] * 3, [0, 0], [1, 1], 8, dropout=dropout, dtype=dtype, backend=NUMPY, seed=1)
    return RegressTask(model, sequences("numbers"), 16, 0.3, 3)


TASKS = {
    "text": text, "lines": lines, "series": series, "classify": classify, "weighted": weighted, "ragged": ragged,
    "label": label, "regress": regress,
}  # fmt: skip


def settings(**more):
    return Settings(**{"epochs": 2, "learning_rate": 0.01, "warm_up": 3, "validations": 3, **more})


def digest(model):
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in model.params.values())).hexdigest()


def trained(task, parallel=None, **more):
    """SHA-256 of the weights after training, and what was told of each step."""
    events = []
    Training(task, settings(**more), parallel=parallel).go(events.append)
    return digest(task.model), events


# -- the sum ---------------------------------------------------------------------------------------------


def test_neighbours_are_added_in_pairs_and_pairs_in_pairs():
    def total(shares):
        partials = []
        for share in range(shares):
            add(partials, Partial(share, 1, Term(str(share))))
        return whole(partials).words

    class Term:
        def __init__(self, words):
            self.words = words

        def __iadd__(self, other):
            return Term(f"({self.words}+{other.words})")

    assert total(8) == "(((0+1)+(2+3))+((4+5)+(6+7)))"
    assert total(6) == "(((0+1)+(2+3))+(4+5))"
    assert total(7) == "(((0+1)+(2+3))+((4+5)+6))"
    assert total(1) == "0"


def test_what_is_left_of_a_run_of_shares():
    assert left_over(0, 4) == [(0, 4)]
    assert left_over(4, 2) == [(4, 2)]
    assert left_over(6, 6) == [(6, 2), (8, 4)]
    assert left_over(5, 5) == [(5, 1), (6, 2), (8, 2)]


@pytest.mark.parametrize(("shares", "sizes"), [(8, (2, 4, 8)), (12, (2, 3, 4, 6, 12)), (15, (3, 5, 15)), (7, (7,))])
def test_the_sum_has_the_same_bits_on_any_number_of_ranks(shares, sizes):
    terms = np.random.default_rng(0).standard_normal((shares, 840)).astype(np.float32)

    def total(ranks):
        count, partials = shares // ranks.size, []
        for share in range(ranks.rank * count, (ranks.rank + 1) * count):
            add(partials, Partial(share, 1, terms[share].copy()))
        return ordered_sum(partials, shares, ranks).tobytes()

    alone = total(Alone())
    np.testing.assert_allclose(np.frombuffer(alone, np.float32), terms.sum(axis=0), atol=1e-5)
    for size in sizes:
        assert on_ranks(size, total) == [alone] * size


@pytest.mark.parametrize(("shares", "size", "sums"), [(8, 2, 1), (8, 4, 1), (8, 8, 1), (12, 2, 2)])
def test_bytes_that_a_rank_sends(shares, size, sums):
    """Those of a reduce-scatter and an all-gather; where shares are no power of two, one more partial sum may go."""

    def moved(ranks):
        count, partials = shares // ranks.size, []
        for share in range(ranks.rank * count, (ranks.rank + 1) * count):
            add(partials, Partial(share, 1, np.zeros(240, np.float32)))
        ordered_sum(partials, shares, ranks)
        return ranks.moved

    assert on_ranks(size, moved) == [(1 + sums) * 960 * (size - 1) // size] * size


# -- means -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_loss_and_gradients_are_those_of_the_whole_batch(kind):
    """In float64 and without dropout, where shares make no other difference than rounding."""
    one, cut = (TASKS[kind](dropout=0.0, dtype="float64") for _ in range(2))
    shared = Shared(cut, Alone(), 5)
    for number in range(one.steps_per_epoch + 2):
        loss, gradients = one.step(number)
        found, others = shared.step(number)
        assert float(found) == pytest.approx(float(loss), rel=1e-12)
        assert list(others) == list(gradients)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(others[name], gradient, rtol=1e-9, atol=1e-13, err_msg=name)
    np.testing.assert_allclose(shared.validate()[0], one.validate()[0], rtol=1e-12)
    for name, array in one.carried().items():
        np.testing.assert_allclose(shared.carried()[name], array, rtol=1e-12)


@pytest.mark.parametrize("kind", ["text", "classify"])
def test_each_share_has_a_dropout_of_its_own(kind):
    model = TASKS[kind](dropout=0.5).model
    task = TASKS[kind](dropout=0.5)
    parts = [task.part(share, 4) for share in range(4)]
    seeds = [part._step_seed for part in parts]
    assert [tuple(map(int, seed)) for seed in seeds] == [(3, 0, share) for share in range(4)]
    assert tuple(map(int, task._step_seed)) == (3, 0)
    assert digest(model) == digest(task.model)


def test_a_share_of_a_text_reads_its_own_tracks_only():
    class Watched:
        def __init__(self, tokens):
            self.tokens, self.read = tokens, []

        def __len__(self):
            return len(self.tokens)

        def __getitem__(self, place):
            self.read.append(place.start)
            return self.tokens[place]

    task = text()
    tokens = task.train.tokens = Watched(task.train.tokens)
    part = task.part(1, 4)
    for number in range(task.steps_per_epoch):
        part._batch(number)
    assert {start // task.train.track for start in tokens.read} == {4, 5, 6, 7}


# -- bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("optimizer", "dtype"), [("adam", "float32"), ("sgd", "float64")])
def test_any_number_of_ranks_makes_the_same_weights_and_tells_the_same(kind, optimizer, dtype):
    how = {"optimizer": optimizer, "shares": 8}
    alone = trained(TASKS[kind](dtype=dtype), **how)
    assert alone[0] != trained(TASKS[kind](dtype=dtype), optimizer=optimizer)[0]
    for size in (2, 4):
        found = on_ranks(size, lambda ranks: trained(TASKS[kind](dtype=dtype), ranks, **how))
        assert found == [alone] * size


def test_one_share_alone_is_training_as_it_was():
    assert trained(text(), shares=1) == trained(text()) == trained(text(), Alone())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_too_with_an_overflow_that_all_ranks_skip(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")

    def run(ranks=None):
        task = text(dtype=dtype)
        training = Training(task, settings(shares=8), parallel=ranks)
        training.scaler.scale = 2.0**24 if dtype == "float16" else 1.0
        events = []
        training.go(events.append)
        return digest(task.model), [(event.loss, event.skipped) for event in events], training.scaler.state()

    alone = run()
    assert bool(alone[1][0][1]) == (dtype == "float16")
    assert on_ranks(4, run) == [alone] * 4


def test_patience_ends_all_ranks_at_the_same_step():
    how = {"epochs": 40, "validations": 40, "patience": 2, "learning_rate": 0.3, "shares": 4}
    alone = trained(text(), **how)
    assert alone[1][-1].step < alone[1][-1].steps
    assert on_ranks(2, lambda ranks: trained(text(), ranks, **how)) == [alone] * 2


def test_the_engines_own_sum_is_nearly_the_same():
    alone = trained(text(), shares=4)[1]
    for _, events in on_ranks(2, lambda ranks: trained(text(), ranks, shares=4), ordered=False):
        np.testing.assert_allclose([e.loss for e in events], [e.loss for e in alone], rtol=1e-4)


# -- runs ------------------------------------------------------------------------------------------------


def run_in(folder, task, ranks=None, stop_after=None, resume=False, asks=0, **more):
    run = Run(task, settings(shares=8, **more), folder, {"options": {}}, parallel=ranks)
    if resume:
        run.resume(*newest(folder)[1:3])
    run.go(lambda event: None, lambda: run.step == stop_after and (ranks is None or ranks.rank == asks))
    return run


@pytest.mark.parametrize("kind", ["text", "lines", "series", "classify"])
def test_a_run_goes_on_with_another_number_of_ranks_to_the_same_bytes(tmp_path, kind):
    run_in(tmp_path / "whole", TASKS[kind]())
    for sizes in ((4, 2), (4, 1), (1, 4)):
        folder = tmp_path / "then".join(map(str, sizes))
        on_ranks(sizes[0], partial(part_of_run, folder, kind, 3))
        assert on_ranks(sizes[1], partial(part_of_run, folder, kind, None)) == [None] * sizes[1]
        for path in sorted((tmp_path / "whole").glob("*.safetensors")):
            assert (folder / path.name).read_bytes() == path.read_bytes()
        logs = [read_log(one / "log.jsonl") for one in (folder, tmp_path / "whole")]
        assert logs[0] == logs[1]


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_of_any_number_of_threads_has_the_same_bytes(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(compiled, "SERIAL_WORK", 1)
    files = []
    for threads in ("1", "3"):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", threads)
        run_in(tmp_path / threads, TASKS[kind](), epochs=1)
        files.append({path.name: path.read_bytes() for path in (tmp_path / threads).glob("*.safetensors")})
    assert len(files[0]) > 1
    assert files[0] == files[1]


def part_of_run(folder, kind, stop_after, ranks):
    run_in(folder, TASKS[kind](), ranks, stop_after, resume=stop_after is None, asks=ranks.size - 1)


def test_a_run_that_was_begun_without_shares_has_one(tmp_path):
    run = Run(text(), settings(), tmp_path, {})
    run.go(lambda event: None, lambda: run.step == 3)
    description = newest(tmp_path)[2]
    assert description["settings"].pop("shares") == 1
    again = Run(text(), Settings.read(description["settings"], tmp_path), tmp_path, {})
    assert again.settings.shares == 1
    with pytest.raises(InputError, match=r"shares is 1; expected a multiple of the 2 ranks"):
        raise on_ranks(2, lambda ranks: Run(text(), again.settings, tmp_path, {}, parallel=ranks))[1]


def test_what_rank_0_cannot_write_all_ranks_raise(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not ours")
    found = on_ranks(2, lambda ranks: run_in(tmp_path, text(), ranks))
    assert [str(error) for error in found] == [
        f"{tmp_path / 'model.safetensors'} belongs to no run, and one here would overwrite it; name another folder"
    ] * 2
    assert all(isinstance(error, InputError) for error in found)


# -- what can't be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "ranks", "batch", "found"),
    [
        (0, 1, 16, 1),
        (0, 2, 16, 8),
        (0, 3, 16, 9),
        (0, 16, 32, 16),
        (0, 2, 5, 4),
        (0, 3, 4, 3),
        (12, 4, 16, 12),
        (1, 1, 1, 1),
    ],
)
def test_how_many_shares_there_are(asked, ranks, batch, found):
    assert shares_for(asked, ranks, batch) == found


@pytest.mark.parametrize(
    ("asked", "ranks", "batch", "told"),
    [
        (8, 3, 16, r"shares is 8; expected a multiple of the 3 ranks"),
        (32, 2, 16, r"shares is 32; expected at most the 16 sequences of a batch"),
        (0, 4, 3, r"shares is 4; expected at most the 3 sequences of a batch"),
    ],
)
def test_shares_that_do_not_go(asked, ranks, batch, told):
    with pytest.raises(InputError, match=told):
        shares_for(asked, ranks, batch)


def test_what_cannot_be_cut_is_refused_before_data_are_read(tmp_path, capsys):
    command = ["train", "text", str(tmp_path / "nowhere.txt"), "--batch", "4"]
    for more, told in (
        (["--shares", "8"], "shares is 8; expected at most the 4 sequences of a batch"),
        (["--shares", "2", "--graph"], "graph is for steps that are not cut; shares is 2"),
    ):
        assert main([*command, *more]) == 2
        assert told in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_all_ranks_alike():
    def run(ranks):
        task = text()
        task.model.params["head.weight"][...] = np.nan
        return trained(task, ranks)

    found = on_ranks(2, run)
    assert all(isinstance(error, TrainingError) and "loss is nan" in str(error) for error in found)


def test_what_one_rank_meets_ends_all_with_a_line():
    def run(ranks):
        task = text()
        if ranks.rank == 1:
            task.train.tokens = task.train.tokens + 100  # which the model has no embedding of
        try:
            return trained(task, ranks)
        except Aborted:
            return ranks.meeting.told

    (told,), again = on_ranks(2, run)
    assert again == [told]
    assert told[0].startswith("gpu-lstm: rank 1: step 1: ") and "expected 0..num_embeddings-1=6" in told[0]
    assert told[1] == 2


def test_an_error_that_can_be_told_is_that_of_the_first_rank_that_has_one():
    def work(ranks):
        def fail():
            if ranks.rank:
                raise InputError(f"no {ranks.rank}")

        ranks.each(fail)

    found = on_ranks(3, work)
    assert [(type(error), str(error)) for error in found] == [(InputError, "rank 1: no 1")] * 3
    assert pickle.loads(pickle.dumps(found[0])).args == found[0].args


# -- fit -------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).standard_normal((40, 6, 2))
Y = X[:, :, 0].sum(axis=1)
LISTS = [x[: 1 + n % 6] for n, x in enumerate(X)]
STEPS = [x[:, :1].cumsum(axis=0) for x in LISTS]


def own(per_step=False):
    where = {"backend": NUMPY}
    parts = {"lstm": LSTM(2, 8, **where), "last": Pool("mean"), "head": Linear(8, 1, **where)}
    if per_step:
        del parts["last"]
    return compose(**parts)


def batches(step):
    picked = np.random.default_rng(step).integers(0, 40, 8)
    return X[picked], Y[picked]


DATA = {"arrays": (X, Y), "lists": (LISTS, Y), "steps": (LISTS, STEPS), "function": batches}


@pytest.mark.parametrize("kind", DATA)
def test_fit_among_ranks(kind):
    def run(ranks=None):
        model, validation = own(kind == "steps"), (X, Y) if kind == "function" else 0.2
        history = fit(
            model, DATA[kind], "mse", epochs=4, batch_size=8, steps=5 if kind == "function" else None,
            validation=validation, metrics=["mae", "rmse"], learning_rate=0.02, parallel=ranks, shares=4,
        )  # fmt: skip
        return digest(model), history.losses, history.scores, history.metrics

    alone = run()
    for size in (2, 4):
        assert on_ranks(size, run) == [alone] * size


def test_fit_in_a_folder_goes_on_with_fewer_ranks_and_only_rank_0_calls_back(tmp_path):
    called = []

    def run(ranks, epochs, resume=False, folder=tmp_path / "run"):
        model = own()
        fit(
            model, (X, Y), "mse", epochs=epochs, batch_size=8, validation=0.2, parallel=ranks, out=folder,
            resume=resume, schedule="constant", warm_up=0, validations=epochs,
            callbacks=[lambda event: called.append((ranks.rank, event.step))],
        )  # fmt: skip
        return digest(model)

    on_ranks(4, lambda ranks: run(ranks, 2))
    assert called == [(0, step) for step in range(1, 9)]
    again = on_ranks(2, lambda ranks: run(ranks, 4, resume=True))
    assert again == on_ranks(2, lambda ranks: run(ranks, 4, folder=tmp_path / "whole"))
    with pytest.raises(InputError, match=r"shares is 4; the run in .* has 8, which stays"):
        on_same = {"schedule": "constant", "warm_up": 0, "validation": 0.2, "batch_size": 8}
        fit(own(), (X, Y), "mse", epochs=4, out=tmp_path / "run", resume=True, shares=4, **on_same)


def test_a_callback_of_rank_0_stops_all_after_the_same_step():
    def run(ranks):
        return fit(own(), (X, Y), "mse", epochs=9, batch_size=8, parallel=ranks, callbacks=[EarlyStop(4, until=9)])

    found = on_ranks(2, run)
    assert [history.outcome.step for history in found] == [4, 4]
    assert [history.outcome.end for history in found] == ["stopped", "stopped"]


def test_a_model_with_a_loss_of_its_own_has_batches_that_nobody_can_cut():
    from gpu_lstm.models import Model

    class Mine(Model):
        kind = "mine"

        def __init__(self):
            self.lstm = LSTM(2, 4, backend=NUMPY)
            super().__init__({"lstm": self.lstm}, {})

        def loss(self, x, seed=None):
            y, _, tape = self.lstm.forward(x)
            gradients = self.lstm.backward(tape, y)[2]
            return np.mean(y * y) / 2, {f"lstm.{name}": gradient for name, gradient in gradients.items()}

    data = [(np.ones((3, 4, 2), np.float32),)]
    with pytest.raises(InputError, match=r"shares are for compositions"):
        fit(Mine(), data, shares=2)
    assert fit(Mine(), data).outcome.end == "finished"
