"""Parts of sequences, batches of similar length, weights of classes, labels of steps."""

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.checks import central_differences
from gpu_lstm.cli import main
from gpu_lstm.cli.sequences import prepare
from gpu_lstm.data.batches import ByLength, blocks, ragged
from gpu_lstm.data.scores import Confusion, errors, summaries
from gpu_lstm.data.sequences import Sequences
from gpu_lstm.data.splits import drawn, truncated, with_test_part
from gpu_lstm.losses.weighted import weighted_cross_entropy
from gpu_lstm.models import MODELS, Classifier, Tagger
from gpu_lstm.parallel import Alone
from gpu_lstm.training import Settings, checkpoint
from gpu_lstm.training.fitting import balanced, epochs_for, frames_for, pooling_for
from gpu_lstm.training.memory import Job, predict
from gpu_lstm.training.tasks import ClassifyTask, LabelTask, class_scores, in_blocks, split_sequences, steps_in_blocks
from tests.support import NUMPY


def sequences(lengths, labels=None, of_steps=False, seed=0):
    lengths = np.asarray(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = np.random.default_rng(seed).normal(size=(starts[-1], 2))
    labels = np.arange(starts[-1] if of_steps else len(lengths)) % 2 if labels is None else np.asarray(labels)
    return Sequences(["a", "b"], ["0", "1"], values, starts, labels, np.zeros(len(lengths), bool), of_steps=of_steps)


def tagger(**more):
    arguments = {"mean": [0.5, -1.0], "spread": [1.0, 2.0], "num_classes": 3, "hidden_size": 3, **more}
    return Tagger(**arguments, dtype="float64", backend="numpy")


# -- parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_a_draw_takes_of_each_class_its_share(share):
    classes = np.repeat([0, 1, 2, 3], [50, 20, 2, 1])
    picked = drawn(share, classes, np.random.default_rng(0))
    counts = np.bincount(classes[picked], minlength=4)
    for count, members in zip(counts, [50, 20, 2], strict=False):
        assert count in (np.floor(members * share), np.ceil(members * share))
        assert count < members
    assert counts[3] == 0  # the only one of its class is never held back


def test_a_draw_is_the_generator_s_and_holds_at_least_one():
    classes = np.repeat([0, 1], 30)
    one, same, other = (drawn(0.2, classes, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1))
    assert one == same != other
    assert drawn(0.01, classes, np.random.default_rng(0)).sum() == 1


def test_validation_is_alike_in_all_classes_and_never_test():
    data = sequences([3] * 60, np.repeat([0, 1], [50, 10]))
    data = with_test_part(data, 0.2, np.random.default_rng(0))
    train, held_out = split_sequences(data, 0.25, 0, alike=True)
    assert np.bincount(data.labels[held_out]).tolist() == [10, 2]
    assert sorted([*train, *held_out]) == np.flatnonzero(~data.test).tolist()
    with pytest.raises(InputError, match="one of each class to train and validate on"):
        split_sequences(sequences([3, 3], [0, 1]), 0.5, 0, alike=True)


@pytest.mark.parametrize(("count", "held"), [(199, 0), (200, 40)])
def test_of_few_sequences_all_are_trained_on_where_no_share_is_asked_for(count, held):
    data = sequences([2] * count, np.arange(count) % 2)
    train, held_out = split_sequences(data, None, 0, alike=True)
    assert (len(train), len(held_out)) == (count - held, held)
    assert [len(part) for part in split_sequences(data, 0, 0)] == [count, 0]


def test_labels_of_steps_count_one_by_one():
    steps = sequences([20] * 15, of_steps=True)  # 15 sequences, 300 labels but for those unknown
    assert len(steps.labels_of(np.arange(15))) >= 200
    assert len(split_sequences(steps, None, 0)[1]) == 3


def run_of(folder, *options):
    """The files of a run on 24 sequences, made without and with a break in the middle."""
    rows = "\n".join(f"{n},{'ab'[n % 2]},{n % 2 + k / 9}" for n in range(24) for k in range(3))
    (folder / "c.csv").write_text(f"series,label,v\n{rows}\n", encoding="utf-8")
    small = ["--hidden-size", "4", "--epochs", "3", "--batch", "8", "--backend", "numpy", "--out", str(folder / "r")]
    return main(["train", "classify", str(folder / "c.csv"), *small, *options])


def test_a_run_that_holds_nothing_out_has_the_last_weights_and_goes_on_as_any(tmp_path, capsys):
    assert run_of(tmp_path) == 0
    told = capsys.readouterr().out
    assert "19 to train on, none held out (--validation), 5 for gpu-lstm evaluate" in told
    assert "all steps done; nothing was held out" in told
    log = (tmp_path / "r" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(log) == 6 and not any("score" in line for line in log)
    best, _ = checkpoint.load(tmp_path / "r" / "model.safetensors")
    last, description = checkpoint.load(tmp_path / "r" / "resume-00000006.safetensors")
    assert all(np.array_equal(best[name], last[name]) for name in best)
    assert description["settings"]["validations"] == 0 and description["options"]["validation"] is None
    more = ["--epochs", "4", "--backend", "numpy"]
    assert main(["train", "classify", "--resume", str(tmp_path / "r"), *more]) == 0
    assert "all steps done; nothing was held out" in capsys.readouterr().out
    after, about = checkpoint.load(tmp_path / "r" / "model.safetensors")
    assert about["step"] == 8 and not all(np.array_equal(after[name], best[name]) for name in best)


def test_a_model_that_holds_nothing_out_and_is_no_better_than_the_largest_class_says_so(tmp_path, capsys):
    assert run_of(tmp_path, "--learning-rate", "1e-9", "--seed", "1") == 0
    assert "note: the model is no better than the largest class alone" in capsys.readouterr().out


def test_stopping_early_needs_something_held_out(tmp_path, capsys):
    assert run_of(tmp_path, "--patience", "2") == 2
    assert "--patience is 2, and nothing is held out; expected --validation 0.2, or 0" in capsys.readouterr().err
    assert run_of(tmp_path, "--patience", "2", "--validation", "0.3") == 0


@pytest.mark.parametrize("of_steps", [False, True])
def test_truncated_sequences_keep_their_first_steps_and_labels(of_steps):
    data = sequences([2, 5], of_steps=of_steps)
    cut = truncated(data, 3)
    assert cut.lengths.tolist() == [2, 3]
    assert np.array_equal(cut.values, data.values[:5])
    assert cut.labels.tolist() == (data.labels[:5] if of_steps else data.labels).tolist()


# -- batches ----------------------------------------------------------------------------------------------

LENGTHS = np.array([20_000, *np.random.default_rng(0).integers(5, 60, 300)])


def test_batches_by_length_take_all_once_and_never_many_of_the_longest():
    plan, rng = ByLength(LENGTHS, 32), np.random.default_rng(0)
    most = 1.25 * 32 * 4 * LENGTHS.mean()
    for _ in range(3):
        batches = plan.epoch(rng)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
        for batch in batches:
            padded = LENGTHS[batch].max() * len(batch)
            assert padded <= plan.largest[0] * plan.largest[1]
            assert len(batch) == 1 or padded <= most
    assert plan.largest == (20_000, 1)
    one, other = plan.epoch(np.random.default_rng(1)), plan.epoch(np.random.default_rng(2))
    assert [len(batch) for batch in one] != [len(batch) for batch in other] or one[0].tolist() != other[0].tolist()


def test_sequences_of_about_one_length_keep_their_batches():
    assert not ragged(np.array([7, 29, 16, 20]))
    data = sequences([7, 9, 8, 7, 9, 8])
    made = [
        ClassifyTask(Classifier([0, 0], [1, 1], 2, 4, backend=NUMPY), data, 2, 0.2, 0, by_length=by)
        for by in (True, False)
    ]
    assert made[0].plan is None
    for number in range(4):
        for one, other in zip(made[0]._batch(number), made[1]._batch(number), strict=True):
            assert np.array_equal(one, other)


def test_batches_of_very_different_lengths_are_the_seed_s_and_the_number_s():
    data = sequences(np.where(np.arange(40) == 7, 200, 4))
    make = lambda: ClassifyTask(Classifier([0, 0], [1, 1], 2, 4, backend=NUMPY), data, 8, 0.2, 0)  # noqa: E731
    task = make()
    assert task.plan is not None
    first = [task._batch(number) for number in range(2 * task.steps_per_epoch)]
    for number in (3, 0, task.steps_per_epoch + 1):
        for one, other in zip(make()._batch(number), first[number], strict=True):
            assert np.array_equal(one, other)


def test_answers_come_in_order_whatever_the_lengths():
    data = sequences([3, 400, 5, 2, 7, 4, 3, 6])
    model = Classifier([0, 0], [1, 1], 2, 4, backend=NUMPY, dtype="float64")
    said = in_blocks(model.logits, data, np.array([1, 0, 4]), 2)
    for row, n in zip(said, (1, 0, 4), strict=True):
        np.testing.assert_allclose(row, model.logits(*data.batch(np.array([n]))[:2])[0], atol=1e-12)
    assert sorted(np.concatenate(blocks(data.lengths, 3)).tolist()) == list(range(8))
    steps = steps_in_blocks(tagger().logits, data, np.array([1, 0]), 2)
    assert len(steps) == 403
    np.testing.assert_allclose(steps[400:], tagger().logits(*data.batch(np.array([0]))[:2])[:, 0], atol=1e-12)


def test_one_long_sequence_does_not_ask_for_gigabytes(tmp_path):
    rows = ["id,label,u"]
    for n, length in enumerate(LENGTHS[:101]):
        rows += [f"{n},{n % 2},{(n * k) % 7}.5" for k in range(length)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    plain = {
        "data": str(tmp_path / "t.csv"), "label": "label", "series": "id", "columns": None, "validation": 0.2,
        "seed": 0, "one_direction": False, "hidden_size": 64, "num_layers": 1, "dropout": 0.2, "batch": 32, "rules": 2,
    }  # fmt: skip

    def peak(**more):
        recipe = prepare(plain | more, NUMPY, None, Alone(), "classify")
        return predict(Job("classify", recipe.config, "float32", "adamw", recipe.steps, recipe.batch)).peak

    assert 1.5e9 < peak(rules=1) < 5e9
    assert peak() < 2.5e8
    assert peak(truncate=60) < 3e7


# -- weights ----------------------------------------------------------------------------------------------


def test_weighted_cross_entropy_by_value():
    rng = np.random.default_rng(0)
    logits, targets, weights = rng.normal(size=(5, 3)), np.array([0, 2, 1, 2, 0]), np.array([1.0, 0.0, 2.5, 0.5, 1.0])
    loss, gradient = weighted_cross_entropy(NUMPY, logits, targets, weights)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert float(loss) == pytest.approx(np.mean(-weights * np.log(shares[np.arange(5), targets])))
    expected = central_differences(lambda: float(weighted_cross_entropy(NUMPY, logits, targets, weights)[0]), logits)
    np.testing.assert_allclose(gradient, expected, atol=1e-8)


def test_balanced_weights_have_classes_count_alike():
    weights = balanced(np.array([0] * 8 + [2] * 2), 4)
    assert weights.tolist() == [0.625, 0.0, 2.5, 0.0]
    assert weights[np.array([0] * 8 + [2] * 2)].mean() == 1


def test_a_weighted_loss_of_a_classifier_is_that_of_repeated_sequences():
    model = Classifier([0.0, 0.0], [1.0, 1.0], 2, 3, pooling=["mean", "max", "last"], dtype="float64", backend="numpy")
    data = sequences([4, 4, 4], [0, 0, 1])
    loss, found = model.loss(*data.batch(np.arange(3)), class_weights=np.array([0.75, 1.5]))
    repeated, expected = model.loss(*data.batch(np.array([0, 1, 2, 2])))
    assert float(loss) == pytest.approx(float(repeated))
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-12)
    with pytest.raises(InputError, match="labels has values 0..2; expected 0..num_classes-1=1"):
        model.loss(*data.batch(np.arange(3))[:2], np.array([0, 2, 1]), class_weights=np.ones(2))


def test_weights_of_classes_count_in_the_score_too():
    data = sequences([3] * 4, [0, 0, 0, 1])
    model = Classifier([0.0, 0.0], [1.0, 1.0], 2, 3, backend="numpy")
    model.params["head.weight"][...] = 0
    model.params["head.bias"][...] = [np.log(3), 0]
    loss, accuracy = class_scores(model, data, np.arange(4), class_weights=np.array([2 / 3, 2.0]))
    assert loss == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2, abs=1e-6)
    assert accuracy == 0.75


# -- labels of steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weights", [None, np.array([0.5, 2.0, 1.0])])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_gradient_of_the_tagger(bidirectional, class_weights):
    model = tagger(dropout=0.4, bidirectional=bidirectional, num_layers=2)
    rng = np.random.default_rng(0)
    x, lengths, labels = rng.normal(size=(5, 3, 2)), np.array([5, 1, 3]), rng.integers(0, 3, (5, 3))
    labels[2, 0] = -1
    loss = lambda: model.loss(x, lengths, labels, (3, 1), class_weights)  # noqa: E731
    gradients = loss()[1]
    assert gradients.keys() == model.params.keys()
    for name, param in model.params.items():
        expected = central_differences(lambda: float(loss()[0]), param)
        np.testing.assert_allclose(gradients[name], expected, rtol=0, atol=1e-6, err_msg=name)
        assert np.any(expected), name


def test_the_tagger_s_loss_is_the_mean_over_steps_that_have_a_label():
    model, rng = tagger(), np.random.default_rng(0)
    x, lengths, labels = rng.normal(size=(4, 2, 2)), np.array([4, 2]), rng.integers(0, 3, (4, 2))
    labels[1, 0] = -1
    scores = model.logits(x, lengths)
    logs = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    kept = [-logs[t, b, labels[t, b]] for b in range(2) for t in range(lengths[b]) if labels[t, b] >= 0]
    assert float(model.loss(x, lengths, labels)[0]) == pytest.approx(np.mean(kept))
    changed = labels.copy()
    changed[2:, 1] = 2  # beyond the end
    assert float(model.loss(x, lengths, changed)[0]) == float(model.loss(x, lengths, labels)[0])


def test_a_tagger_learns_the_sign_of_what_came_before(tmp_path):
    data = sequences(np.random.default_rng(1).integers(4, 9, 80), of_steps=True)
    data.labels[:] = np.concatenate(
        [np.cumsum(data.values[a:b, 0]) > 0 for a, b in zip(data.starts, data.starts[1:], strict=False)]
    )
    from gpu_lstm.training import Training

    task = LabelTask(Tagger([0.0, 0.0], [1.0, 1.0], 2, 16, backend="numpy"), data, 20, 0.2, 0)
    Training(task, Settings(epochs=60, learning_rate=0.02, validations=4)).go(lambda event: None)
    assert task.best[1] > 0.9
    assert task.remark(task.best[0]) == ""


def test_a_model_no_better_than_the_largest_class_is_said():
    task = ClassifyTask(
        Classifier([0, 0], [1, 1], 2, 4, backend=NUMPY), sequences([3] * 20, [0] * 16 + [1] * 4), 4, 0.5, 0
    )
    assert task.remark(task.best[0]) == ""  # nothing was measured yet
    task.model.params["head.bias"][...] = [9, -9]
    task.validate()
    assert "no better than the largest class alone" in task.remark(task.best[0])


# -- scores -----------------------------------------------------------------------------------------------


def test_confusion_recall_and_the_majority():
    found = Confusion.of(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0]), 3)
    assert found.counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(found.recall, [2 / 3, 0.5, np.nan])
    np.testing.assert_allclose(found.precision, [2 / 3, 0.5, np.nan])
    assert found.balanced == pytest.approx(7 / 12)
    assert (found.accuracy, found.majority, found.largest) == (0.6, 0.6, 0)


