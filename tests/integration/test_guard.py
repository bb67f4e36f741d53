"""The guard on a real Redis: poison is held back and what is served stays as it was; operators resume and discard."""

import contextlib
import json
import urllib.error
import urllib.request

import pytest
from workbench import (
    FIELDS,
    ctr,
    exit_code,
    learned_counts,
    logged,
    market_lines,
    metric,
    stored,
    touched,
    trainer,
    wait_for,
)
from workbench import SPEC as MARKET

from ctr.store import connect, read_model
from workers.lifecycle import ExitCode

SPEC = f"""{MARKET}
[guard]
min_events = 10000
[quality]
slices = ["site"]
"""
HEALTHY, POISONED, AFTER = 30_000, 5_000, 3_000


def flipped(lines, share):
    """Every so many labels turned round."""
    events = [json.loads(line) for line in lines]
    every = round(1 / share)
    for event in events[::every]:
        event["click"] = 1 - event["click"]
    return [json.dumps(event).encode() for event in events]


@pytest.fixture(scope="module")
def market():
    lines = market_lines(HEALTHY + POISONED + AFTER)
    return lines[:HEALTHY], flipped(lines[HEALTHY : HEALTHY + POISONED], 0.2), lines[HEALTHY + POISONED :]


@pytest.fixture
def stream(tmp_path, redis_url):
    """A trainer that follows a file, and a function that appends lines to it."""
    spec, log = tmp_path / "ads.toml", tmp_path / "events.jsonl"
    spec.write_text(SPEC)
    log.touch()
    worker = trainer(
        tmp_path, spec, "--from", log, "--follow", "--create", "--redis", redis_url, "--lease", "0.5",
    )  # fmt: skip

    def append(lines):
        with log.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))

    yield worker, append
    worker.stop()


def learned_all(worker, client, n_bytes):
    """Everything up to here is in the store."""
    wait_for(lambda: [int(at) for at in stored(client, "ads@1")[1].values()] == [n_bytes], within_s=60)
    assert metric(worker, "ctr_guard_refusing") == 0


def refusing(worker):
    """Whether a worker that may be starting yet holds a cut back."""
    with contextlib.suppress(OSError):
        return metric(worker, "ctr_guard_refusing") == 1


def record(redis_url):
    """What `ctr guard` says."""
    return json.loads(ctr("guard", "ads", "--json", "--redis", redis_url).stdout)


def refusal(redis_url):
    """The same, once it says that a cut is held back."""
    wait_for(lambda: record(redis_url)["state"] == "refusing")
    return record(redis_url)


def size(*parts):
    return sum(len(line) + 1 for part in parts for line in part)


def refuse(worker, append, client, market):
    """Learn what is healthy, then meet poison; what the store held before."""
    healthy, poisoned, _ = market
    append(healthy)
    worker.start()
    learned_all(worker, client, size(healthy))
    before = stored(client, "ads@1")
    append(poisoned)
    wait_for(lambda: metric(worker, "ctr_guard_refusing") == 1)
    return before


def test_flipped_labels_are_held_back_and_discarded(stream, redis_url, market):
    worker, append = stream
    healthy, poisoned, after = market
    with connect(redis_url) as client:
        before = refuse(worker, append, client, market)
        assert stored(client, "ads@1")[0] == before[0], "what is served is unharmed"
        assert stored(client, "ads@1")[1] == before[1]
        refused = next(line for line in logged(worker) if line["event"] == "cut_refused")
        assert any("normalised entropy rose" in reason for reason in refused["reasons"])
        with pytest.raises(urllib.error.HTTPError) as unready:
            urllib.request.urlopen(f"{worker.address}/readyz", timeout=10)
        assert unready.value.code == 503
        assert b"ctr guard ads@1" in unready.value.read()
        told = refusal(redis_url)
        assert "normalised entropy rose" in ctr("guard", "ads", "--redis", redis_url).stdout
        at = next(iter(told["positions"].values()))
        assert size(healthy) < at <= size(healthy, poisoned)

        # what the cut did not hold yet is poison, too: it is left out as well
        name = next(iter(told["positions"]))
        done = ctr("guard", "ads", "discard", "--to", f"{name}={size(healthy, poisoned)}", "--redis", redis_url)
        assert done.returncode == 0, done.stderr
        learned_all(worker, client, size(healthy, poisoned))
        assert stored(client, "ads@1")[0] == before[0], "of the poison nothing came into the store"
        append(after)
        learned_all(worker, client, size(*market))
        assert learned_counts(stored(client, "ads@1")[0], 4) == touched([*healthy, *after], FIELDS)
        assert metric(worker, "ctr_guard_discarded_offsets_total") == size(poisoned)
        assert metric(worker, "ctr_source_gap_events_total") == size(poisoned)
        gaps = {int(client.hget(keys.meta, f"gap:{name}")) for keys in read_model(client, "ads").keys}
        assert gaps == {size(poisoned)}, "every shard counts what it lacks, in the commit that moves its offset"
        told = record(redis_url)
        assert told["state"] == "watching"
        assert [gap["from_to"] for gap in told["discarded"]] == [{name: [size(healthy), size(healthy, poisoned)]}]
        assert metric(worker, "ctr_logloss", window="events", slice="site=site0")


