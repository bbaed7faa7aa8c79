"""The models: gradients by value, carried state, sampling, forecasts, and PyTorch's names for it all."""

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.checks import central_differences
from gpu_lstm.layers import LSTM, Dropout, Linear, Pool
from gpu_lstm.models import MODELS, Classifier, Forecaster, LanguageModel, Regressor, Tagger, compose
from gpu_lstm.models.summaries import framed
from gpu_lstm.optimizers import Adam
from gpu_lstm.training import checkpoint

SERIES = {"mean": [1.0, -2.0], "spread": [2.0, 0.5], "step_spread": [1.0, 0.25]}
FEATURES = {"mean": [0.5, -1.0, 0.0], "spread": [1.0, 2.0, 0.5]}
SEEDS = [pytest.param(None, id="no dropout"), pytest.param((3, 1), id="dropout")]
LENGTHS = np.array([5, 1, 3])


def language(dtype="float64", hidden_size=4, **more):
    return LanguageModel(5, 3, hidden_size, **{"num_layers": 2, **more}, dtype=dtype, backend="numpy")


def forecaster(dtype="float64", **more):
    arguments = {**SERIES, "horizon": 3, "memory": 4, "hidden_size": 4, "num_layers": 2, **more}
    return Forecaster(**arguments, dtype=dtype, backend="numpy")


def classifier(dtype="float64", **more):
    arguments = {**FEATURES, "num_classes": 4, "hidden_size": 3, "num_layers": 2, **more}
    return Classifier(**arguments, dtype=dtype, backend="numpy")


def regressor(dtype="float64", **more):
    units = {"target_mean": [1.0, -3.0], "target_spread": [2.0, 0.5]}
    arguments = {**FEATURES, **units, "hidden_size": 3, "num_layers": 2, **more}
    return Regressor(**arguments, dtype=dtype, backend="numpy")


def tagger(dtype="float64", **more):
    arguments = {**FEATURES, "num_classes": 4, "hidden_size": 3, "num_layers": 2, **more}
    return Tagger(**arguments, dtype=dtype, backend="numpy")


def composed(dtype="float64", dropout=0.0, seed=0):
    where = {"dtype": dtype, "backend": "numpy"}
    return compose(
        lstm=LSTM(3, 4, **where, seed=seed),
        last=Pool("last", **where),
        dropout=Dropout(dropout, **where),
        head=Linear(4, 2, **where, seed=seed + 9),
    )


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tokens(steps=6, batch=2):
    return np.random.default_rng(5).integers(0, 5, (steps, batch))


def check_gradients(model, loss_and_gradients):
    gradients = loss_and_gradients()[1]
    assert gradients.keys() == model.params.keys()
    for name, param in model.params.items():
        expected = central_differences(lambda: float(loss_and_gradients()[0]), param)
        scale = max(np.max(np.abs(expected)), 1e-3)
        np.testing.assert_allclose(gradients[name], expected, rtol=0, atol=1e-6 * scale, err_msg=name)
        assert np.any(expected), name


@pytest.mark.parametrize("seed", SEEDS)
def test_every_gradient_of_the_language_model(seed):
    model = language(dropout=0.4)
    state = (numbers(2, 2, 4, seed=1), numbers(2, 2, 4, seed=2))
    check_gradients(model, lambda: model.loss(tokens(), state, seed)[::2])


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_gradient_of_the_forecaster(seed, loss):
    model = forecaster(dropout=0.4)
    check_gradients(model, lambda: model.loss(numbers(9, 2, 2), 2, loss, seed))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_gradient_of_the_classifier(seed, bidirectional):
    model = classifier(dropout=0.4, bidirectional=bidirectional)
    x = numbers(5, 3, 3)
    check_gradients(model, lambda: model.loss(x, LENGTHS, np.array([0, 3, 1]), seed))


