"""Searches over our estimators in several processes: right, and without more threads than cores."""

import os
import warnings

import numpy as np
import pytest

from gpu_lstm.native import compiled

pytest.importorskip("sklearn")
joblib = pytest.importorskip("joblib")
from sklearn.model_selection import GridSearchCV  # noqa: E402

from gpu_lstm.interop.sklearn import LSTMClassifier  # noqa: E402

rng = np.random.default_rng(0)
WALKS = rng.normal(size=(24, 5)).cumsum(axis=1)
UP = WALKS[:, -1] > 0


def search(**more):
    model = LSTMClassifier(hidden_size=4, max_iter=2, random_state=0)
    return GridSearchCV(model, {"learning_rate": [1e-3, 1e-2]}, cv=2, **more)


def scores(found):
    return found.cv_results_["mean_test_score"].tolist(), found.predict_proba(WALKS).tobytes()


@pytest.fixture
def untold(monkeypatch):
    """Nobody has said how many threads there are to be."""
    for name in compiled.THREADS_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_joblib_s_processes_find_what_one_finds_with_their_share_of_the_cores(untold):
    alone = scores(search().fit(WALKS, UP))
    with joblib.parallel_config("loky", n_jobs=2):
        assert scores(search().fit(WALKS, UP)) == alone
        each = joblib.Parallel()(joblib.delayed(compiled.threads)() for _ in range(4))
    assert set(each) == {max(1, joblib.cpu_count() // 2)}
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        assert set(joblib.Parallel()(joblib.delayed(compiled.threads)() for _ in range(4))) == {1}


@pytest.mark.slow
def test_dask_s_cluster_finds_what_one_finds_with_a_thread_a_worker(untold):
    distributed = pytest.importorskip("distributed")
    alone = scores(search().fit(WALKS, UP))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cluster's own
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster),
            joblib.parallel_config("dask"),
        ):
            assert scores(search().fit(WALKS, UP)) == alone
            found = joblib.Parallel()(joblib.delayed(lambda: (os.getpid(), compiled.threads()))() for _ in range(8))
    assert {threads for _, threads in found} == {1}
    assert os.getpid() not in {process for process, _ in found}
