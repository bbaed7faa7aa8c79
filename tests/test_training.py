"""The training loop: exact repetition, exact resumption, validation, early stop, and what it writes."""

import dataclasses
import json
import math

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.data.sequences import Sequences
from gpu_lstm.models import Classifier, Forecaster, LanguageModel
from gpu_lstm.models.backtest import backtest
from gpu_lstm.optimizers import OPTIMIZERS
from gpu_lstm.training import Run, Settings, TrainingError, checkpoint
from gpu_lstm.training.folder import newest, read_log, resume_name
from gpu_lstm.training.tasks import (
    ClassifyTask,
    SeriesTask,
    TextTask,
    bits_per_token,
    class_scores,
    split_sequences,
    split_series,
)

NUMPY = NumpyBackend()


def text_task(seed=0, dropout=0.2, tokens=None):
    tokens = np.random.default_rng(1).integers(0, 6, 300) if tokens is None else tokens
    model = LanguageModel(6, 4, 8, dropout=dropout, backend=NUMPY, seed=seed)
    return TextTask(model, tokens, batch=4, length=8, validation=0.2, seed=seed)


def wave(steps=120):
    return np.sin(np.arange(steps) / 3)[:, None] * [1.0, 5.0] + np.random.default_rng(2).normal(size=(steps, 2)) / 9


def series_task(seed=0, values=None):
    model = Forecaster([0, 0], [1, 4], [0.3, 1], 3, 6, 8, dropout=0.2, backend=NUMPY, seed=seed)
    values = wave() if values is None else values
    return SeriesTask(model, values, batch=8, length=12, parts=(0.6, 0.2), loss="mse", seed=seed)


def sequences(count=40, tests=8, seed=3):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 8, count)
    labels = np.arange(count) % 2
    values = rng.normal(size=(lengths.sum(), 3)) + np.repeat(labels, lengths)[:, None]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(list("abc"), ["0", "1"], values, starts, labels, np.arange(count) >= count - tests)


def classify_task(seed=0, data=None):
    model = Classifier([0] * 3, [1] * 3, 2, 8, dropout=0.2, backend=NUMPY, seed=seed)
    return ClassifyTask(model, sequences() if data is None else data, batch=8, validation=0.25, seed=seed)


TASKS = {"text": text_task, "series": series_task, "classify": classify_task}


def settings(**more):
    return Settings(**{"epochs": 3, "learning_rate": 0.01, "warm_up": 3, "validations": 4, **more})


def train(task, folder, stop_after=None, resume=False, **more):
    run = Run(task, settings(**more), folder, {"options": {"a": 1}})
    if resume:
        run.resume(*newest(folder)[1:3])
    events = []
    outcome = run.go(events.append, lambda: run.step == stop_after)
    return run, outcome, events


def weights(task):
    return {name: param.tobytes() for name, param in task.model.params.items()}


# -- repetition and resumption --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(tmp_path, kind):
    tasks = [TASKS[kind](seed=1) for _ in range(2)]
    events = [train(task, tmp_path / str(n))[2] for n, task in enumerate(tasks)]
    assert weights(tasks[0]) == weights(tasks[1])
    assert events[0] == events[1]
    files = [(tmp_path / n / "model.safetensors").read_bytes() for n in "01"]
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", TASKS)
def test_another_seed_gives_other_weights(tmp_path, kind):
    tasks = [TASKS[kind](seed=seed) for seed in (1, 2)]
    for n, task in enumerate(tasks):
        train(task, tmp_path / str(n))
    one, other = (weights(task) for task in tasks)
    assert all(one[name] != other[name] for name in one)


@pytest.mark.parametrize("kind", TASKS)
def test_another_seed_takes_other_batches_with_the_same_first_weights(kind):
    tasks = [TASKS[kind](seed=seed) for seed in (1, 2)]
    for name, param in tasks[0].model.params.items():
        tasks[1].model.params[name][...] = param
    losses = [float(task.step(3)[0]) for task in tasks]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", TASKS)
