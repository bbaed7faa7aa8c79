"""What commands print: on any output, of any text and any table, and what they say to do next."""

import io
import math
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_lstm.cli import check, main
from gpu_lstm.data import sequences

SMALL = ["--hidden-size", "4", "--epochs", "1", "--validations", "1"]
TEXT = ["train", "text", "t.txt", *SMALL, "--batch", "2", "--length", "8", "--embedding-size", "2"]
SERIES = ["train", "series", "t.csv", *SMALL, "--length", "16", "--horizon", "4", "--memory", "8"]
CLASSIFY = ["train", "classify", "t.csv", *SMALL]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_text(path, alphabet, length=600):
    letters = random.Random(0).choices(alphabet, k=length)
    path.write_text("".join(letters), encoding="utf-8", newline="")


def write_series(path, names, steps=200):
    rows = [",".join([f"{math.sin(k / (4 + s)):.4f}" for s in range(len(names))]) for k in range(steps)]
    path.write_text("\n".join([",".join(names), *rows]), encoding="utf-8")


def write_sequences(path, parts=("train", "test")):
    rows = [f"{n},{part},{'ab'[n % 2]},{n % 2 + k},{k}" for part in parts for n in range(12) for k in range(3)]
    path.write_text("\n".join(["series,split,label,größe,k", *rows]), encoding="utf-8")


def told(capsys, arguments, status=0):
    """What a command prints."""
    capsys.readouterr()
    assert main(arguments) == status
    return capsys.readouterr().out


# -- any output --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp1252", pytest.param("ascii", marks=pytest.mark.slow)])
def test_text_that_the_output_has_no_bytes_for_is_replaced(here, monkeypatch, encoding):
    def printed(arguments):
        output = io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", output)
        assert main(arguments) == 0
        return output.buffer.getvalue().decode(encoding)

    write_text(here / "t.txt", "абвгд\n")
    text = printed([*TEXT, "--out", "текст"])
    assert re.search(r"^    \| \?+$", text, re.M)
    assert "next: gpu-lstm sample '?????'\n" in text  # no prompt that can't be shown
    assert printed(["sample", "текст", "--prompt", "аб", "--length", "5"]).startswith("??")
    assert "?????" in printed(["evaluate", "текст"])
    assert "?????" in printed(["inspect", "текст", "--length", "50"])
    write_series(here / "t.csv", ["темп", "v"])
    assert "columns: ????, v\n" in printed([*SERIES, "--out", "ряд"])
    assert "????" in printed(["forecast", "ряд"])
    assert (here / "ряд" / "forecast.csv").read_text("utf-8").startswith("step,темп_forecast,")