def test_errors_of_numbers():
    targets = np.array([[0.0, 5.0], [2.0, 5.0]])
    found = errors(np.array([[0.0, 6.0], [1.0, 6.0]]), targets)
    np.testing.assert_allclose(found["RMSE"], [np.sqrt(0.5), 1])
    np.testing.assert_allclose(found["MAE"], [0.5, 1])
    np.testing.assert_allclose(found["R^2"], [0.5, np.nan])


def test_summaries_of_sequences():
    data = sequences([3, 1])
    rows = summaries(data, np.array([1, 0]))
    assert rows.shape == (2, 13)
    np.testing.assert_allclose(rows[1, :2], data.values[:3].mean(axis=0))
    np.testing.assert_allclose(rows[1, 6:8], data.values[:3].max(axis=0))
    assert rows[:, -1].tolist() == [1, 3]


# -- what follows from the data ---------------------------------------------------------------------------


def test_few_sequences_get_more_epochs_and_long_ones_are_framed():
    assert (epochs_for(1), epochs_for(6), epochs_for(100)) == (400, 67, 60)
    assert frames_for(np.array([24, 24])) == (1, 1)
    assert (pooling_for((1, 1)), pooling_for((4, 2))) == (("mean",), ("mean", "max", "last"))
    assert frames_for(np.array([150] * 3 + [20_000])) == (8, 4)


@pytest.mark.parametrize(("asked", "steps", "expected"), [(0.1, 200, 20), (0, 200, 0), (50, 200, 50), (50, 20, 20)])
def test_warm_up_is_a_share_or_a_number_of_steps(asked, steps, expected):
    assert Settings(epochs=1, learning_rate=1, warm_up=asked).warm_up_steps(steps) == expected
    with pytest.raises(InputError, match="warm_up is 1.5"):
        Settings(epochs=1, learning_rate=1, warm_up=1.5)


@pytest.mark.parametrize("kind", ["label", "regress"])
def test_a_dry_run_knows_the_memory_of_all_kinds(kind, tmp_path, capsys):
    rows = [f"{n},{k % 2},{k}.5,{n}" for n in range(9) for k in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["series,label,u,y", *rows]))
    what = ["--target", "y"] if kind == "regress" else []
    assert (
        main(["train", kind, str(tmp_path / "t.csv"), *what, "--columns", "u", "--dry-run", "--backend", "numpy"]) == 0
    )
    assert "peak" in capsys.readouterr().out
    assert kind in MODELS
