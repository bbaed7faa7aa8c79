"""What a training run is asked to be: on the same data, by the same options, in a folder with files of others."""

import csv
import hashlib
import json
import lzma
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.cli import check, main, pictures, runs, train
from gpu_lstm.data import files, fingerprint, text
from gpu_lstm.training import checkpoint
from gpu_lstm.training.folder import BEST, LOG, MADE, MANIFEST, OURS, newest, read_log, repair_manifest, resume_name
from tests.test_bench_cli import make_small

SMALL = ["--hidden-size", "4", "--batch", "4", "--epochs", "2", "--backend", "numpy"]
COMMANDS = {
    "text": ["--embedding-size", "3", "--length", "8", "--sample-length", "0"],
    "series": ["--length", "8", "--horizon", "2"],
    "classify": ["--dropout", "0"],
}


def write_text(path):
    path.write_text("to be or not to be, that is the question\n" * 30)


def write_series(path):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *([f"{n % 7}", f"{n % 5}.5"] for n in range(200))])


def write_sequences(path):
    rows = [[n, n % 2, (n * step) % 3 + n % 2, "test" if n > 25 else "train"] for n in range(30) for step in range(5)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["series", "label", "x", "split"], *rows])


WRITE = {"text": write_text, "series": write_series, "classify": write_sequences}


LOSS_CURVE = pictures.loss_curve


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """Drawing the curve would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "loss_curve", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data and an unfinished run of each kind, made once."""
    base = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(base)
    try:
        for kind, write in WRITE.items():
            write(base / f"{kind}.dat")
            stopped(kind, f"{kind}.dat", kind)
    finally:
        os.chdir(before)
    return base


def stopped(kind, data, out, *more):
    """Train and stop after step 3, as after Ctrl-C."""
    with pytest.MonkeyPatch.context() as patch:
        go = runs.Run.go
        patch.setattr(runs.Run, "go", lambda self, report, stop: go(self, report, lambda: self.step == 3))
        assert main(["train", kind, data, *SMALL, *COMMANDS[kind], "--out", out, *more]) == 130


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of `made`, as the current folder; its checkpoints name the data in it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # slow on a busy disk
    for path in Path().glob("*/*.safetensors"):
        arrays, description = checkpoint.load(path)
        description["options"]["data"] = str(tmp_path / Path(description["options"]["data"]).name)
        rewrite(path, arrays, description)
    return tmp_path


def rewrite(path, arrays, description):
    """Put another checkpoint in the place of one, whole and named by the manifest."""
    content = checkpoint.pack(arrays, description)
    manifest = json.loads((path.parent / MANIFEST).read_bytes())
    manifest["files"][path.name] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_bytes(content)
    (path.parent / MANIFEST).write_text(json.dumps(manifest))


