"""Matrix factorisation as a factorization machine of two fields: a worked example, and MovieLens 100K."""

import numpy as np
import pytest
from naive import Event, to_batch

from ctr.events import feature_key
from ctr.events.batch import Batch
from ctr.model import Model
from ctr.spec import parse

WORKED = """
name = "ratings"
fields = [{ name = "user" }, { name = "item" }]
[model]
type = "fm"
k = 2
loss = "squared"
bias = false
linear = false
start = 0.01
[optimizer]
type = "sgd"
step = 0.05
"""

# Chosen on a tenth of the first fold's training part, never on a test fold: k 8 to 32, sgd and adagrad.
MOVIELENS = """
name = "movielens"
fields = [{ name = "user" }, { name = "item" }]
[model]
type = "fm"
k = 16
loss = "squared"
base_label = 3.5
label_min = 1.0
label_max = 5.0
start = 0.1
max_rows = 4096
[optimizer]
step = 0.1
linear_step = 0.1
n0 = 1.0
l2 = 0.1
linear_l2 = 0.02
"""
EPOCHS = 10
RMSE_MAX = 0.94
"""scikit-surprise publishes .934 for SVD, .944 for biases alone."""


def test_worked_example_of_matrix_factorisation():
    users, items = ({f"{kind}{i}": feature_key(kind, i) for i in (1, 2)} for kind in ("u", "i"))

    def rating(user, item, y=0.0):
        return Event([(users[user], 0, 1.0), (items[item], 1, 1.0)], y)

    known = to_batch([rating("u1", "i1", 2), rating("u1", "i2", 4), rating("u2", "i1", 1)], 2, dense=True)
    model = Model(parse(WORKED))
    for _ in range(2000):
        model.learn_many(known)
    assert model.predict_many(known) == pytest.approx([2, 4, 1], abs=0.01)
    fourth = model.predict_many(to_batch([rating("u2", "i2")], 2, dense=True))
    assert fourth == pytest.approx([1 * 4 / 2], abs=0.1)  # rank one: what small starts end at


@pytest.fixture(scope="module")
def ratings(shared_data):
    """(100000,) keys of users, keys of items, ratings, and the fold of each."""
    table = np.loadtxt(shared_data / "movielens" / "recbole_ml-100k.inter", skiprows=1, usecols=(0, 1, 2))
    keys = [np.array([feature_key(field, int(value)) for value in column], np.uint64)
            for field, column in zip(("user", "item"), table.T, strict=False)]  # fmt: skip
    folds = np.random.default_rng(0).permutation(len(table)) % 5
    return np.stack(keys, axis=1), table[:, 2].astype(np.float32), folds


def to_rated(keys, y, order):
    n = len(order)
    return Batch(
        keys[order].ravel(), np.ones(2 * n, np.float32), np.tile(np.arange(2, dtype=np.uint8), n),
        np.arange(n + 1, dtype=np.int64) * 2, y[order], np.ones(n, np.float32), np.full(n, 1.7e9),
        np.zeros(n, np.int32), np.arange(n), dense=True,
    )  # fmt: skip


def rmse(ratings, fold):
    keys, y, folds = ratings
    rng, train, test = np.random.default_rng(1), np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    model = Model(parse(MOVIELENS))
    for _ in range(EPOCHS):
        model.learn_many(to_rated(keys, y, rng.permutation(train)))
    return float(np.sqrt(np.mean((model.predict_many(to_rated(keys, y, test)) - y[test]) ** 2)))


@pytest.mark.data
def test_fm_predicts_the_ratings_of_a_fold(ratings):
    assert rmse(ratings, 0) <= RMSE_MAX


@pytest.mark.data
@pytest.mark.slow
def test_fm_predicts_the_ratings_of_all_folds(ratings):
    figures = [rmse(ratings, fold) for fold in range(5)]
    assert np.mean(figures) <= RMSE_MAX, figures
