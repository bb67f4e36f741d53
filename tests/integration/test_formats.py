"""Each of the shared click logs goes through its format to a trained model in Redis, by one command of the README."""

import gzip
import json

import numpy as np
import pytest
import zstandard
from workbench import REPOSITORY, ctr, stored

from ctr import spec as specification
from ctr.events import open_reader
from ctr.model import Model
from ctr.store import connect
from workers.sources.files import FileSource

EXAMPLES = REPOSITORY / "deploy" / "examples"
CRITEO = "criteo/criteo_dac_train_first10k.txt"
pytestmark = [pytest.mark.data, pytest.mark.redis]


def train(example, path, redis_url, tmp_path):
    """Figures that the trainer ends with."""
    done = ctr(
        "train", EXAMPLES / f"{example}.toml", "--create", "--from", path, "--window", 10_000, "--redis", redis_url,
        "--dead-letters", tmp_path / "dlq",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stopped = json.loads(done.stderr.splitlines()[-1])
    assert (stopped["refused"], stopped["lag"]) == (0, 0)
    return stopped


@pytest.mark.parametrize(
    ("example", "path", "events"),
    [
        ("criteo", CRITEO, 10_000),
        ("avazu", "avazu/small3.train.csv", 9_999),
        ("amexpert", "amexpert2018/amexpert2018_60k_labelled_by_time.csv", 60_228),
    ],
)
def test_a_click_log_beats_its_own_base_rate(redis_url, shared_data, tmp_path, example, path, events):
    stopped = train(example, shared_data / path, redis_url, tmp_path)
    assert stopped["events"] == events
    # each event predicted before it is learned, against a constant that knows the base rate of those events
    assert stopped["normalized_entropy"] < 1
    with connect(redis_url) as client:
        assert len(stored(client, f"{example}@1")[0]) == stopped["rows"] + 1  # features, and the bias


@pytest.mark.parametrize(
    "path", ["libffm_bigdata.tr.txt", "libffm_bigdata.te.txt", "xlearn_small_train.txt", "xlearn_small_test.txt"]
)
def test_libffms_demo_begins_as_bad_as_libffm(redis_url, shared_data, tmp_path, path):
    file = shared_data / "libffm_demo" / path
    stopped = train("libffm", file, redis_url, tmp_path)
    assert stopped["events"] == len(file.read_bytes().splitlines())
    # libffm itself, on the first of these files from another random start: 1.13522 in its first epoch
    assert stopped["logloss"] == pytest.approx(1.13522, abs=0.1)


def test_movielens_ratings_are_learned(redis_url, shared_data, tmp_path):
    path = shared_data / "movielens" / "recbole_ml-100k.inter"
    stopped = train("movielens", path, redis_url, tmp_path)
    users, items, ratings = np.loadtxt(path, skiprows=1, usecols=(0, 1, 2)).T
    assert stopped["events"] == len(ratings)
    assert stopped["rows"] == len(set(users)) + len(set(items))

    spec = specification.read(EXAMPLES / "movielens.toml")
    source, reader, model = FileSource(path, follow=False, max_line_bytes=1 << 20), open_reader(spec), Model(spec)
    source.open({})
    predictions = []
    while (messages := source.poll(0.1)) is not None:
        predictions.append(model.learn_many(reader.read(messages)[0]))
    errors = np.concatenate(predictions) - ratings
    assert stopped["rmse"] == pytest.approx(np.sqrt(np.mean(errors[-10_000:] ** 2)), abs=1e-4)  # what it said of itself
    assert "logloss" not in stopped
    # in one pass, each predicted before it is learned; the last fifth against the mean of what came before it
    late = len(ratings) * 4 // 5
    constant = np.sqrt(np.mean((ratings[late:] - ratings[:late].mean()) ** 2))
    assert np.sqrt(np.mean(errors[late:] ** 2)) < 0.9 * constant


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_log_gives_the_same_model(redis_url, shared_data, tmp_path, suffix):
    plain = (shared_data / CRITEO).read_bytes()
    path = tmp_path / f"log.txt{suffix}"
    path.write_bytes(gzip.compress(plain) if suffix == ".gz" else zstandard.compress(plain))
    figures = []
    for file in (shared_data / CRITEO, path):
        with connect(redis_url) as client:
            client.flushdb()
        stopped = train("criteo", file, redis_url, tmp_path)
        figures.append((stopped["events"], stopped["rows"], stopped["logloss"], stopped["auc"]))
    assert figures[0] == figures[1]
