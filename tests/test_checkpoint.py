"""Checkpoints: what was saved comes back; anything else is refused in one sentence."""

import hashlib
import io
import json
import os
import re

import numpy as np
import pytest
from safetensors.numpy import save as to_bytes

from gpu_lstm import InputError
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.errors import BackendError
from gpu_lstm.layers import LSTM, Linear
from gpu_lstm.models import MODELS, Classifier, Forecaster, LanguageModel, Regressor, Tagger, compose
from gpu_lstm.native import compiled
from gpu_lstm.training import checkpoint

NUMPY = NumpyBackend()
MAKERS = {
    "text": lambda dtype: LanguageModel(5, 3, 4, 2, dropout=0.1, backend=NUMPY, dtype=dtype, seed=3),
    "series": lambda dtype: Forecaster([0.1], [0.7], [1 / 3], 3, 4, 4, backend=NUMPY, dtype=dtype, seed=3),
    "classify": lambda dtype: Classifier([0.0], [1.0], 3, 4, backend=NUMPY, dtype=dtype, seed=3),
    "regress": lambda dtype: Regressor([0.0], [1.0], [2.0], [3.0], 4, backend=NUMPY, dtype=dtype, seed=3),
    "label": lambda dtype: Tagger([0.0], [1.0], 3, 4, backend=NUMPY, dtype=dtype, seed=3),
    "composed": lambda dtype: compose(
        lstm=LSTM(1, 4, backend=NUMPY, dtype=dtype, seed=3), head=Linear(4, 2, backend=NUMPY, dtype=dtype, seed=4)
    ),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def model():
    return MAKERS["text"]("float32")


def saved(path, **more):
    one = model()
    checkpoint.save_model(path, one, checkpoint.description_of(one, **more))
    return one


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_model_comes_back_bit_for_bit(path, kind, dtype):
    one = MAKERS[kind](dtype)
    checkpoint.save_model(path, one, checkpoint.description_of(one, note="é", options={"a": [1, None]}))
    again, description = checkpoint.load_model(path, kind, NUMPY)
    assert type(again) is type(one)
    assert (again.config, again.dtype) == (one.config, dtype)
    assert description["note"] == "é"
    assert description["options"] == {"a": [1, None]}
    assert again.params.keys() == one.params.keys()
    assert all(again.params[name].tobytes() == param.tobytes() for name, param in one.params.items())


def test_tensors_have_torch_s_names_and_shapes(path):
    saved(path)
    arrays, _ = checkpoint.load(path)
    expected = {"embedding.weight": (5, 3), "head.weight": (5, 4), "head.bias": (5,)}
    for layer, width in ((0, 3), (1, 4)):
        expected |= {f"lstm.weight_ih_l{layer}": (16, width), f"lstm.weight_hh_l{layer}": (16, 4)}
        expected |= {f"lstm.bias_{part}_l{layer}": (16,) for part in ("ih", "hh")}
    assert {name: array.shape for name, array in arrays.items()} == expected


def test_both_directions_have_torch_s_names(path):
    one = MAKERS["classify"]("float32")
    checkpoint.save_model(path, one, checkpoint.description_of(one))
    names = checkpoint.load(path)[0]
    assert {"lstm.weight_ih_l0_reverse", "lstm.bias_ih_l0_reverse", "lstm.bias_hh_l0_reverse"} <= names.keys()


def test_two_biases_of_another_program_are_added_up(path):
    saved(path)
    arrays, description = checkpoint.load(path)
    arrays["lstm.bias_hh_l0"] = np.arange(16, dtype=np.float32)
    checkpoint.save(path, arrays, description)
    again, _ = checkpoint.load_model(path, "text", NUMPY)
    assert np.array_equal(again.params["lstm.bias_l0"], arrays["lstm.bias_ih_l0"] + arrays["lstm.bias_hh_l0"])


def test_saving_makes_the_folder_and_leaves_only_the_file(tmp_path):
    saved(tmp_path / "a" / "b" / "m.safetensors")
    assert os.listdir(tmp_path / "a" / "b") == ["m.safetensors"]


def test_arrays_that_are_not_contiguous_are_saved_by_value(path):
    array = np.arange(12.0).reshape(3, 4)
    checkpoint.save(path, {"a": array.T, "b": array[:, ::2]}, {})
    arrays, _ = checkpoint.load(path)
    assert np.array_equal(arrays["a"], array.T)
    assert np.array_equal(arrays["b"], array[:, ::2])


@pytest.mark.parametrize("kind", ["series", "classify"])
def test_a_model_of_another_kind_is_refused(path, kind):
    saved(path)
    with pytest.raises(InputError, match=f"is of kind 'text'; expected '{kind}'"):
        checkpoint.load_model(path, kind, NUMPY)


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=r"checkpoint .*model\.safetensors does not exist"):
        checkpoint.load(path)