def refused(capsys, *arguments):
    """The one line that a command says before it leaves with status 2, and what it printed before."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said.err


def content_of(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != "lock"}


# -- the same data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITE)
def test_data_that_changed_are_refused_by_their_content(here, capsys, kind):
    data = Path(f"{kind}.dat")
    content = data.read_bytes()
    before = content_of(kind)
    data.write_bytes(content[:-3] + (b"5" if content[-3:-2] != b"5" else b"4") + content[-2:])
    assert "another content than what the run trained on" in refused(capsys, "train", "--resume", kind)
    data.write_bytes(content + content[-20:])
    told = f"has {len(content) + 20} bytes; the run trained on {len(content)}"
    assert told in refused(capsys, "train", "--resume", kind)
    data.unlink()
    assert "does not exist" in refused(capsys, "train", "--resume", kind)
    assert content_of(kind) == before


@pytest.mark.parametrize("kind", WRITE)
def test_data_that_were_only_touched_or_moved_go_on_to_the_same_weights(here, capsys, kind):
    os.utime(f"{kind}.dat", (1, 1))
    shutil.copytree(kind, "again")
    assert main(["train", "--resume", kind]) == 0
    assert f"data: {here / kind}.dat, as" in capsys.readouterr().out
    Path(f"{kind}.dat").rename("moved.dat")
    assert main(["train", kind, "moved.dat", "--resume", "again"]) == 0
    one, other = (newest(Path(folder)) for folder in (kind, "again"))
    assert one[1].keys() == other[1].keys()
    assert all(np.array_equal(one[1][name], other[1][name]) for name in one[1])
    assert other[2]["options"]["data"] == str(here / "moved.dat")
    assert "has another content" in refused(capsys, "train", kind, changed_copy("moved.dat"), "--resume", "again")


def changed_copy(path):
    content = bytearray(Path(path).read_bytes())
    content[-2] ^= 1
    Path("changed.dat").write_bytes(content)
    return "changed.dat"


@pytest.mark.parametrize("packed", ["folder", "text.xz", "streamed"])
def test_a_folder_a_packed_and_a_streamed_text_are_told_from_changed_ones(tmp_path, monkeypatch, capsys, packed):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / packed
    if packed == "folder":
        data.mkdir()
        write_text(data / "a")
        write_text(data / "b")
        changed = data / "b"
    elif packed == "streamed":
        monkeypatch.setattr(files, "IN_MEMORY", 100)
        write_text(data)
        changed = data
    else:
        data.write_bytes(lzma.compress(b"to be or not to be, that is the question\n" * 30))
        changed = data
    stopped("text", packed, "run")
    content = changed.read_bytes()
    if packed == "text.xz":
        changed.write_bytes(lzma.compress(b"to be or not to be, that is the Question\n" * 30))
    else:
        changed.write_bytes(content.replace(b"question", b"Question", 1))
    assert "the run trained on" in refused(capsys, "train", "--resume", "run")
    changed.write_bytes(content)
    assert main(["train", "--resume", "run"]) == 0


def test_a_run_without_a_fingerprint_needs_its_data_named_and_says_so(here, capsys):
    for path in Path("text").glob("*.safetensors"):
        arrays, description = checkpoint.load(path)
        del description["fingerprint"]
        rewrite(path, arrays, description)
    assert "keeps no fingerprint of them; name the data yourself" in refused(capsys, "train", "--resume", "text")
    assert main(["train", "text", "text.dat", "--resume", "text"]) == 0
    assert "note: text/resume-00000003.safetensors is of an older gpu_lstm" in capsys.readouterr().out
    assert newest(Path("text"))[2]["fingerprint"] == fingerprint.fingerprint("text.dat")


def test_a_fingerprint_is_of_content_and_order_and_not_of_names_and_times(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), (".hidden", b"x"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
    first = fingerprint.fingerprint(tmp_path)
    assert first["bytes"] == 6
    (tmp_path / "b").rename(tmp_path / "c")
    os.utime(tmp_path / "a", (1, 1))
    assert fingerprint.fingerprint(tmp_path) == first
    (tmp_path / "c").rename(tmp_path / "Z")  # now before a
    assert fingerprint.fingerprint(tmp_path) != first
    (tmp_path / "a").write_bytes(b"onet")
    (tmp_path / "Z").write_bytes(b"wo")
    assert fingerprint.fingerprint(tmp_path)["bytes"] == 6
    assert fingerprint.fingerprint(tmp_path) != first


def test_of_large_data_blocks_are_read_from_all_over(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE", 20)
    monkeypatch.setattr(fingerprint, "BLOCK", 2)
    path = tmp_path / "large"
    content = bytes(range(200))  # ten times as much: blocks of 2 at every 20th byte
    path.write_bytes(content)
    first = fingerprint.fingerprint(path)
    seen = []
    for at in range(len(content)):
        path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
        if fingerprint.fingerprint(path) != first:
            seen.append(at)
    assert seen == [at for at in range(200) if at % 20 < 2]


# -- the same options --------------------------------------------------------------------------------------------------

TRIED = {
    "--tokens": ["bytes"], "--vocabulary": ["300"], "--include": ["*.x"], "--init": ["elsewhere"],
    "--class-weight": ["balanced"], "--truncate": ["2"], "--test": ["0.3"],
    "--out": ["elsewhere"], "--dtype": ["float64"], "--seed": ["7"], "--hidden-size": ["5"], "--num-layers": ["2"],
    "--dropout": ["0.45"], "--lstm": ["peepholes"], "--batch": ["5"], "--learning-rate": ["0.5"],
    "--optimizer": ["sgd"], "--schedule": ["constant"], "--warm-up": ["7"], "--clip": ["0.5"], "--validations": ["3"],
    "--embedding-size": ["5"], "--length": ["9"], "--validation": ["0.3"], "--shuffle-lines": [], "--columns": ["b"],
    "--horizon": ["3"], "--memory": ["9"], "--train": ["0.6"], "--loss": ["mae"], "--label": ["x"], "--series": ["x"],
    "--one-direction": [], "--past": ["b"], "--future": ["b"], "--calendar": [], "--time": ["t"],
    "--date-format": ["%Y"], "--time-zone": ["UTC"], "--missing": ["drop"], "--missing-value": ["-9"],
    "--sep": ["bar"], "--decimal": [","], "--thousands": [","], "--encoding": ["latin-1"], "--header": ["none"],
    "--skip": ["1"], "--skip-end": ["1"], "--comment": [";"], "--units": [], "--quantiles": ["0.2", "0.5"],
    "--distribution": ["student"], "--linear": ["none"], "--wide": [], "--shares": ["2"],
}  # fmt: skip
"""Options that make another run, each with a value that none of the runs has."""
TAKEN = {
    "--resume", "--backend", "--tier", "--epochs", "--patience", "--recompute", "--graph", "--dry-run", "--keep",
    "--save-minutes", "--on-nonfinite", "--sample-length", "--any-kind", "--reduce",
    "--ranks", "--restarts",
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITE)
def test_every_option_is_refused_by_name_or_taken(here, capsys, monkeypatch, kind):
    parsers = {}
    monkeypatch.setattr(train, "run", lambda options: parsers.update({options.kind: options.parser}) or 0)
    main(["train", kind])
    monkeypatch.undo()
    monkeypatch.chdir(here)
    names = {option for option in parsers[kind]._option_string_actions if option.startswith("--")} - {"--help"}
    names -= {"--target"}  # another name of --columns
    assert names <= TRIED.keys() | TAKEN
    before = content_of(kind)
    for name in names & TRIED.keys():
        error = refused(capsys, "train", kind, "--resume", kind, name, *TRIED[name])
        assert error.startswith(f"gpu-lstm: {name} is "), name
        assert "the run to go on with has" in error
    assert content_of(kind) == before
    assert not Path("elsewhere").exists()


def test_options_that_the_run_has_may_be_repeated(here):
    again = [*SMALL, *COMMANDS["text"], "--dropout", "0.1", "--seed", "0", "--optimizer", "adam", "--out", "text"]
    assert main(["train", "text", "text.dat", *again, "--resume", "text"]) == 0


def test_an_option_of_another_kind_is_refused(here, capsys):
    assert "--sample-length is 9; the run to go on with has no such" in refused(
        capsys, "train", "--resume", "series", "--sample-length", "9"
    )


def test_a_dry_run_of_a_run_tells_its_memory_and_trains_nothing(here, capsys):
    before = content_of("text")
    assert main(["train", "--resume", "text", "--dry-run"]) == 0
    assert "peak" in capsys.readouterr().out
    assert content_of("text") == before


def test_what_is_taken_beside_resume_takes_effect(here, capsys):
    more = ["--keep", "1", "--save-minutes", "0", "--on-nonfinite", "skip", "--tier", "reference", "--recompute"]
    assert main(["train", "--resume", "text", *more, "--sample-length", "5", "--patience", "90"]) == 0
    said = capsys.readouterr().out
    assert "tier reference" in said and "    | " in said
    assert len([*Path("text").glob("resume-*")]) == 1
    description = newest(Path("text"))[2]
    assert {name: description["settings"][name] for name in ("keep", "save_minutes", "on_nonfinite", "patience")} == {
        "keep": 1, "save_minutes": 0.0, "on_nonfinite": "skip", "patience": 90,
    }  # fmt: skip
    assert description["options"]["recompute"] is True
    assert description["options"]["patience"] == 90
    assert main(["train", "--resume", "text"]) == 0  # finished
    assert "is finished" in capsys.readouterr().out


def test_a_finished_run_goes_on_for_more_epochs(here, capsys):
    assert main(["train", "--resume", "text"]) == 0
    done = read_log(Path("text") / LOG)[-1]["step"]
    assert main(["train", "--resume", "text", "--epochs", "3"]) == 0
    assert read_log(Path("text") / LOG)[-1]["step"] == done * 3 // 2
    assert newest(Path("text"))[2]["settings"]["epochs"] == newest(Path("text"))[2]["options"]["epochs"] == 3
    assert f"is at step {done * 3 // 2}; expected 0..{done // 2}" in refused(
        capsys, "train", "--resume", "text", "--epochs", "1"
    )


# -- a model that is what was trained ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["sample", "text"], ["evaluate", "text"], ["inspect", "text"], ["forecast", "series"], ["evaluate", "classify"]],
    ids=" ".join,
)
def test_a_changed_byte_or_a_weight_that_is_no_number_is_refused(here, capsys, command):
    path = Path(command[1]) / BEST
    content = path.read_bytes()
    path.write_bytes(content[:-7] + bytes([content[-7] ^ 4]) + content[-6:])
    assert f"checkpoint {path} is damaged: its checksum" in refused(capsys, *command)
    path.write_bytes(content)
    arrays, description = checkpoint.load(path)
    next(array for name, array in arrays.items() if name == "head.bias")[0] = np.nan
    checkpoint.save(path, arrays, description)
    assert "1 of" in (error := refused(capsys, *command)) and "numbers in head.bias aren't finite" in error


def test_export_refuses_a_changed_byte(here, capsys):
    pytest.importorskip("onnx")
    path = Path("text") / BEST
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert "its checksum" in refused(capsys, "export", "text")


@pytest.mark.parametrize("kind", WRITE)
def test_a_run_stopped_before_its_first_validation_has_a_model(here, capsys, kind):
    assert all("score" not in line for line in read_log(Path(kind) / LOG)) or kind != "text"
    commands = {"text": ["sample", "--length", "5"], "series": ["forecast"], "classify": ["evaluate"]}
    name, *more = commands[kind]
    assert main([name, kind, *more]) == 0
    assert main(["evaluate", kind]) == 0


def test_until_the_first_validation_the_model_is_the_last_saved_and_then_the_best(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text.dat")
    stopped("text", "text.dat", "run", "--validations", "1")
    assert checkpoint.load(Path("run") / BEST)[1]["score"] is None
    assert checkpoint.load(Path("run") / BEST)[1]["step"] == 3
    assert main(["train", "--resume", "run"]) == 0
    about = checkpoint.load(Path("run") / BEST)[1]
    assert about["score"] > 0
    assert about["step"] == newest(Path("run"))[2]["progress"]["step"]


# -- files of others ---------------------------------------------------------------------------------------------------

STRANGERS = [
    "film.mkv.part", "model.safetensors.part", "resume-1.safetensors.bak", "resume-00000001.safetensors.old",
    "resume-00000002.safetensors.part", "log.jsonl.old", "manifest.json.bak", "my-manifest.json", "lock.txt",
    "events.out.tfevents.123.host", "loss2.png", "forecast-old.csv", "inspect.html.bak", "other.safetensors",
    "x.gpu_lstm.part", ".hidden", "trace.json", "record.txt",
]  # fmt: skip


def test_every_command_in_a_folder_full_of_others_files_leaves_them_as_they_are(here, capsys, monkeypatch):
    make_small(monkeypatch, here)
    monkeypatch.setattr(pictures, "loss_curve", LOSS_CURVE)
    for name in ("gradient_check", "parity_check"):  # they write nothing
        monkeypatch.setattr(check, name, lambda *backend: [])
    for number, name in enumerate(STRANGERS):
        Path(name).write_bytes(b"theirs %d" % number)
    theirs = content_of(".")
    assert main(["train", "text", "text.dat", *SMALL, *COMMANDS["text"], "--out", ".", "--save-minutes", "0"]) == 0
    shutil.copytree("series", "s")
    commands = [
        ["sample", ".", "--length", "5"], ["evaluate", "."], ["inspect", "."], ["inspect", BEST],
        ["train", "--resume", "."], ["forecast", "s"], ["evaluate", "classify"],
        ["train", "text", "text.dat", *SMALL, *COMMANDS["text"], "--dry-run"], ["check"], ["info"],
        ["profile", "--hidden-size", "4", "--batch", "2", "--length", "4", "--steps", "1"],
        ["bench", "--grid", "T=2,B=1,H=4", "--peers", "none", "--rounds", "1", "--no-memory", "--train"],
    ]  # fmt: skip
    for command in commands:
        assert main(command) == 0, command
    now = content_of(".")
    assert {path: now.get(path) for path in theirs} == theirs
    made = {str(path) for path in now if len(path.parts) == 1} - {str(path) for path in theirs}
    steps = {name for name in made if name.startswith("resume-")}
    assert made - steps <= {MANIFEST, *OURS, "trace-2.json"}


@pytest.mark.parametrize("name", [MANIFEST, *OURS, "lock"])
def test_a_file_of_the_user_s_with_one_of_our_names_is_not_written_over(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text.dat")
    (tmp_path / name).write_text('{"name": "my web application"}')
    before = sorted(os.listdir())
    assert f"{name} belongs to no run, and one here would overwrite it" in refused(
        capsys, "train", "text", "text.dat", *SMALL, *COMMANDS["text"], "--out", "."
    )
    assert sorted(os.listdir()) == before
    assert (tmp_path / name).read_text() == '{"name": "my web application"}'


@pytest.mark.parametrize("command", ["forecast", "inspect"])
def test_beside_a_model_outside_of_a_run_nothing_older_is_written_over(here, capsys, command):
    Path("series.safetensors").write_bytes((Path("series") / BEST).read_bytes())
    for name in MADE:
        Path(name).write_text("theirs")
    assert main([command, "series.safetensors", "--data", "series.dat"]) == 0
    assert all(Path(name).read_text() == "theirs" for name in MADE)
    assert "-2." in capsys.readouterr().out


def test_what_is_read_is_not_written_over(here, capsys):
    for option in ("--csv", "--picture"):
        error = refused(capsys, "forecast", "series", "--data", "series.dat", option, "series.dat")
        assert f"{option} series.dat is the checkpoint itself or the data" in error
    assert "the checkpoint itself" in refused(capsys, "inspect", "text", "--out", Path("text") / BEST)
    assert Path("series.dat").read_text().startswith("a,b")


# -- checkpoints of others ---------------------------------------------------------------------------------------------


def from_a_stranger(data, run=True, **more):
    """A checkpoint that names a file as its data, in a run's folder or alone."""
    _, arrays, description, _ = newest(Path("text"))
    description["options"] |= {"data": str(data), "validation": 0.5}
    description |= more
    place = Path("strange")
    place.mkdir()
    for name in (resume_name(3), BEST):
        (place / name).write_bytes(checkpoint.pack(arrays, description))
    if run:
        repair_manifest(place)
    return place


