"""Some files from strangers; the recorded 100,000 are those of `python -m tests.soak.fuzz`."""

import pytest

from tests.soak import fuzz


@pytest.mark.slow
def test_no_file_brings_anything_but_our_own_error(tmp_path):
    counts = fuzz.fuzz(250, tmp_path)
    assert counts.total() >= 200
    assert min(counts["valid"], counts["refused"]) > 12
