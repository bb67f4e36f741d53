"""The memory of a cut is bounded: of more it is made in parts, and no row depends on it."""

import pytest
from workbench import SPEC, market_lines, stored

from ctr import spec as specification
from ctr.errors import CtrError
from ctr.store import GuardRecord, Lease, ModelWriter, connect, create_model
from workers import publisher as module
from workers.dead_letters import FileDeadLetters, RefusalLimit
from workers.lifecycle import Shutdown
from workers.sources import files
from workers.sources.files import FileSource
from workers.trainer import Trainer

PACED = SPEC + "rows_per_s = 20000\n"
BOUND = 500_000


class Recorded:
    """A writer whose cuts are measured."""

    def __init__(self, writer):
        self._writer, self.sizes, self.rows, self.places = writer, [], {}, []

    def commit(self, cut):
        self.sizes.append(cut.rows.data.nbytes)
        self.places.append((dict(cut.offsets), frozenset(cut.chosen.nonzero()[0].tolist())))
        self.rows |= {int(k): row.tobytes() for k, row in zip(cut.rows.keys, cut.rows.data, strict=True)}
        self._writer.commit(cut)

    def __getattr__(self, name):
        return getattr(self._writer, name)


def learned(url, path, generation, shards=16):
    """Learn a file to its end; the writer, with what it was given, and for how long learning waited."""
    spec = specification.parse(f'generation = "{generation}"\n{PACED}[store]\nshards = {shards}\n')
    with connect(url) as client:
        writer = Recorded(ModelWriter(client, create_model(client, spec)))
        lease = Lease(client, spec.model_id, ttl_s=3.0)
        trainer = Trainer(
            spec, FileSource(path, follow=False, max_line_bytes=1 << 20), writer, lease, CtrError,
            FileDeadLetters(path.with_suffix(".dlq")), Shutdown(), limit=RefusalLimit(0, 1.0), outage_limit_s=10.0,
            window=1000, scan_threads=0, record=GuardRecord(client, spec.model_id, lease.token),
        )  # fmt: skip
        trainer.run()
        lease.close()
        writer.close()
        return writer, trainer.numbers()["ctr_stage_wait_seconds"]["learn", "blocked"]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1 << 14)  # the bound may be passed by one chunk
    data = tmp_path / "events.jsonl"
    data.write_bytes(b"\n".join(market_lines(20_000)) + b"\n")
    return data


def test_beyond_the_bound_a_cut_is_made_over_fewer_shards_at_a_time(redis_url, path, monkeypatch):
    free, _ = learned(redis_url, path, "free")
    monkeypatch.setattr(module, "CUT_BYTES", BOUND)
    bounded, _ = learned(redis_url, path, "bounded")
    assert max(free.sizes) > 2 * BOUND, "without the bound there is something to bound"
    assert max(bounded.sizes) < 1.2 * BOUND, "hashes spread keys over shards not quite evenly"
    assert bounded.rows == free.rows
    parted = [(offsets, chosen) for offsets, chosen in bounded.places if chosen != {0}]
    assert len(parted) > 1
    for offsets, _ in parted:  # all shards at one place, each of them once
        shards = sorted(shard for at, chosen in parted if at == offsets for shard in chosen)
        assert shards == list(range(16))
    with connect(redis_url) as client:
        model = [stored(client, name) for name in ("ads@bounded", "ads@free")]
    assert model[0] == model[1]


def test_one_shards_rows_are_never_parted_and_learning_waits(redis_url, path, monkeypatch):
    free, _ = learned(redis_url, path, "free", shards=1)
    monkeypatch.setattr(module, "CUT_BYTES", BOUND)
    bounded, blocked_s = learned(redis_url, path, "bounded", shards=1)
    assert max(free.sizes) > 2 * BOUND
    assert max(bounded.sizes) < 1.2 * BOUND, "one chunk is learned before it waits"
    assert blocked_s > 0
    assert bounded.rows == free.rows