COMMAND = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="gpu_lstm")  # no file in the encoding of the locale
from gpu_lstm.cli import main
sys.exit(main())
"""


def run(arguments, **options):
    """A process of its own: its exit status and standard error."""
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "ignore", "-c", COMMAND, *arguments]
    child = subprocess.run(command, stderr=subprocess.PIPE, **options)
    return child.returncode, child.stderr.decode()


@pytest.mark.skipif(os.name == "nt", reason="POSIX's ways to have no output")
def test_a_reader_that_went_away_and_an_output_that_is_closed_or_full_are_no_traceback(here):
    write_text(here / "t.txt", "abcde\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert run([*TEXT, "--out", "pipe"], stdout=writer) == (141, "")
    os.close(writer)
    assert run([*TEXT, "--out", "closed"], preexec_fn=lambda: os.close(1)) == (0, "")
    assert (here / "closed" / "model.safetensors").exists()
    if os.path.exists("/dev/full"):
        for unbuffered in ("", "1"):
            environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
            with open("/dev/full", "wb") as full:
                assert run(["check"], stdout=full, env=environment) == (2, "gpu-lstm: No space left on device\n")


@pytest.mark.skipif(os.name == "nt", reason="limits of a process are POSIX's")
def test_a_disk_that_is_full_leaves_the_predictions_of_before(here):
    write_sequences(here / "t.csv")
    assert main([*CLASSIFY, "--out", "r"]) == 0
    assert main(["predict", "r", "--data", "t.csv"]) == 0
    before = (here / "r" / "predictions.csv").read_bytes()
    files = sorted(os.listdir(here / "r"))

    def full():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    status, error = run(["predict", "r", "--data", "t.csv", "--json"], stdout=subprocess.DEVNULL, preexec_fn=full)
    assert (status, error) == (2, f"gpu-lstm: File too large: {Path('r') / 'predictions.csv'}\n")
    assert (here / "r" / "predictions.csv").read_bytes() == before and sorted(os.listdir(here / "r")) == files


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes on Linux")
def test_names_of_files_that_are_no_text(here, capsysbinary):
    folder = os.fsdecode(b"r\xff")
    write_text(here / os.fsdecode(b"t\xff.txt"), "abcde\n")
    assert main(["train", "text", os.fsdecode(b"t\xff.txt"), *TEXT[3:], "--out", folder]) == 0
    assert main(["inspect", folder, "--length", "50"]) == 0
    assert b"run: r?" in capsysbinary.readouterr().out


# -- what to do next ---------------------------------------------------------------------------------------------------


def next_commands(printed):
    """The commands that were printed to go on with, as a shell takes them apart."""
    line = re.search(r"^next: (.*)$", printed, re.M)
    commands = line[1].split("   or: ") if line else []
    for command in commands:
        if os.name == "posix":
            shell = subprocess.run(["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
            assert shell.stdout.decode().split("\0")[:-1] == shlex.split(command)
        assert command.startswith("gpu-lstm ")
    return [shlex.split(command)[1:] for command in commands]


ALPHABETS = ["абв где\n", "--ab ", "'\"$`\\!*;&|<>(){}#~ \n", "a\ufffd", "\t\x01\x1b"]
MORE_ALPHABETS = ["日本語。\n", "-", "\t\r\n", "\n\r", " \u00a0a\n", "\ufeffa", "🙂a\u0301\u200d"]


@pytest.mark.parametrize(
    "alphabet", [*ALPHABETS, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE_ALPHABETS)]
)
def test_the_next_line_samples_from_any_text(here, capsys, alphabet):
    write_text(here / "t.txt", alphabet)
    (command,) = next_commands(told(capsys, [*TEXT, "--out", "a 'run'"]))
    assert command[:2] == ["sample", "a 'run'"]
    assert len(told(capsys, [*command, "--length", "3"])) >= 3


def test_the_prompt_is_from_the_text_and_no_folder_is_taken_for_an_option(here, capsys):
    (here / "t.txt").write_text("\n\n  Erster Bürger: Ehe wir irgend weiter gehn\n" * 20, encoding="utf-8")
    (command,) = next_commands(told(capsys, [*TEXT, "--out=-r"]))
    assert command == ["sample", "./-r", "--prompt=Erster Bürger: Ehe w"]
    assert told(capsys, [*command, "--length", "3"]).startswith("Erster Bürger: Ehe w")


@pytest.mark.parametrize(("shares", "commands"), [([], 2), (["--train", "0.5", "--validation", "0.5"], 1)])
def test_the_next_line_of_a_series_evaluates_where_something_is_left_to(here, capsys, shares, commands):
    write_series(here / "t.csv", ["a$b$", "$x^$"])
    following = next_commands(told(capsys, [*SERIES, *shares, "--out", "a run"]))
    assert [command[0] for command in following] == ["forecast", "evaluate"][:commands]
    printed = "".join(told(capsys, command) for command in following)
    assert re.search(r"forecast from before them: RMSE [0-9.e-]+ of a\$b\$, [0-9.e-]+ of \$x\^\$$", printed, re.M)


@pytest.mark.parametrize("parts", [("train", "test"), ("train",)])
def test_the_next_line_of_a_classifier_evaluates_where_there_are_test_sequences(here, capsys, parts):
    write_sequences(here / "t.csv", parts)
    printed = told(capsys, [*CLASSIFY, "--out", "r"])
    following = next_commands(printed)
    assert following == ([["evaluate", "r"]] if "test" in parts else [])
    for command in following:
        assert main(command) == 0
    if not following:
        assert "no sequences are called test; gpu-lstm evaluate r --data FILE measures" in printed
        assert main(["evaluate", "r", "--data", "t.csv"]) == 0


@pytest.mark.parametrize(("kind", "name"), [("classify", "logistic"), ("regress", "ridge")])
def test_a_linear_model_of_what_was_trained_on_stands_beside_the_errors_on_other_data(here, capsys, kind, name):
    pytest.importorskip("sklearn")
    rows = [f"{n},{n % 2 + k},{n % 2}" for n in range(12) for k in range(3)]
    for file in ("t.csv", "o.csv"):
        (here / file).write_text("\n".join(["series,x,y", *rows]), encoding="utf-8")
    asked = ["--label" if kind == "classify" else "--target", "y"]
    told(capsys, ["train", kind, "t.csv", *SMALL, *asked, "--out", "r"])
    printed = told(capsys, ["evaluate", "r", "--data", "o.csv"])
    assert re.search(rf"{name} regression on .*(100\.0%|1\.000)$", printed, re.M)
    better = {"ridge": "for some target the model is no better than ridge", "logistic": "logistic"}[name]
    assert (f"note: {better} regression" in printed) == (kind == "regress" or "accuracy 100.0%" not in printed)
    (here / "t.csv").unlink()
    printed = told(capsys, ["evaluate", "r", "--data", "o.csv"])
    assert "what the model was trained on can't be read" in printed
    assert f"{name} regression on summaries: not fitted, for that needs what the model was trained on" in printed


# -- tables ------------------------------------------------------------------------------------------------------------


def test_columns_that_are_taken_and_left_are_told_before_training(here, capsys):
    rows = [f"{k},2010,{k % 24},d{k},{k % 9},{k % 5}.5," for k in range(200)]
    (here / "t.csv").write_text("\n".join([",year,hour,day,TEMP,value,note", *rows]), encoding="utf-8")
    line = (
        "columns: hour, TEMP, value; left out: column 1 (no name), year (years: a date, no measurement), "
        "day (text, such as 'd0'), note (empty)\n"
    )
    assert told(capsys, [*SERIES, "--out", "r"]).index(line) < told(capsys, [*SERIES, "--dry-run"]).index("peak")
    assert "columns: TEMP\n" in told(capsys, [*SERIES, "--columns", "TEMP", "--dry-run"])
    write_sequences(here / "t.csv")
    assert "columns: größe, k\n" in told(capsys, [*CLASSIFY, "--dry-run"])


def test_a_target_that_begins_without_numbers_is_no_run(here, capsys):
    rows = [f"{k},{'NA' if k < 24 else k % 17},{k % 9}" for k in range(200)]
    (here / "t.csv").write_text("\n".join(["No,pm2.5,TEMP", *rows]), encoding="utf-8")
    assert main([*SERIES, "--out", "r"]) == 2
    assert "column 'pm2.5' has no number in 24 of 200 rows, at most 24 in a row: line 2; expected none missing" in (
        capsys.readouterr().err
    )
    assert not (here / "r").exists()


def test_a_forecast_goes_as_far_as_asked_with_a_score_where_there_is_one(here, capsys):
    write_series(here / "t.csv", ["v"])
    assert main([*SERIES, "--out", "r"]) == 0
    for steps, scored in ((198, True), (199, False), (300, False)):
        printed = told(capsys, ["forecast", "r", "--steps", str(steps)])
        rows = (here / "r" / "forecast.csv").read_text(encoding="utf-8").splitlines()[1:]
        assert len(rows) == steps * (2 if scored else 1)
        assert rows[-1].startswith(f"{200 + steps - 1},")
        assert ("RMSE" in printed) == scored
        assert (f"no score: 200 known steps are too few to forecast the last {steps} of them" in printed) != scored


def test_names_of_columns_are_no_formulas(here):
    write_series(here / "t.csv", [r"$\frac$", "price_$"])
    assert main([*SERIES, "--out", "r$x^$"]) == 0
    assert main(["forecast", "r$x^$", "--steps", "2"]) == 0


def test_shipped_sequences_take_all_numbers():
    data = sequences.read_sequences(sequences.JAPANESE_VOWELS)
    assert len(data.names) == 12
    assert data.left == {}


@pytest.mark.parametrize(
    "module, package", [("pandas", "pandas"), ("pandas._libs", "pandas"), ("dateutil", "python-dateutil")]
)
def test_a_package_that_is_missing_is_one_line(here, monkeypatch, capsys, module, package):
    def missing(options):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(check, "choose", missing)
    assert main(["check"]) == 2
    assert capsys.readouterr().err == f"gpu-lstm: needs {package}: pip install {package} (No module named {module!r})\n"


@pytest.mark.parametrize("module", ["", "gpu_lstm.gone", "sqlite3"])
def test_what_pip_does_not_install_is_no_package_that_is_missing(here, monkeypatch, module):
    def missing(options):
        raise ModuleNotFoundError("No module", name=module)

    monkeypatch.setattr(check, "choose", missing)
    with pytest.raises(ModuleNotFoundError):
        main(["check"])


def test_training_without_matplotlib_keeps_the_model(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_text(here / "t.txt", "abcd\n")
    assert main([*TEXT, "--out", "run"]) == 2
    assert "gpu-lstm: needs matplotlib: pip install matplotlib" in capsys.readouterr().err
    assert main(["sample", "run", "--length", "5"]) == 0
