"""Snapshots of a model that is being written: each shard at one version, all at one cut; files; restored elsewhere."""

import threading
import time

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from ctr import spec as specification
from ctr.errors import FencedError, ModelMismatchError, ModelMissingError, ShardLostError, SnapshotError
from ctr.rows import RowBlock, RowShape
from ctr.store import (
    Cut,
    ModelWriter,
    ShardKeys,
    ShardReader,
    StoredModel,
    Watermarks,
    archive,
    connect,
    create_model,
    images,
    open_model,
    read_model,
    restoring,
    resume,
    upkeep,
)

TEXT = 'name = "m"\nfields = [{ name = "a" }, { name = "b" }]\n'
SIZE = RowShape.of(specification.parse(TEXT)).packed_bytes
KEYS = 6000


def spec_of(shards):
    return specification.parse(f"{TEXT}[store]\nshards = {shards}")


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as made:
        yield made


class History:
    """A writer that goes on until it is told to stop, and what is true after each of its cuts."""

    def __init__(self, url, shards, *, pause_s=0.0, every=2500):
        self.shards, self._pause_s, self._every = shards, pause_s, every
        self.cuts = [({}, ())]
        self._client = connect(url)
        self.writer = ModelWriter(self._client, open_model(self._client, spec_of(shards), create=True))
        self.writer.take_over()
        self._random, self._over = np.random.default_rng(shards), threading.Event()

    def cut(self):
        """Write some rows, each filled with the cut's number, and drop some others."""
        number = len(self.cuts)
        keys = self._random.permutation(KEYS).astype(np.uint64)
        written, gone = keys[: self._every], keys[self._every : self._every + 50]
        data = np.zeros((len(written), SIZE), np.uint8)
        data[:, :4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
        self.writer.commit(
            Cut(RowBlock(written, data), {"t:0": number}, Watermarks(number, number), gone=gone, origins={"t:0": 0})
        )
        self.cuts.append((dict.fromkeys(written.tolist(), number), gone.tolist()))

    def state(self, number):
        """Cut that wrote each key last, after so many cuts."""
        rows = {}
        for written, gone in self.cuts[: number + 1]:
            rows |= written
            for key in gone:
                rows.pop(key, None)
        return rows

    def __enter__(self):
        def run():
            while not self._over.wait(self._pause_s):
                self.cut()

        self._thread = threading.Thread(target=run)  # what it raises is an error of the test: see filterwarnings
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def close(self):
        self.writer.close()
        self._client.close()


@pytest.fixture
def history(redis_url):
    made = []

    def make(shards, **options):
        made.append(History(redis_url, shards, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def differing(found, expected):
    """Some keys whose cuts differ, as (key, found, expected): pytest takes minutes for all of them."""
    keys = [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
    return [(key, found.get(key), expected.get(key)) for key in sorted(keys)[:5]]


def rows_of(blocks):
    found = {}
    for block in blocks:
        numbers = block.data[:, :4].copy().view("<u4").ravel()
        for key, number in zip(block.keys.tolist(), numbers.tolist(), strict=True):
            assert key not in found, "each key once"
            found[key] = number
    return found


def held(client, model_id):
    """Rows of a model in Redis, and the next offset of each shard."""
    stored, rows, offsets = read_model(client, model_id), {}, []
    for shard in range(stored.shards):
        keys = ShardKeys(model_id, shard)
        part = rows_of(ShardReader(client, keys, row_bytes=SIZE).scan())
        assert all(key % stored.shards == shard for key in part)
        rows |= part
        offsets.append(int(client.hget(keys.meta, "offset:t:0") or 0))
    return rows, offsets


@pytest.mark.parametrize("shards", [1, 4])
def test_images_are_those_of_one_cut_while_commits_go_on(client, history, shards):
    writer = history(shards, pause_s=0.02)
    for _ in range(3):
        writer.cut()
    meanwhile = 0
    with writer:
        for _ in range(5):
            before = len(writer.cuts)
            with images.gather(client, read_model(client, "m"), rows_per_s=20_000) as taken:
                meanwhile += len(writer.cuts) - before
                assert images.is_level(taken)
                number = taken[0].meta.offsets["t:0"]
                found = rows_of(block for image in taken for block in image.blocks())
                assert all([*block.keys] == sorted(block.keys) for image in taken for block in image.blocks())
                assert [image.rows for image in taken] == [sum(len(b) for b in image.blocks()) for image in taken]
            wait_for_cut(writer, number)
            assert not differing(found, writer.state(number))
    assert meanwhile > 5, "the writer went on while images were taken"


def wait_for_cut(writer, number):
    until = time.monotonic() + 10
    while len(writer.cuts) <= number:
        assert time.monotonic() < until
        time.sleep(0.01)


def crash_in_mid_commit(writer, monkeypatch, shard):
    """One more cut, of which only the shards below `shard` get anything."""

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer.writer._writers[shard], "commit", die)
        number = len(writer.cuts)
        with pytest.raises(KeyboardInterrupt):
            writer.cut()
    writer.cuts.append(({}, ()))
    return number


def test_a_writer_that_died_in_mid_commit_leaves_images_by_their_own_offsets(client, history, monkeypatch):
    writer = history(4)
    writer.cut()
    crash_in_mid_commit(writer, monkeypatch, 2)
    stored = read_model(client, "m")
    with images.gather(client, stored, level_within_s=0.1) as taken:
        assert [image.meta.offsets["t:0"] for image in taken] == [2, 2, 1, 1]
        assert not images.is_level(taken)
        with pytest.raises(SnapshotError, match="not at one cut"):
            restoring.dealt(taken, 2)
        restoring.restore(client, restoring.renamed(stored.spec, "m@same", 4), taken, shards=4)
        restoring.restore(client, restoring.renamed(stored.spec, "m@twice", 8), taken, shards=8)
        expected = rows_of(block for image in taken for block in image.blocks())
    assert held(client, "m@same") == (expected, [2, 2, 1, 1])
    assert held(client, "m@twice") == (expected, [2, 2, 1, 1] * 2), "each new shard's rows come of one old shard"
    metas = ModelWriter(client, read_model(client, "m@twice")).look()
    assert (resume(metas).level, resume(metas).offsets) == (False, {"t:0": 1})


@pytest.mark.parametrize("shards", [1, 3, 4, 7])
def test_restored_to_another_number_of_shards_and_trained_on(client, history, tmp_path, shards):
    writer = history(4)
    for _ in range(3):
        writer.cut()
    stored = read_model(client, "m")
    with images.gather(client, stored) as taken:
        snapshot = archive.write(str(tmp_path), stored.spec, taken)
    client.flushdb()
    found = archive.find(str(tmp_path), "m")
    assert found == snapshot
    found.check()
    spec = restoring.renamed(found.spec, "m@1", shards)
    restoring.restore(client, spec, found.images, shards=shards)
    assert held(client, "m@1") == (writer.state(3), [3] * shards)
    assert read_model(client, "m").spec == spec, "what was restored into nothing is served"
    after = ModelWriter(client, open_model(client, spec, create=False))
    start = resume(after.take_over())
    assert (start.level, start.offsets, start.watermarks.event_s) == (True, {"t:0": 3}, 3.0)
    assert rows_of(after.load()) == writer.state(3)
    more = RowBlock(np.array([KEYS + 1], np.uint64), np.zeros((1, SIZE), np.uint8))
    after.commit(Cut(more, {"t:0": 4, "t:1": 2}, Watermarks(), origins={"t:1": 0}))
    assert held(client, "m@1") == ({**writer.state(3), KEYS + 1: 0}, [4] * shards)
    after.close()


def test_a_file_is_plain_safetensors(client, history, tmp_path):
    writer = history(2)
    writer.cut()
    with images.gather(client, read_model(client, "m")) as taken:
        snapshot = archive.write(f"file://{tmp_path}", read_model(client, "m").spec, taken)
    folder = tmp_path / "m@1" / snapshot.place.path.rpartition("/")[2]
    tensors = safetensors.numpy.load_file(folder / "shard-00001.safetensors")
    assert tensors["rows"].shape == (taken[1].rows, SIZE)
    expected = {key: number for key, number in writer.state(1).items() if key % 2}
    assert rows_of([RowBlock(tensors["keys"], tensors["rows"])]) == expected


@pytest.fixture
def snapshot(client, history, tmp_path):
    """One of two shards and one cut."""
    history(2).cut()
    stored = read_model(client, "m")
    with images.gather(client, stored) as taken:
        return archive.write(str(tmp_path), stored.spec, taken)


def test_a_flipped_bit_anywhere_is_refused(snapshot, tmp_path):
    folder = tmp_path / "m@1" / snapshot.place.path.rpartition("/")[2]
    random = np.random.default_rng(1)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *random.integers(len(whole), size=40).tolist()}:
            broken = bytearray(whole)
            broken[place] ^= 1 << int(random.integers(8))
            path.write_bytes(broken)
            if path.name == archive.MANIFEST and _reads_the_same(broken, whole):
                continue
            with pytest.raises(SnapshotError):
                archive.find(str(tmp_path), "m").check()
        path.write_bytes(whole[:-1])
        with pytest.raises(SnapshotError):
            archive.find(str(tmp_path), "m").check()
        path.write_bytes(whole)
    archive.find(str(tmp_path), "m").check()


def _reads_the_same(one, other):
    """A blank of the manifest's layout that became another blank."""
    try:
        return msgspec.json.decode(bytes(one)) == msgspec.json.decode(other)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def test_a_snapshot_cut_off_half_way_is_none(client, snapshot, tmp_path, monkeypatch):
    stored = read_model(client, "m")
    for step in ("_write_shard", "_to_disk"):
        done, whole = [], getattr(archive, step)

        def die(*arguments, real=whole, done=done):
            done.append(arguments)
            if len(done) == 2:
                raise KeyboardInterrupt
            return real(*arguments)

        with monkeypatch.context() as patch, images.gather(client, stored) as taken:
            patch.setattr(archive, step, die)
            with pytest.raises(KeyboardInterrupt):
                archive.write(str(tmp_path), stored.spec, taken)
    assert len([*(tmp_path / "m@1").iterdir()]) == 3
    assert archive.find(str(tmp_path), "m") == snapshot


def test_retention_keeps_the_newest_and_removes_what_was_abandoned(client, snapshot, tmp_path):
    stored, root = read_model(client, "m"), tmp_path / "m@1"
    with images.gather(client, stored) as taken:
        newer = [archive.write(str(tmp_path), stored.spec, taken) for _ in range(2)]
    abandoned, begun = root / "20200101T000000.000Z-abcd", root / "29990101T000000.000Z-abcd"
    for half in (abandoned, begun, root / "notes"):
        half.mkdir()
        (half / "shard-00000.safetensors").write_bytes(b"half")
    gone = archive.prune(str(tmp_path), "m@1", keep=2)
    names = [one.place.path.rpartition("/")[2] for one in (snapshot, *newer)]
    assert sorted(gone) == sorted([names[0], abandoned.name])
    assert sorted(path.name for path in root.iterdir()) == sorted([*names[1:], begun.name, "notes"])
    assert [place.path.rpartition("/")[2] for place in archive.stored(str(tmp_path), "m")] == names[1:]


def test_in_memory_as_a_remote_store(client, snapshot):
    stored = read_model(client, "m")
    with images.gather(client, stored) as taken:
        written = archive.write("memory://backups/ads", stored.spec, taken)
        kept = archive.write("memory://backups/ads", stored.spec, taken)
    assert archive.find("memory://backups/ads", "m@1") == kept
    assert archive.prune("memory://backups/ads", "m@1", keep=1) == [written.place.path.rpartition("/")[2]]
    found = archive.find("memory://backups/ads", "m")
    found.check()
    restoring.restore(client, restoring.renamed(found.spec, "m@2", 2), found.images, shards=2)
    assert held(client, "m@2") == held(client, "m@1")
    assert read_model(client, "m").spec.generation == "1", "what is served stays"


def test_a_restore_that_died_is_no_model_and_the_next_one_clears_it_away(client, snapshot, monkeypatch):
    spec = restoring.renamed(snapshot.spec, "m@2", 3)
    for step in ("write", "finish"):

        def die(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(restoring._Writer, step, die)
            with pytest.raises(KeyboardInterrupt):
                restoring.restore(client, spec, snapshot.images, shards=3)
        with pytest.raises(ModelMissingError):
            read_model(client, "m@2")
        with pytest.raises(ShardLostError):
            create_model(client, spec)
        client.hset(ShardKeys("m@2", 1).rows, b"stranger", b"row")
    restoring.restore(client, spec, snapshot.images, shards=3)
    assert held(client, "m@2")[0] == held(client, "m@1")[0]
    with pytest.raises(ModelMismatchError, match="there already"):
        restoring.restore(client, spec, snapshot.images, shards=3)


def test_of_two_restores_at_once_one_stops(client, snapshot, monkeypatch):
    spec = restoring.renamed(snapshot.spec, "m@2", 2)
    first = restoring._Writer(client, StoredModel(spec, 2), 0.0)
    blocks = [block for image in snapshot.images for block in image.blocks()]
    first.write(blocks[0])
    restoring.restore(client, spec, snapshot.images, shards=2)
    with pytest.raises(FencedError):
        first.write(blocks[1])
    assert held(client, "m@2")[0] == held(client, "m@1")[0]
    first.close()


def test_drop_leaves_nothing_and_refuses_what_is_in_use(client, history):
    writer = history(3)
    writer.cut()
    client.hset("ctr:{m@1}:names", b"12345678", b"a=b")
    client.hset("ctr:{m@10}:names", b"12345678", b"another model's")
    client.hset("ctr:{m@1:3}:rows", b"12345678", b"of no shard any more")
    with pytest.raises(FencedError, match="holds m@1"):
        upkeep.drop(client, "m@1")
    for shard in range(3):
        client.hset(ShardKeys("m@1", shard).meta, "commit_s", time.time() - 60)
    with pytest.raises(ModelMismatchError, match="served"):
        upkeep.drop(client, "m@1")
    keys = []
    assert upkeep.drop(client, "m@1", force=True, deleted=keys.append) == len(keys)
    assert client.keys("*") == [b"ctr:{m@10}:names"]
    assert [key.rpartition(":")[2] for key in keys[:4]] == ["spec", "meta", "meta", "meta"], "no commit from there on"
    with pytest.raises(ShardLostError):
        writer.cut()
    with pytest.raises(ModelMissingError):
        upkeep.drop(client, "m@1")


def test_clone_and_live(client, history):
    writer = history(4, pause_s=0.02)
    with writer:
        time.sleep(0.1)
        upkeep.clone(client, "m", "m@copy", shards=2, rows_per_s=0)
    rows, offsets = held(client, "m@copy")
    assert offsets[0] == offsets[1]
    assert not differing(rows, writer.state(offsets[0]))
    assert upkeep.model_ids(client) == ["m@1", "m@copy"]
    assert upkeep.set_live(client, "m@copy") == "1"
    assert read_model(client, "m").spec.generation == "copy"
    with pytest.raises(ModelMissingError):
        upkeep.set_live(client, "m@none")
    client.delete(ShardKeys("m@1", 2).meta)
    with pytest.raises(ShardLostError):
        upkeep.set_live(client, "m@1")
    assert read_model(client, "m").spec.generation == "copy"


def test_inspect_says_what_is_there(client, history):
    writer = history(2)
    writer.cut()
    facts = upkeep.inspect(client, "m")
    assert (facts.model_id, facts.live, facts.held, facts.level, facts.damage) == ("m@1", True, True, True, "")
    assert facts.rows == len(writer.state(1))
    assert [shard.offsets for shard in facts.shards] == [{"t:0": 1}] * 2
    assert 0 <= facts.commit_age_s < 10
    used = sum(client.memory_usage(key, samples=0) for key in client.keys("ctr:{m@1:*"))
    assert 0.9 < facts.memory_bytes / used < 1.1
    client.hdel(ShardKeys("m@1", 1).rows, *client.hkeys(ShardKeys("m@1", 1).rows)[:10])
    client.hset(ShardKeys("m@1", 1).meta, "rows", 10**6)
    assert "shard 1" in upkeep.inspect(client, "m").damage