SECRET = "to be secret, that is the question\n" * 40


@pytest.mark.parametrize("run", [True, False], ids=["run", "alone"])
@pytest.mark.parametrize("known", [None, {"bytes": len(SECRET), "sha256": "0" * 64}, {"bytes": 1, "sha256": ""}, 7, []])
def test_a_stranger_s_checkpoint_does_not_lead_to_a_file(here, capsys, run, known):
    Path("secret.txt").write_text(SECRET)
    place = from_a_stranger(here / "secret.txt", run, fingerprint=known)
    for command in (
        ["inspect", place / BEST],
        ["evaluate", place / BEST],
        ["train", "--resume", place / resume_name(3)],
    ):
        refused(capsys, *command)
    assert sorted(os.listdir(place)) == sorted([BEST, resume_name(3), *([MANIFEST] if run else [])])


def test_outside_of_its_run_s_folder_a_checkpoint_s_path_is_not_followed(here, capsys):
    Path("lone.safetensors").write_bytes((Path("series") / BEST).read_bytes())
    for command in ("forecast", "inspect", "evaluate"):
        error = refused(capsys, command, "lone.safetensors")
        assert "it lies outside of its run's folder; name the data yourself" in error
        assert main([command, "lone.safetensors", "--data", "series.dat"]) == 0


# -- errors name what they are about -----------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_is_not_replaced_by_a_file(here, capsys):
    error = refused(capsys, "forecast", "series", "--csv", "/dev/full")
    assert "/dev/full is no file" in error
    assert Path("/dev/full").is_char_device()


def test_a_full_disk_is_told_with_the_file(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["gpu_lstm.training.tensorboard"], "append", full)
    error = refused(capsys, "train", "--resume", "text")
    assert error == f"gpu-lstm: No space left on device: {Path('text') / LOG}\n"


def full(file, content):
    raise OSError(28, "No space left on device", file.name)


def test_a_folder_that_can_not_be_read_is_not_called_empty(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def denied(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"text folder .*closed can't be read: Permission denied"):
        text.read_text(tmp_path)