@pytest.mark.parametrize("share", [0, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_a_half_written_file_is_refused(path, share):
    saved(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged, half-written or no checkpoint"):
        checkpoint.load(path)


def test_a_file_cut_anywhere_in_its_head_is_refused(path):
    saved(path)
    content = path.read_bytes()
    for length in range(0, 400, 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="half-written"):
            checkpoint.load(path)


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_are_refused(path, seed):
    path.write_bytes(np.random.default_rng(seed).bytes(50 * seed + 1))
    with pytest.raises(InputError, match="damaged, half-written or no checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content", [b"text\n", b"PK\x03\x04", b"\x80\x02}q", b"\x00" * 64, b"\x02" + b"\x00" * 7 + b"{}"]
)
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"half-written or no checkpoint|not written by gpu_lstm"):
        checkpoint.load(path)


@pytest.mark.parametrize("header", [None, {}, {"format": "pt"}])
def test_safetensors_of_another_program_are_refused(path, header):
    path.write_bytes(to_bytes({"a": np.zeros(3)}, header))
    with pytest.raises(InputError, match="was not written by gpu_lstm"):
        checkpoint.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"a"', "{}", "[1]"])
def test_a_damaged_description_is_refused(path, text):
    path.write_bytes(to_bytes({"a": np.zeros(3)}, {"gpu_lstm": text}))
    with pytest.raises(InputError, match="has a damaged description"):
        checkpoint.load(path)


def test_a_format_of_later_days_is_refused(path):
    checkpoint.save(path, {"a": np.zeros(3)}, {"format": 3})
    with pytest.raises(InputError, match="has format 3; expected 2"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": {}},
        {"model": {"vocabulary_size": 0}},
        {"model": {"vocabulary_size": "5"}},
        {"model": {"vocabulary_size": 5, "hidden_size": 2.5}},
        {"model": {"vocabulary_size": 5, "wings": 2}},
        {"model": {"vocabulary_size": 5, "dropout": 3}},
        {"model": {"vocabulary_size": 5, "dropout": "much"}},
        {"model": [5]},
        {"dtype": "int8"},
        {"dtype": None},
    ],
)
def test_a_description_of_no_model_is_refused(path, change):
    saved(path)
    arrays, description = checkpoint.load(path)
    checkpoint.save(path, arrays, description | change)
    with pytest.raises(InputError, match="has a damaged description: "):
        checkpoint.load_model(path, "text", NUMPY)


@pytest.mark.parametrize("key", ["model", "dtype"])
def test_a_description_that_lacks_a_part_is_refused(path, key):
    saved(path)
    arrays, description = checkpoint.load(path)
    checkpoint.save(path, arrays, {k: v for k, v in description.items() if k != key})
    with pytest.raises(InputError, match=f"has a damaged description: '{key}'"):
        checkpoint.load_model(path, "text", NUMPY)


@pytest.mark.parametrize("name", ["embedding.weight", "lstm.bias_hh_l1", "head.bias"])
def test_a_missing_tensor_is_named(path, name):
    saved(path)
    arrays, description = checkpoint.load(path)
    del arrays[name]
    checkpoint.save(path, arrays, description)
    with pytest.raises(InputError, match=rf"does not fit its own description: {re.escape(name)} is nothing"):
        checkpoint.load_model(path, "text", NUMPY)


@pytest.mark.parametrize(
    "array", [np.zeros((5, 4), np.float32), np.zeros((), np.float32), np.zeros((5, 3)), np.zeros((5, 3), np.int32)]
)
def test_a_tensor_of_another_shape_or_dtype_is_named(path, array):
    saved(path)
    arrays, description = checkpoint.load(path)
    checkpoint.save(path, arrays | {"embedding.weight": array}, description)
    message = rf"embedding\.weight is {array.dtype} {re.escape(str(array.shape))}; expected float32 \(5, 3\)"
    with pytest.raises(InputError, match=message):
        checkpoint.load_model(path, "text", NUMPY)


def test_nothing_is_filled_in_where_one_tensor_does_not_fit(path):
    one = saved(path)
    arrays, _ = checkpoint.load(path)
    arrays = {name: array + 1 for name, array in arrays.items()} | {"head.bias": np.zeros(4, np.float32)}
    kept = {name: param.copy() for name, param in one.params.items()}
    with pytest.raises(InputError):
        checkpoint.assign(one, arrays, path)
    assert all(np.array_equal(one.params[name], kept[name]) for name in kept)


def test_a_tier_that_the_backend_lacks_is_told_as_such(path, monkeypatch):
    saved(path)
    monkeypatch.setattr(compiled, "missing", lambda: "not compiled")
    with pytest.raises(BackendError, match="tier sequence can't run on backend numpy: not compiled"):
        checkpoint.load_model(path, "text", NumpyBackend(), "sequence")


@pytest.mark.parametrize("place", ["replace", "fsync", "write"])
def test_a_failed_write_leaves_the_old_file_whole(path, monkeypatch, place):
    one = saved(path)
    before = path.read_bytes()
    one.params["head.bias"][...] += 1

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    if place == "write":
        real_open = open

        def failing_open(*arguments):
            file = real_open(*arguments, buffering=0)
            file.write(b"the first part")
            file.close()
            fail()

        monkeypatch.setattr(checkpoint, "open", failing_open, raising=False)
    else:
        monkeypatch.setattr(os, place, fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_model(path, one, checkpoint.description_of(one))
    monkeypatch.undo()
    assert path.read_bytes() == before
    checkpoint.load_model(path, "text", NUMPY)


def test_after_a_failed_write_the_next_one_succeeds(path, monkeypatch):
    one = saved(path)
    path.with_name(path.name + checkpoint.PART).write_bytes(b"left behind")
    one.params["head.bias"][...] += 1
    checkpoint.save_model(path, one, checkpoint.description_of(one))
    again, _ = checkpoint.load_model(path, "text", NUMPY)
    assert np.array_equal(again.params["head.bias"], one.params["head.bias"])
    assert os.listdir(path.parent) == [path.name]


def test_the_new_file_is_on_the_disk_before_it_gets_its_name(path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names)))
    checkpoint.write_whole(path, b"content")
    assert order[:2] == ["fsync", "replace"]


