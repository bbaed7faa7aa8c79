"""The walk through one LSTM step: its numbers are the code's, by this way and by another."""

import importlib.util
import io
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from gpu_lstm import LSTM

DOCS = Path(__file__).resolve().parents[1] / "docs" / "learn"


def check(script):
    return subprocess.run([sys.executable, script, "--check"], check=False, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("walk_make", DOCS / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_and_pictures_are_what_the_code_gives():
    result = check(DOCS / "make.py")
    assert result.returncode == 0, result.stderr


def test_another_number_is_noticed_and_mended(tmp_path):
    for path in DOCS.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    page, picture = tmp_path / "lstm.md", tmp_path / "flow.svg"
    right = page.read_text()
    page.write_text(right.replace("0.5764", "0.5765", 1))
    picture.write_text(picture.read_text().replace("−0.1197", "−0.1198", 1))
    result = check(tmp_path / "make.py")
    assert result.returncode == 1
    assert "lstm.md is not what the code gives" in result.stderr
    assert "flow.svg is not what the code gives" in result.stderr
    subprocess.run([sys.executable, tmp_path / "make.py"], check=True, capture_output=True, timeout=600)
    assert page.read_text() == right
    assert check(tmp_path / "make.py").returncode == 0


def test_a_mark_that_names_nothing_is_an_error(make):
    with pytest.raises(KeyError, match="nothing"):
        make.made("<!-- n: nothing -->1<!-- /n -->", make.Example())
    with pytest.raises(KeyError, match="nothing"):
        make.made("<!-- made: nothing -->\n<!-- /made -->", make.Example())


def test_blocks_fill_empty_marks_one_by_one(make):
    text = "<!-- made: sums -->\n<!-- /made -->\nbetween\n<!-- made: check -->\nold\n<!-- /made -->\n"
    filled = make.made(text, make.Example())
    assert "between" in filled
    assert "old" not in filled
    assert filled.count("```") == 4
    assert make.made(filled, make.Example()) == filled


def test_no_mark_begins_a_line_of_running_text():
    # In Markdown such a line would end the paragraph.
    assert not re.findall(r"^<!-- n:", "".join(page.read_text() for page in DOCS.glob("*.md")), re.M)


def test_the_sequence_form_gives_the_same_numbers(make):
    example = make.Example()
    lstm = LSTM(1, 1, backend="numpy", dtype="float64", tier="reference")
    for name, values in (("weight_ih", make.W), ("weight_hh", make.U), ("bias", make.B)):
        lstm.params[f"{name}_l0"].reshape(-1)[:] = [values[gate] for gate in "ifgo"]
    y, _, tape = lstm.forward(np.array(make.X)[:, None, None])
    np.testing.assert_allclose(y[:, 0, 0], example.h[1:], rtol=0, atol=1e-15)
    dy = np.zeros_like(y)
    dy[-1] = y[-1] - make.TARGET
    _, (dh0, dc0), gradients = lstm.backward(tape, dy)
    for name, found in (("weight_ih", example.dw), ("weight_hh", example.du), ("bias", example.db)):
        expected = gradients[f"{name}_l0"].reshape(-1)
        np.testing.assert_allclose([found[gate] for gate in "ifgo"], expected, rtol=0, atol=1e-15)
    assert dh0[0, 0, 0] == pytest.approx(example.dh[0], abs=1e-15)
    assert dc0[0, 0, 0] == pytest.approx(example.dc[0], abs=1e-15)


def test_the_code_in_the_page_prints_the_numbers_of_the_page(make):
    code = re.search(r"```python\n(.*?)```", (DOCS / "bptt.md").read_text(), re.S)[1]
    out = io.StringIO()
    with redirect_stdout(out):
        exec(code, {})
    printed = [float(v) for v in re.findall(r"\[\[(.*?)\]\]", out.getvalue())]
    e = make.Example()
    expected = [e.i[2], e.f[2], e.g[2], e.o[2], e.dh[3], e.dc[3], e.dz["i"][3], e.dw["i"]]
    np.testing.assert_allclose(printed, expected, rtol=0, atol=1e-7)