def test_an_operator_may_publish_it_all_the_same(stream, redis_url, market):
    worker, append = stream
    with connect(redis_url) as client:
        refuse(worker, append, client, market)
        refusal(redis_url)
        assert ctr("guard", "ads", "resume", "--redis", redis_url).returncode == 0
        append(market[2])
        learned_all(worker, client, size(*market))
        everything = [line for part in market for line in part]
        assert learned_counts(stored(client, "ads@1")[0], 4) == touched(everything, FIELDS)
        assert metric(worker, "ctr_guard_decisions_total", decision="resume") == 1
    again = ctr("guard", "ads", "resume", "--redis", redis_url)
    assert again.returncode == ExitCode.MODEL
    assert "no cut of ads@1 is held back" in again.stderr


def test_a_crash_while_a_cut_is_held_back_loses_nothing(stream, redis_url, market):
    worker, append = stream
    with connect(redis_url) as client:
        before = refuse(worker, append, client, market)
        refusal(redis_url)
        worker.kill()
        worker.spawn()
        wait_for(lambda: refusing(worker))
        assert stored(client, "ads@1") == before, "judged again, by what the record remembers of the healthy events"
        worker.stop()
        assert stored(client, "ads@1") == before, "nor is it sent at the end"


def test_a_stand_by_that_takes_over_judges_for_itself_and_the_first_one_lets_its_cut_go(
    stream, redis_url, market, tmp_path
):
    first, append = stream
    second = trainer(
        tmp_path / "2", tmp_path / "ads.toml", "--from", tmp_path / "events.jsonl", "--follow", "--redis", redis_url,
        "--lease", "0.5",
    )  # fmt: skip
    healthy, poisoned, after = market
    try:
        with connect(redis_url) as client:
            before = refuse(first, append, client, market)
            refused = refusal(redis_url)
            second.start()
            assert metric(second, "ctr_role", role="standby") == 1
            first.pause()
            wait_for(lambda: metric(second, "ctr_guard_refusing") == 1)
            again = refusal(redis_url)
            assert again["since_s"] > refused["since_s"], "the record is the second one's"
            assert stored(client, "ads@1")[0] == before[0], "what is served is unharmed"
            [name] = again["positions"]
            ctr("guard", "ads", "discard", "--to", f"{name}={size(healthy, poisoned)}", "--redis", redis_url)
            append(after)
            learned_all(second, client, size(*market))
            first.resume()
            assert wait_for(lambda: exit_code(first)) == ExitCode.FENCED
            assert learned_counts(stored(client, "ads@1")[0], 4) == touched([*healthy, *after], FIELDS)
            assert metric(second, "ctr_role", role="writer") == 1
    finally:
        first.resume()
        second.stop()


EXPLODING = """
name = "big"
fields = [{ name = "user" }, { name = "price", real = true }]
[optimizer]
type = "sgd"
[store]
shards = 1
[guard]
min_events = 1000
"""


def test_exploding_rows_are_held_back_and_unreadable_values_never_learned(tmp_path, redis_url):
    spec, log = tmp_path / "big.toml", tmp_path / "events.jsonl"
    spec.write_text(EXPLODING)
    healthy = [json.dumps({"user": i % 50, "price": 1.0, "label": i % 7 == 0}).encode() for i in range(2000)]
    log.write_bytes(b"".join(line + b"\n" for line in healthy))

    def train():
        return ctr("train", spec, "--redis", redis_url, "--create", "--from", log, timeout=300)  # kernels compile

    assert train().returncode == 0
    with connect(redis_url) as client:
        before = stored(client, "big@1")
        with log.open("ab") as file:
            file.write(json.dumps({"user": 1, "price": 1e30, "label": 1}).encode() + b"\n")
        train()
        assert stored(client, "big@1")[0] == before[0], "an event of 1e30 changes no row"
        with log.open("ab") as file:
            file.write(json.dumps({"user": 1, "price": 1e9, "label": 1}).encode() + b"\n")
        ended = train()
        assert ended.returncode == ExitCode.GUARD
        assert "weights of norm" in ended.stderr
        assert stored(client, "big@1")[0] == before[0]