@pytest.mark.parametrize("pooling", [["max"], ["last"], ["mean", "max", "last"]])
@pytest.mark.parametrize("frames", [(1, 1), (3, 2)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_gradient_of_a_classifier_of_other_summaries_and_of_frames(pooling, frames, bidirectional):
    model = classifier(dropout=0.4, bidirectional=bidirectional, pooling=pooling, frames=frames)
    x = numbers(5, 3, 3)
    check_gradients(model, lambda: model.loss(x, LENGTHS, np.array([0, 3, 1]), (3, 1)))


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_gradient_of_the_regressor(seed, bidirectional, loss):
    model = regressor(dropout=0.4, bidirectional=bidirectional)
    x, targets = numbers(5, 3, 3), numbers(3, 2, seed=1)
    check_gradients(model, lambda: model.loss(x, LENGTHS, targets, loss, seed))


LOSSES = {
    "text": lambda model, seed: model.loss(tokens(20, 4), None, seed),
    "series": lambda model, seed: model.loss(numbers(20, 4, 2), 2, "mse", seed),
    "classify": lambda model, seed: model.loss(numbers(5, 3, 3), LENGTHS, np.array([0, 3, 1]), seed),
    "regress": lambda model, seed: model.loss(numbers(5, 3, 3), LENGTHS, numbers(3, 2), "mse", seed),
    "label": lambda model, seed: model.loss(numbers(5, 3, 3), LENGTHS, np.ones((5, 3), np.int64), seed),
    "composed": lambda model, seed: model.loss(numbers(5, 3, 3), numbers(3, 2), "mse", seed),
}
MAKERS = {
    "text": language, "series": forecaster, "classify": classifier, "regress": regressor, "label": tagger,
    "composed": composed,
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_dropout_depends_on_the_seed_alone(kind):
    model = MAKERS[kind](dropout=0.5)
    first, again, other, none = (float(LOSSES[kind](model, seed)[0]) for seed in ((1, 2), (1, 2), (1, 3), None))
    assert first == again
    assert len({first, other, none}) == 3


@pytest.mark.parametrize("kind", MODELS)
def test_the_configuration_makes_the_same_model_again(kind):
    model = MAKERS[kind](seed=7)
    seed = {} if kind == "composed" else {"seed": 7}  # which its layers have
    again = MODELS[kind](**model.config, dtype=model.dtype, backend="numpy", **seed)
    assert again.config == model.config
    if kind == "composed":
        return
    assert all(np.array_equal(again.params[name], param) for name, param in model.params.items())


@pytest.mark.parametrize("kind", MODELS)
def test_parameters_are_the_arrays_that_the_layers_use(kind):
    model = MAKERS[kind]()
    for name, param in model.params.items():
        layer, _, own = name.partition(".")
        assert model.layers[layer].params[own] is param
    assert model.count() == sum(param.size for param in model.params.values())


@pytest.mark.parametrize("kind", MODELS)
def test_the_seed_decides_the_first_parameters(kind):
    one, two, other = (MAKERS[kind](seed=seed).params["lstm.weight_hh_l0"] for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


# -- language model ------------------------------------------------------------------------------------


def test_two_chunks_with_carried_state_say_what_one_long_chunk_says():
    model, ids = language(), tokens(21, 3)
    whole, _ = model.logits(ids)
    first, state = model.logits(ids[:8])
    second, _ = model.logits(ids[8:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-12)
    loss, end, _ = model.loss(ids)
    loss1, state, _ = model.loss(ids[:11])
    loss2, end2, _ = model.loss(ids[10:], state)
    assert (loss1 + loss2) / 2 == pytest.approx(float(loss), abs=1e-12)
    np.testing.assert_allclose(np.stack(end2), np.stack(end), atol=1e-12)


def test_the_loss_is_that_of_evaluate_without_dropout():
    model, ids = language(dropout=0.5), tokens(12, 3)
    loss, state, _ = model.loss(ids)
    value, same = model.evaluate(ids)
    assert value == pytest.approx(float(loss), abs=1e-12)
    assert np.array_equal(np.stack(state), np.stack(same))


def test_the_loss_is_the_mean_of_minus_log_probability():
    model, ids = language(), tokens(7, 2)
    logits, _ = model.logits(ids[:-1])
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    expected = -np.mean(np.take_along_axis(log_p, ids[1:, :, None], axis=2))
    assert float(model.loss(ids)[0]) == pytest.approx(expected, abs=1e-12)


def test_no_token_knows_what_comes_after_it():
    model, ids = language(), tokens(10, 1)
    changed = ids.copy()
    changed[6:] = (changed[6:] + 1) % 5
    before, after = model.logits(ids)[0], model.logits(changed)[0]
    assert np.array_equal(before[:6], after[:6])
    assert not np.array_equal(before[6:], after[6:])


def draw(model, length=60, prompt=(1, 2), **more):
    return list(model.sample(np.array(prompt), length, **more))


def test_samples_are_the_seed_s():
    model = language()
    assert draw(model, seed=3) == draw(model, seed=3)
    assert draw(model, seed=3) != draw(model, seed=4)
    assert len(draw(model, 17)) == 17
    assert draw(model, 0) == []


def test_temperature_0_takes_the_likeliest_after_all_before_it():
    model = language()
    ids = [1, 2]
    for token in draw(model, 12, temperature=0):
        logits, _ = model.logits(np.array(ids)[:, None])
        assert token == np.argmax(logits[-1, 0])
        ids.append(token)


@pytest.mark.parametrize("temperature", [1e-310, 1e-9])
def test_a_temperature_close_to_0_samples_as_0(temperature):
    model = language()
    assert draw(model, 20, temperature=temperature) == draw(model, 20, temperature=0)


@pytest.mark.parametrize("temperature", [0, 0.5, 1, 1e6])
def test_tokens_never_to_be_drawn_are_not(temperature):
    drawn = draw(language(), 200, temperature=temperature, never=(0, 3))
    assert not {0, 3} & set(drawn)


def test_frequencies_follow_the_model_s_probabilities():
    model = language(num_layers=1)
    model.params["head.weight"][...] = 0
    model.params["head.bias"][...] = np.log([0.1, 0.2, 0.3, 0.25, 0.15])
    counts = np.bincount(draw(model, 2000, temperature=1), minlength=5)
    np.testing.assert_allclose(counts / 2000, [0.1, 0.2, 0.3, 0.25, 0.15], atol=0.04)


@pytest.mark.parametrize("temperature", [-1, np.nan, np.inf])
def test_a_temperature_that_means_nothing_is_refused(temperature):
    with pytest.raises(InputError, match="temperature is"):
        draw(language(), temperature=temperature)


def test_a_prompt_of_nothing_is_refused():
    with pytest.raises(InputError, match="prompt is empty"):
        draw(language(), prompt=())


def test_a_language_model_learns_a_repeating_text():
    model = language("float32", 16, num_layers=1)
    optimizer = Adam(model.backend, model.params, 0.02)
    ids = np.tile(np.array([1, 2, 1, 3]), 8)[:, None]
    for _ in range(80):
        optimizer.update(model.loss(ids)[2])
    assert draw(model, 8, (1, 2, 1), temperature=0) == [3, 1, 2, 1, 3, 1, 2, 1]


# -- the same numbers in PyTorch --------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def in_torch(torch, model, path, make):
    """A torch.nn.Module with a layer per `make`, filled strictly from the file that `model` was saved to."""
    from safetensors.numpy import load

    checkpoint.save_model(path, model, checkpoint.description_of(model))
    module = torch.nn.Module()
    for name, layer in make.items():
        module.add_module(name, layer)
    module.to(getattr(torch, model.dtype))
    state = {name: torch.from_numpy(array) for name, array in load(path.read_bytes()).items()}
    module.load_state_dict(state, strict=True)
    return module


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_a_saved_language_model_is_a_torch_model(tmp_path, torch, dtype, tolerance):
    model, ids = language(dtype), tokens(9, 3)
    parts = {"embedding": torch.nn.Embedding(5, 3), "lstm": torch.nn.LSTM(3, 4, 2), "head": torch.nn.Linear(4, 5)}
    module = in_torch(torch, model, tmp_path / "m.safetensors", parts)
    with torch.no_grad():
        h, _ = module.lstm(module.embedding(torch.from_numpy(ids)))
        expected = module.head(h).numpy()
    np.testing.assert_allclose(model.logits(ids)[0], expected, atol=tolerance)


def test_a_saved_forecaster_is_a_torch_model(tmp_path, torch):
    model, history = forecaster(), numbers(9, 3, 2)
    parts = {"lstm": torch.nn.LSTM(4, 4, 2), "head": torch.nn.Linear(4, 6)}
    module = in_torch(torch, model, tmp_path / "m.safetensors", parts)
    with torch.no_grad():
        change = module.head(module.lstm(torch.from_numpy(model.features(history)))[0][-1]).numpy()
    expected = history[-1] + change.reshape(3, 3, 2).transpose(1, 0, 2) * model.spread
    np.testing.assert_allclose(model.forecast(history), expected, atol=1e-12)


def test_a_saved_classifier_is_a_torch_model(tmp_path, torch):
    model, x = classifier(), numbers(5, 3, 3)
    parts = {"lstm": torch.nn.LSTM(3, 3, 2, bidirectional=True), "head": torch.nn.Linear(6, 4)}
    module = in_torch(torch, model, tmp_path / "m.safetensors", parts)
    inputs = torch.from_numpy((x - model.mean) / model.spread)
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.from_numpy(LENGTHS), enforce_sorted=False)
    with torch.no_grad():
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(module.lstm(packed)[0])
        expected = module.head(y.sum(dim=0) / torch.from_numpy(LENGTHS)[:, None]).numpy()
    np.testing.assert_allclose(model.logits(x, LENGTHS), expected, atol=1e-12)


# -- forecaster ------------------------------------------------------------------------------------------


def test_features_by_hand():
    model = Forecaster([0.0], [2.0], [4.0], memory=2, hidden_size=2, dtype="float64", backend="numpy")
    values = np.array([1.0, 5.0, 4.0])[:, None, None]
    # slow mean: 1, then 1 + 4/2 = 3, then 3 + 1/2 = 3.5
    assert model.features(values)[:, 0].tolist() == [[0, 0], [1, 1], [-0.25, 0.25]]


def test_targets_by_hand():
    model = Forecaster([0.0, 0.0], [2.0, 1.0], [1.0, 1.0], horizon=2, hidden_size=2, dtype="float64", backend="numpy")
    values = np.array([[1.0, 10.0], [3.0, 20.0], [7.0, 10.0], [7.0, 40.0]])[:, None, :]
    assert model.targets(values)[:, 0].tolist() == [[1, 10, 3, 0], [2, -10, 2, 20]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int64", "uint64", "float16", "bool"])
def test_whole_numbers_are_converted_before_differences_are_taken(dtype):
    model = Forecaster([0.0], [2.0], [0.5], horizon=2, memory=3, hidden_size=4, dtype="float64", backend="numpy")
    whole = np.array([90, 0, 100, 7, 120, 1, 60], dtype=bool if dtype == "bool" else "int64")
    whole = whole.astype(dtype)[:, None, None]
    values = whole.astype(np.float64)
    np.testing.assert_array_equal(model.features(whole), model.features(values))
    np.testing.assert_array_equal(model.targets(whole), model.targets(values))
    if dtype != "bool":  # which no one means by numbers
        assert model.loss(whole, 1)[0] == model.loss(values, 1)[0]
        np.testing.assert_array_equal(model.forecast(whole), model.forecast(values))


def test_the_loss_compares_the_counted_steps_with_the_targets():
    model, values = forecaster(), numbers(12, 2, 2)
    h, _, _ = model.lstm.forward(model.features(values[:9]))
    prediction, _ = model.head.forward(h[4:])
    expected = np.mean((prediction - model.targets(values)[4:]) ** 2)
    assert float(model.loss(values, 4)[0]) == pytest.approx(expected, abs=1e-12)


def test_a_shift_of_the_history_shifts_the_forecast():
    model, history = forecaster(), numbers(15, 2, 2)
    np.testing.assert_allclose(model.forecast(history + 100), model.forecast(history) + 100, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewer_steps_than_the_horizon_are_its_first(steps):
    model, history = forecaster(), numbers(10, 2, 2)
    assert np.array_equal(model.forecast(history, steps), model.forecast(history)[:steps])


@pytest.mark.parametrize("steps", [4, 6, 8])
def test_beyond_the_horizon_forecasts_are_fed_back(steps):
    model, history = forecaster(), numbers(10, 2, 2)
    known = history
    for _ in range(3):
        known = np.concatenate([known, model.forecast(known)])
    forecast = model.forecast(history, steps)
    assert forecast.shape == (steps, 2, 2)
    np.testing.assert_allclose(forecast, known[10 : 10 + steps], atol=1e-12)


def test_histories_of_a_batch_do_not_touch_one_another():
    model, history = forecaster(), numbers(10, 4, 2)
    alone = np.concatenate([model.forecast(history[:, b : b + 1], 5) for b in range(4)], axis=1)
    np.testing.assert_allclose(model.forecast(history, 5), alone, atol=1e-12)


def test_a_history_of_one_step_is_enough():
    assert forecaster().forecast(numbers(1, 2, 2)).shape == (3, 2, 2)


@pytest.mark.parametrize("shape", [(5, 2), (5, 2, 3), (0, 2, 2), (5, 0, 2)])
def test_a_history_of_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"history has shape .*; expected \(T, B, S=2\)"):
        forecaster().forecast(np.zeros(shape))


@pytest.mark.parametrize(
    ("skip", "loss", "message"),
    [
        (7, "mse", "values has 10 steps"),
        (-1, "mse", "skip is -1; expected a whole number of at least 0"),
        (0, "mape", "loss is 'mape'; expected"),
    ],
)
def test_a_loss_that_can_not_be_taken_is_refused(skip, loss, message):
    with pytest.raises(InputError, match=message):
        forecaster().loss(numbers(10, 2, 2), skip, loss)


@pytest.mark.parametrize("name", ["horizon", "memory", "hidden_size", "num_layers"])
def test_a_forecaster_of_no_size_is_refused(name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        forecaster(**{name: 0})


@pytest.mark.parametrize("steps", [0, -1])
def test_a_forecast_of_no_steps_is_refused(steps):
    with pytest.raises(InputError, match="steps is"):
        forecaster().forecast(numbers(10, 1, 2), steps)


def test_a_forecaster_learns_many_series_at_once():
    t = np.arange(200.0)
    values = np.stack([np.sin(t / 3), 5 + 2 * np.cos(t / 3), 0.1 * np.sin(t / 3)], axis=1)
    model = Forecaster(
        values.mean(0).tolist(),
        values.std(0).tolist(),
        np.diff(values, axis=0).std(0).tolist(),
        horizon=4,
        hidden_size=16,
        backend="numpy",
    )
    optimizer = Adam(model.backend, model.params, 0.01)
    windows = np.stack([values[k : k + 44] for k in range(0, 150, 10)], axis=1)
    for _ in range(80):
        optimizer.update(model.loss(windows, 8)[1])
    error = model.forecast(values[:190, None, :])[:, 0] - values[190:194]
    moved = values[189] - values[190:194]
    assert np.all(np.sqrt(np.mean(error**2, axis=0)) < 0.35 * np.sqrt(np.mean(moved**2, axis=0)))


# -- classifier -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("content", [1e3, np.nan, np.inf])
def test_what_padding_holds_is_ignored(content, bidirectional):
    model, x = classifier(bidirectional=bidirectional), numbers(5, 3, 3)
    labels = np.array([0, 3, 1])
    padded = x.copy()
    for b, length in enumerate(LENGTHS):
        padded[length:, b] = content
    assert np.array_equal(model.logits(padded, LENGTHS), model.logits(x, LENGTHS))
    loss, gradients = model.loss(x, LENGTHS, labels)
    same, equal = model.loss(padded, LENGTHS, labels)
    assert float(loss) == float(same)
    assert all(np.array_equal(gradients[name], equal[name]) for name in gradients)


def test_more_padding_changes_nothing():
    model, x = classifier(), numbers(5, 3, 3)
    longer = np.concatenate([x, numbers(4, 3, 3)])
    np.testing.assert_allclose(model.logits(longer, LENGTHS), model.logits(x, LENGTHS), atol=1e-12)


def test_the_order_of_a_batch_does_not_matter():
    model, x, labels = classifier(), numbers(5, 3, 3), np.array([0, 3, 1])
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(model.logits(x[:, order], LENGTHS[order]), model.logits(x, LENGTHS)[order], atol=1e-12)
    loss, _ = model.loss(x, LENGTHS, labels)
    assert float(model.loss(x[:, order], LENGTHS[order], labels[order])[0]) == pytest.approx(float(loss), abs=1e-12)


def test_the_loss_of_a_classifier_is_that_of_its_scores():
    model, x, labels = classifier(dropout=0.5), numbers(5, 3, 3), np.array([0, 3, 1])
    logits = model.logits(x, LENGTHS)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert float(model.loss(x, LENGTHS, labels)[0]) == pytest.approx(-log_p[np.arange(3), labels].mean(), abs=1e-12)


def test_features_are_measured_in_the_training_data_s_spread():
    model, plain = classifier(), classifier(mean=[0.0] * 3, spread=[1.0] * 3)
    x = numbers(5, 3, 3)
    scaled = (x - np.array(FEATURES["mean"])) / np.array(FEATURES["spread"])
    np.testing.assert_allclose(model.logits(x, LENGTHS), plain.logits(scaled, LENGTHS), atol=1e-12)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_outside_the_classes_is_refused(label):
    for weights in (None, np.ones(4)):
        with pytest.raises(InputError, match="labels has values"):
            classifier().loss(numbers(5, 3, 3), LENGTHS, np.array([0, label, 1]), class_weights=weights)


def test_a_classifier_learns_which_half_is_larger():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(8, 40, 1)), np.arange(40) % 2
    x[:4] += np.where(labels, 1, -1)[:, None]
    x[4:] -= np.where(labels, 1, -1)[:, None]
    lengths = np.full(40, 8)
    model = Classifier([0.0], [1.0], 2, 8, bidirectional=False, backend="numpy")
    optimizer = Adam(model.backend, model.params, 0.02)
    for _ in range(60):
        optimizer.update(model.loss(x, lengths, labels)[1])
    assert np.mean(model.logits(x, lengths).argmax(axis=1) == labels) >= 0.95


def test_summaries_are_of_each_sequence_s_own_steps():
    model, x = classifier(pooling=["last", "mean", "max"]), numbers(5, 3, 3)
    assert model.config["pooling"] == ["mean", "max", "last"]
    scaled = (x - model.mean) / model.spread
    summaries = []
    for b, length in enumerate(LENGTHS):
        y, (h, _), _ = model.lstm.forward(scaled[:length, b : b + 1])
        summaries.append(np.concatenate([y.mean(axis=0)[0], y.max(axis=0)[0], h[-2, 0], h[-1, 0]]))
    expected = np.array(summaries) @ model.params["head.weight"].T + model.params["head.bias"]
    np.testing.assert_allclose(model.logits(x, LENGTHS), expected, atol=1e-12)


def test_frames_put_steps_beside_each_other_and_repeat_the_last_one():
    x = np.arange(10.0).reshape(5, 2, 1)  # 0 2 4 6 8 and 1 3 5 7 9
    frames, lengths = framed(x, np.array([5, 2]), window=3, stride=2)
    assert lengths.tolist() == [3, 1]
    assert frames[:, 0].tolist() == [[0, 2, 4], [4, 6, 8], [8, 8, 8]]
    assert frames[0, 1].tolist() == [1, 3, 3]
    with pytest.raises(InputError, match="lengths has values 0..5; expected 1..T=5"):
        framed(x, np.array([5, 0]), 3, 2)


@pytest.mark.parametrize("pooling", [[], ["median"], "mean", None, 3, [None], np.array(["mean"])])
def test_an_unknown_summary_is_refused(pooling):
    with pytest.raises(InputError, match=r"pooling is .*; expected some of mean, max, last"):
        classifier(pooling=pooling)


def test_a_model_of_the_mean_alone_is_described_as_before_there_was_a_choice():
    assert not {"pooling", "frames"} & classifier(pooling=["mean"], frames=(1, 1)).config.keys()


# -- regressor --------------------------------------------------------------------------------------------


def test_the_loss_of_a_regressor_is_in_units_of_the_targets_spread():
    model, x, targets = regressor(dropout=0.5), numbers(5, 3, 3), numbers(3, 2, seed=1)
    error = (model.predict(x, LENGTHS) - targets) / np.array([2.0, 0.5])
    assert float(model.loss(x, LENGTHS, targets)[0]) == pytest.approx(np.mean(error**2), abs=1e-12)


def test_targets_in_other_units_change_nothing_but_the_units():
    model = regressor()
    other = regressor(target_mean=[10.0, -30.0], target_spread=[20.0, 5.0])
    x = numbers(5, 3, 3)
    np.testing.assert_allclose(other.predict(x, LENGTHS), 10 * model.predict(x, LENGTHS), atol=1e-12)


@pytest.mark.parametrize("targets", [numbers(3), numbers(3, 1), numbers(2, 2), [["a", "b"]] * 3])
def test_targets_of_another_shape_or_kind_are_refused(targets):
    with pytest.raises(InputError, match="targets "):
        regressor().loss(numbers(5, 3, 3), LENGTHS, targets)


def test_a_regressor_s_unknown_loss_is_refused():
    with pytest.raises(InputError, match="loss is 'mape'; expected one of mse"):
        regressor().loss(numbers(5, 3, 3), LENGTHS, numbers(3, 2), "mape")


def test_a_saved_regressor_is_a_torch_model(tmp_path, torch):
    model, x = regressor(), numbers(5, 3, 3)
    parts = {"lstm": torch.nn.LSTM(3, 3, 2, bidirectional=True), "head": torch.nn.Linear(6, 2)}
    module = in_torch(torch, model, tmp_path / "m.safetensors", parts)
    inputs = torch.from_numpy((x - model.mean) / model.spread)
    with torch.no_grad():
        head = module.head(module.lstm(inputs)[0].mean(dim=0)).numpy()
    expected = head * np.array([2.0, 0.5]) + np.array([1.0, -3.0])
    np.testing.assert_allclose(model.predict(x, np.full(3, 5)), expected, atol=1e-12)


def test_a_regressor_learns_sums_and_largest_values():
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(6, 64, 1)), rng.integers(3, 7, 64)
    kept = [x[:length, b, 0] for b, length in enumerate(lengths)]
    targets = np.array([[part.sum(), part.max()] for part in kept])
    model = Regressor([0.0], [1.0], targets.mean(axis=0).tolist(), targets.std(axis=0).tolist(), 16, backend="numpy")
    optimizer = Adam(model.backend, model.params, 0.02)
    for _ in range(150):
        optimizer.update(model.loss(x, lengths, targets)[1])
    error = (model.predict(x, lengths) - targets) / targets.std(axis=0)
    assert np.all(np.mean(error**2, axis=0) < 0.1)
