"""The file of a user's typed code runs, and `py.typed` lies beside what type checkers read; CI has them check it."""

from importlib.resources import files

from tests.typed import user


def test_the_typed_code_of_a_user_runs(tmp_path):
    user.one_step()
    user.one_cell()
    user.trained(tmp_path)


def test_the_package_says_that_it_has_types():
    assert files("gpu_lstm").joinpath("py.typed").is_file()