def test_a_stopped_and_resumed_run_ends_with_the_same_weights_to_the_last_bit(tmp_path, kind, optimizer):
    more = {"optimizer": optimizer, "options": {"momentum": 0.9} if optimizer == "sgd" else {}}
    whole = TASKS[kind]()
    run, expected, events = train(whole, tmp_path / "whole", **more)
    parts = []
    for stop_after in (2, 5, 7, None):
        task = TASKS[kind]()
        again, outcome, some = train(task, tmp_path / "parts", stop_after, resume=bool(parts), **more)
        assert outcome.end == ("finished" if stop_after is None else "stopped")
        assert outcome.step == (stop_after or run.steps)
        parts += some
    assert weights(task) == weights(whole)
    assert parts == events
    assert outcome == expected
    assert {k: v.tobytes() for k, v in again.optimizer.state.items()} == {
        k: v.tobytes() for k, v in run.optimizer.state.items()
    }
    for name in ("model.safetensors", resume_name(run.steps), "log.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_that_died_after_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path):
    whole = text_task()
    train(whole, tmp_path / "whole")

    def die(event):
        if event.step == 13:
            raise KeyboardInterrupt

    run = Run(text_task(), settings(), tmp_path / "died", {"options": {"a": 1}})
    with pytest.raises(KeyboardInterrupt):
        run.go(die, lambda: False)
    with open(tmp_path / "died/log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"step": 14, "lo')
    task = text_task()
    again, _, events = train(task, tmp_path / "died", resume=True)
    assert events[0].step < 13
    assert weights(task) == weights(whole)
    for name in ("model.safetensors", "log.jsonl"):
        assert (tmp_path / "died" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert again.step == again.steps


def test_a_finished_run_resumed_does_nothing(tmp_path):
    train(text_task(), tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    task = text_task()
    _, outcome, events = train(task, tmp_path, resume=True)
    assert events == []
    assert outcome.end == "finished"
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", ["missing", "shape", "dtype of the model", "no progress", "step", "text", "best"])
def test_arrays_that_do_not_fit_the_run_are_refused(tmp_path, change):
    train(text_task(), tmp_path, stop_after=9)
    _, arrays, description, _ = newest(tmp_path)
    if change == "missing":
        del arrays["optimizer.mean.head.bias"]
    elif change == "shape":
        arrays["optimizer.mean.head.bias"] = np.zeros((1,), np.float32)
    elif change == "dtype of the model":
        arrays["head.bias"] = arrays["head.bias"].astype(np.float64)
    elif change == "no progress":
        del description["progress"]
    else:
        description["progress"] |= {"step": {"step": 10**6}, "text": {"step": "x"}, "best": {"best": []}}[change]
    run = Run(text_task(), settings(), tmp_path, {})
    with pytest.raises(InputError, match=r"checkpoint .* (is|has|lacks|does)"):
        run.resume(arrays, description)


# -- the loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_training_lowers_the_loss(tmp_path, kind):
    tokens = np.tile([1, 2, 1, 3, 4, 0], 100)
    task = text_task(tokens=tokens, dropout=0) if kind == "text" else TASKS[kind]()
    _, outcome, events = train(task, tmp_path, epochs=15)
    assert np.mean([e.loss for e in events[-5:]]) < 0.8 * np.mean([e.loss for e in events[:5]])
    scores = [e.score for e in events if e.score is not None]
    assert outcome.best == min(scores) < scores[0]


@pytest.mark.parametrize(("validations", "count"), [(1, 1), (2, 2), (4, 4), (7, 7), (10**6, 21)])
def test_validations_are_spread_evenly_and_come_at_the_end(tmp_path, validations, count):
    task = text_task()
    _, outcome, events = train(task, tmp_path, validations=validations)
    at = [e.step for e in events if e.score is not None]
    assert len(at) == count
    assert at[-1] == outcome.steps == 21
    assert max(np.diff([0, *at])) <= 2 * min(np.diff([0, *at]))


def test_events_count_the_steps(tmp_path):
    task = text_task()
    _, outcome, events = train(task, tmp_path)
    assert [e.step for e in events] == list(range(1, 3 * task.steps_per_epoch + 1))
    assert {e.steps for e in events} == {outcome.steps}
    assert all(math.isfinite(e.norm) and e.norm > 0 for e in events)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_schedule_sets_each_step_s_rate(tmp_path, schedule):
    task = text_task()
    run = Run(task, settings(schedule=schedule, warm_up=3), tmp_path, {})
    factors = []
    update = run.optimizer.update
    run.optimizer.update = lambda gradients, factor, *more: (factors.append(factor), update(gradients, factor, *more))[
        1
    ]
    run.go(lambda event: None, lambda: False)
    assert factors == [run.schedule(step) for step in range(run.steps)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert (factors[-1] < 0.1) == (schedule == "cosine")


def test_gradients_are_clipped(tmp_path):
    tasks = text_task(), text_task()
    for n, (task, clip) in enumerate(zip(tasks, (1e9, 1e-6), strict=True)):
        train(task, tmp_path / str(n), optimizer="sgd", clip=clip)
    first = {name: param.copy() for name, param in text_task().model.params.items()}
    moved = [max(np.max(np.abs(t.model.params[k] - first[k])) for k in first) for t in tasks]
    assert moved[1] < 1e-5 < moved[0]


class Scripted:
    """A task whose validation scores are given, and whose loss may be no number at one step."""

    def __init__(self, scores, bad_step=None, bad=math.nan):
        self.task, self.scores, self.bad_step, self.bad = text_task(), list(scores), bad_step, bad

    def __getattr__(self, name):
        return getattr(self.task, name)

    def begin(self, number):
        self.number = number
        return self.task.begin(number)

    def compute(self):
        loss, gradients = self.task.compute()
        return (self.bad if self.number + 1 == self.bad_step else loss), gradients

    def validate(self):
        return float(self.scores.pop(0)), "scripted"


def test_patience_counts_validations_without_a_better_score(tmp_path):
    task = Scripted([5, 4, 4, 6, 3, 3, 3, 1])
    _, outcome, events = train(task, tmp_path, validations=10, patience=2)
    assert outcome.end == "early"
    assert outcome.best == 4
    assert [e.score for e in events if e.score is not None] == [5, 4, 4, 6]
    assert outcome.step == events[-1].step == 8


def test_without_patience_all_steps_are_done(tmp_path):
    _, outcome, _ = train(Scripted([1.0] * 21), tmp_path, validations=21)
    assert (outcome.end, outcome.best) == ("finished", 1)


def test_an_early_end_stays_the_end_when_resumed(tmp_path):
    train(Scripted([5, 6, 6, 6]), tmp_path, validations=10, patience=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    _, outcome, events = train(Scripted([]), tmp_path, resume=True, validations=10, patience=2)
    assert (outcome.end, outcome.step, outcome.best) == ("early", 6, 5)
    assert events == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_patience_is_counted_across_a_stop(tmp_path):
    train(Scripted([5, 6]), tmp_path, stop_after=5, validations=10, patience=3)
    _, outcome, _ = train(Scripted([6, 6, 6]), tmp_path, resume=True, validations=10, patience=3)
    assert (outcome.end, outcome.step) == ("early", 8)


def test_the_best_model_is_kept_not_the_last(tmp_path):
    seen = []
    run = Run(Scripted([5, 2, 4, 3]), settings(), tmp_path, {})

    def report(event):
        if event.best:
            seen.append((event.step, weights(run.task)))

    run.go(report, lambda: False)
    model, description = checkpoint.load_model(tmp_path / "model.safetensors", "text", NUMPY)
    assert (description["step"], description["score"]) == (seen[-1][0], 2)
    assert len(seen) == 2
    assert {name: param.tobytes() for name, param in model.params.items()} == seen[-1][1]
    assert weights(run.task) != seen[-1][1]


def test_no_number_as_loss_ends_training_with_the_checkpoints_from_before(tmp_path):
    task = Scripted([3, 2, 1, 0], bad_step=12)
    before = {}

    def report(event):
        if event.score is not None:
            before.update({path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")})

    with pytest.raises(TrainingError, match=r"step 12: loss is nan.*smaller learning rate"):
        Run(task, settings(), tmp_path, {}).go(report, lambda: False)
    assert set(before) == {"model.safetensors", *(resume_name(step) for step in (0, 5, 10))}
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    _, description = checkpoint.load_model(tmp_path / "model.safetensors", "text", NUMPY)
    assert description["step"] == 10
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 11


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinity_as_loss_ends_training_too(tmp_path, bad):
    with pytest.raises(TrainingError, match=f"loss is {bad}"):
        train(Scripted([], bad_step=2, bad=bad), tmp_path)


def test_no_number_as_score_ends_training(tmp_path):
    with pytest.raises(TrainingError, match=r"step 5: .*score is nan"):
        train(Scripted([math.nan]), tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [resume_name(0)]


def test_a_learning_rate_beyond_all_measure_is_told(tmp_path):
    with pytest.raises(TrainingError, match="smaller learning rate"):
        train(text_task(), tmp_path, learning_rate=1e38, optimizer="sgd", warm_up=0, clip=1e30)


def test_parameters_do_not_move_in_the_step_that_fails(tmp_path):
    task = Scripted([], bad_step=3)
    kept = []
    with pytest.raises(TrainingError):
        Run(task, settings(), tmp_path, {}).go(lambda event: kept.append(weights(task)), lambda: False)
    assert len(kept) == 2
    assert weights(task) == kept[-1]


def test_the_log_has_a_line_a_step(tmp_path):
    _, _, events = train(text_task(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(e.step, e.loss) for e in events]
    assert [line["score"] for line in lines if "score" in line] == [e.score for e in events if e.score is not None]


def test_a_new_run_does_not_write_over_an_older_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 9}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"log\.jsonl belongs to no run"):
        train(text_task(), tmp_path)
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": 9}]


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        ('{"step": 1, "loss": 2}\n{"step": 2, "lo', [1]),
        ('{"step": 1}\n\x00\x00\n{"step": 2}\n', [1, 2]),
        ('[1]\n7\n{"a": 1}\n{"step": "x"}\n', []),
        ("", []),
    ],
)
def test_torn_lines_of_a_log_are_left_out(tmp_path, content, steps):
    (tmp_path / "log.jsonl").write_text(content, encoding="utf-8")
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == steps


def test_a_log_that_is_not_there_has_no_lines(tmp_path):
    assert read_log(tmp_path / "log.jsonl") == []


def test_both_checkpoints_describe_the_model_and_the_run(tmp_path):
    train(text_task(), tmp_path)
    for name in ("model.safetensors", resume_name(21)):
        _, description = checkpoint.load_model(tmp_path / name, "text", NUMPY)
        assert description["options"] == {"a": 1}
        assert Settings(**description["settings"]) == dataclasses.replace(settings(), shares=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("validations", -1),
        ("patience", -1),
        ("warm_up", -1),
        ("clip", 0),
        ("clip", math.nan),
        ("clip", math.inf),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0), ("learning_rate", math.nan), ("optimizer", "lion"), ("schedule", "step")],
)
def test_a_run_with_unknown_parts_is_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=name):
        Run(text_task(), settings(**{name: value}), tmp_path, {})


# -- what is never trained on -----------------------------------------------------------------------------


def train_and_compare(tmp_path, make, data, changed):
    """Weights after training on data that differ in what must not matter, and the validation scores."""
    tasks = make(data), make(changed)
    scores = [[e.score for e in train(t, tmp_path / str(n))[2] if e.score] for n, t in enumerate(tasks)]
    return weights(tasks[0]) == weights(tasks[1]), scores[0] == scores[1]


def test_the_end_of_the_text_is_held_out(tmp_path):
    tokens = np.random.default_rng(1).integers(0, 6, 300)
    changed = tokens.copy()
    changed[240:] = 5 - changed[240:]
    assert train_and_compare(tmp_path, lambda t: text_task(tokens=t), tokens, changed) == (True, False)


def test_the_end_of_the_series_is_held_out_and_the_last_part_is_not_even_validated_on(tmp_path):
    values, validation, test = wave(), wave(), wave()
    validation[72:96] += 1
    test[96:] += 1
    make = lambda v: series_task(values=v)  # noqa: E731
    assert train_and_compare(tmp_path / "validation", make, values, validation) == (True, False)
    assert train_and_compare(tmp_path / "test", make, values, test) == (True, True)


def test_held_out_and_test_sequences_are_never_trained_on(tmp_path):
    data = sequences()
    _, held_out = split_sequences(data, 0.25, 0)

    def changed(picked):
        values = data.values.copy()
        for n in picked:
            values[data.starts[n] : data.starts[n + 1]] += 3
        return Sequences(data.names, data.classes, values, data.starts, data.labels, data.test)

    make = lambda d: classify_task(data=d)  # noqa: E731
    assert train_and_compare(tmp_path / "held out", make, data, changed(held_out)) == (True, False)
    assert train_and_compare(tmp_path / "test", make, data, changed(np.flatnonzero(data.test))) == (True, True)


@pytest.mark.parametrize("validation", [0.01, 0.25, 0.9])
def test_sequences_are_split_into_parts_that_do_not_meet(validation):
    data = sequences()
    train_part, held_out = split_sequences(data, validation, 0)
    assert sorted([*train_part, *held_out]) == np.flatnonzero(~data.test).tolist()
    assert len(held_out) == max(1, int(32 * validation))


def test_the_split_of_sequences_is_the_seed_s():
    data = sequences()
    one, same, other = (split_sequences(data, 0.25, seed)[1].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_every_epoch_takes_every_sequence_once_in_a_new_order():
    task = classify_task()
    picked = []
    task.data = type("Spy", (), {"batch": lambda self, p: (picked.append(p), sequences().batch(p))[1]})()
    for number in range(2 * task.steps_per_epoch):
        task.step(number)
    epochs = np.concatenate(picked[: 2 * task.steps_per_epoch]).reshape(2, -1).tolist()  # one is made ahead
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(task.train.tolist())
    assert epochs[0] != epochs[1]


def test_series_windows_lie_within_the_training_part_and_reach_its_ends():
    task = series_task(values=np.arange(120.0)[:, None] * [1, 1])
    seen = set()
    forecaster_loss = task.model.loss
    task.model.loss = lambda windows, *more: (seen.update(windows().ravel()), forecaster_loss(windows, *more))[1]
    for number in range(40):
        task.step(number)
    assert (min(seen), max(seen)) == (0, 71)


@pytest.mark.parametrize(
    ("steps", "parts", "ends"), [(100, (0.7, 0.1), (70, 80)), (10, (0.5, 0.5), (5, 10)), (7, (0.5, 0.2), (3, 4))]
)
def test_series_are_split_in_time_order(steps, parts, ends):
    assert split_series(steps, parts) == ends


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((0.7, 0.4), "0.7 and 0.4"),
        ((0, 0.1), "train is 0"),
        ((0.5, 1), "validation is 1"),
        ((math.nan, 0.1), "train is nan"),
    ],
)
def test_shares_that_are_none_are_refused(parts, message):
    with pytest.raises(InputError, match=message):
        split_series(100, parts)


@pytest.mark.parametrize("validation", [0, 1, -0.1, math.nan])
def test_a_validation_share_outside_0_to_1_is_refused(validation):
    with pytest.raises(InputError, match="validation is"):
        TextTask(text_task().model, np.zeros(300, int), 4, 8, validation, 0)
    if validation != 0:  # of sequences all may be trained on
        with pytest.raises(InputError, match="validation is"):
            ClassifyTask(classify_task().model, sequences(), 8, validation, 0)


@pytest.mark.parametrize(
    ("steps", "message"), [(20, "12 steps to train on; expected at least length"), (10, "6 steps to train on")]
)
def test_a_series_too_short_is_refused(steps, message):
    with pytest.raises(InputError, match=message):
        series_task(values=wave(steps))


def test_a_series_without_room_to_validate_is_refused():
    with pytest.raises(InputError, match="2 steps to validate on; expected at least horizon = 3"):
        SeriesTask(series_task().model, wave(), 8, 12, (0.6, 0.02), "mse", 0)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_sequences_are_refused(count):
    with pytest.raises(InputError, match=rf"{count} to train and validate on; expected at least 2"):
        classify_task(data=sequences(10, 10 - count))


def test_a_batch_larger_than_the_data_is_all_of_it():
    task = ClassifyTask(classify_task().model, sequences(), 1000, 0.25, 0)
    assert (task.batch, task.steps_per_epoch) == (24, 1)


# -- measures -------------------------------------------------------------------------------------------


def test_bits_per_token_of_an_even_guess():
    task = text_task()
    task.model.params["head.weight"][...] = 0
    task.model.params["head.bias"][...] = 0
    assert bits_per_token(task.model, task.held_out) == pytest.approx(math.log2(6), abs=1e-6)


def test_forecasts_from_origins_know_only_what_came_before():
    task, values = series_task(), wave()
    changed = values.copy()
    changed[60:] += 100
    origins = np.array([50, 55, 60])
    model = task.model
    forecast = backtest(model, values, origins, 12, block=2)
    assert np.array_equal(forecast, backtest(model, changed, origins, 12, block=2))
    np.testing.assert_allclose(forecast[1], model.forecast(values[43:55, None])[:, 0], atol=1e-6)


def test_forecasts_near_the_start_know_what_there_is():
    assert backtest(series_task().model, wave(), np.array([2, 5]), 12).shape == (2, 3, 2)


def test_class_scores_by_value():
    task = classify_task()
    task.model.params["head.weight"][...] = 0
    task.model.params["head.bias"][...] = [0, math.log(3)]
    loss, accuracy = class_scores(task.model, task.data, np.array([0, 1, 3, 5]), block=3)
    assert accuracy == 0.75
    assert loss == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4, abs=1e-6)