def test_the_description_is_plain_json_in_the_header(path):
    saved(path, step=7)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    description = json.loads(header["__metadata__"]["gpu_lstm"])
    assert (description["format"], description["kind"], description["step"]) == (2, "text", 7)
    assert (
        description["sha256"] == hashlib.sha256(content.replace(description["sha256"].encode(), b"0" * 64)).hexdigest()
    )


# -- bytes that changed, numbers that are none ------------------------------------------------------------------------


def test_any_changed_byte_is_found_wherever_the_file_has_gone(path, tmp_path):
    saved(path, step=7)
    content = path.read_bytes()
    moved = tmp_path / "elsewhere" / "renamed.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(content)
    checkpoint.load(moved)
    places = {*range(0, 12), *range(12, len(content), 17), content.index(b"sha256"), len(content) - 1}
    for at in places:
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        moved.write_bytes(changed)
        with pytest.raises(InputError, match=r"renamed\.safetensors (is|has|was)"):
            checkpoint.load(moved)


def test_a_checkpoint_of_the_format_before_has_no_checksum_and_loads(path):
    one = saved(path)
    header = {"gpu_lstm": json.dumps({"format": 1, **checkpoint.description_of(one)})}
    path.write_bytes(to_bytes(checkpoint.to_torch_names(one.params, NUMPY), header))
    again, description = checkpoint.load_model(path, "text", NUMPY)
    assert description["format"] == 1
    assert all(np.array_equal(again.params[name], param) for name, param in one.params.items())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(path, value):
    one = model()
    one.params["head.bias"][2:4] = value
    checkpoint.save_model(path, one, checkpoint.description_of(one))
    with pytest.raises(InputError, match=r"can't be used: 2 of 5 numbers in head\.bias aren't finite"):
        checkpoint.load_model(path, "text", NUMPY)


# -- what is written over, and what errors name -----------------------------------------------------------------------


def test_a_file_that_is_being_written_has_a_name_like_no_other(path):
    theirs = path.with_name(path.name + ".part")
    theirs.write_bytes(b"half of a download")
    saved(path)
    assert theirs.read_bytes() == b"half of a download"
    assert sorted(os.listdir(path.parent)) == [path.name, theirs.name]


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(InputError, match="is no file; expected one that may be replaced"):
            checkpoint.write_whole(tmp_path / name, b"content")
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "ours").symlink_to("theirs")
    checkpoint.write_whole(tmp_path / "ours", b"ours")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert (tmp_path / "ours").read_bytes() == b"ours"


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_full_disk_is_told_with_the_path(path, monkeypatch, name):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    class Full(io.BytesIO):
        write = fail

    if name == "write":
        monkeypatch.setattr(checkpoint, "open", lambda *arguments: Full(), raising=False)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*model\.safetensors"):
        checkpoint.write_whole(path, b"content")
