"""A snapshot and a pickle are the model: they hash alike, and go on learning bit for bit."""

import pickle
import struct

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from naive import Event, to_batch

from ctr.errors import SnapshotError
from ctr.model import Model, snapshot
from ctr.spec import parse

FIELDS = 'name = "s"\nfields = [{name = "a"}, {name = "b"}, {name = "c"}]\n'
MODELS = {
    "ffm": "[model]\nk = 4\nmax_rows = 1024",
    "ffm k=3": "[model]\nk = 3\nmax_rows = 1024",
    "fm ftrl l1": '[model]\ntype = "fm"\nmax_rows = 1024\n[optimizer]\ntype = "ftrl"\nl1 = 0.01',
    "fwfm": '[model]\ntype = "fwfm"\nmax_rows = 1024',
    "fefm": '[model]\ntype = "fefm"\nmax_rows = 1024',
    "lr squared": '[model]\ntype = "lr"\nloss = "squared"\nmax_rows = 1024',
    "libffm": "[model]\nlibffm = true\nmax_rows = 1024",
    "expires and is swept": "[model]\nmax_rows = 1024\n[lifetime]\nttl_s = 3600.0\nadmission = 0.7",
}


def events(n, seed=1, dense=True):
    """A stream of more features than fit: old ones make room (and expire, where there is a ttl)."""
    rng = np.random.default_rng(seed)
    return to_batch([
        Event([(100_000 * (f + 1) + int(rng.integers(i // 4, i // 4 + 300)), f, 1.0) for f in range(3)],
              float(rng.random() < 0.3), 1.0, 1.7e9 + 10.0 * i)
        for i in range(n)
    ], 3, dense=dense)  # fmt: skip


def trained(model_text, batch):
    """A model with dirty rows, clean rows, and rows that left and were not yet told."""
    model = Model(parse(FIELDS + model_text))
    half = len(batch) // 2
    model.learn_many(batch.slice(0, half))
    model.take_dirty()
    model.learn_many(batch.slice(half, len(batch)))
    return model


def through_file(model, tmp_path):
    snapshot.save(model, tmp_path / "m.safetensors")
    return snapshot.load(tmp_path / "m.safetensors")


def through_pickle(model, _):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("way", [through_file, through_pickle])
@pytest.mark.parametrize("model_text", MODELS.values(), ids=MODELS)
def test_copy_is_the_model_and_goes_on_bit_for_bit(model_text, way, tmp_path):
    batch = events(4000)
    model = trained(model_text, batch.slice(0, 2000))
    copy = way(model, tmp_path)
    assert copy.state_hash() == model.state_hash()
    assert (copy.spec, copy.counts, copy.max_rows) == (model.spec, model.counts, model.max_rows)
    assert copy.rows == model.rows > 500
    for part in (batch.slice(2000, 2100), batch.slice(2100, 4000)):
        assert np.array_equal(model.learn_many(part), copy.learn_many(part))
        assert copy.state_hash() == model.state_hash()
        assert copy.dirty_rows == model.dirty_rows
        mine, theirs = model.take_dirty(), copy.take_dirty()
        order, other = np.argsort(mine.keys), np.argsort(theirs.keys)
        assert np.array_equal(mine.keys[order], theirs.keys[other])
        assert np.array_equal(mine.data[order], theirs.data[other])
        assert np.array_equal(model.take_gone(), copy.take_gone())
    assert copy.counts == model.counts


def test_what_has_still_to_be_told_to_the_store_is_kept(tmp_path):
    model = trained(MODELS["ffm"], events(3000))
    model.take_dirty()
    model.learn_many(events(20, seed=2))
    copy = through_file(model, tmp_path)
    gone = model.take_gone()
    assert len(gone) > 100
    assert np.array_equal(copy.take_gone(), gone)
    assert copy.dirty_rows == model.dirty_rows
    assert 0 < model.dirty_rows < model.rows / 2


def test_what_changed_in_place_and_another_bound_are_kept():
    model = Model(parse(FIELDS), max_rows=2048)
    model.set_spec(parse(FIELDS + "[optimizer]\nstep = 0.5"))
    copy = through_pickle(model, None)
    assert copy.spec.optimizer.step == 0.5
    assert copy.max_rows == 2048


def test_header_says_what_it_is(tmp_path):
    model = trained(MODELS["ffm"], events(50))
    snapshot.save(model, tmp_path / "m")
    header = snapshot.header(tmp_path / "m")
    assert header["format"] == header["row_format"] == "1"
    assert header["kernel_path"] in ("avx512", "avx2", "portable")
    assert msgspec.json.decode(header["counts"])["events_learned"] == 50
    assert msgspec.json.decode(header["spec"])["name"] == "s"


def test_every_damaged_byte_is_found(tmp_path):
    path = tmp_path / "m"
    snapshot.save(trained(MODELS["ffm"], events(20)), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for at in [*range(0, 400, 7), *rng.integers(400, len(whole), 100).tolist(), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x04]) + whole[at + 1 :])
        with pytest.raises(SnapshotError):
            snapshot.load(path)
    for size in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SnapshotError):
            snapshot.load(path)
    path.write_bytes(whole)
    snapshot.load(path)


def test_newer_versions_and_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "m"
    model = trained(MODELS["ffm"], events(20))
    snapshot.save(model, path)
    whole = path.read_bytes()
    for key in ("format", "row_format"):
        header = msgspec.json.decode(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])
        header["__metadata__"][key] = "2"
        text = msgspec.json.encode(header)
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + struct.unpack("<Q", whole[:8])[0] :])
        with pytest.raises(SnapshotError, match=f"m: {key} 2, this version reads up to 1"):
            snapshot.load(path)
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(3, np.float32)}))
    with pytest.raises(SnapshotError, match="not a snapshot of a model"):
        snapshot.load(path)
    path.write_text("fields")
    with pytest.raises(SnapshotError, match="no snapshot"):
        snapshot.load(path)


def test_a_failed_save_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "m"
    model = trained(MODELS["ffm"], events(20))
    snapshot.save(model, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        snapshot.save(model, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_cache_of_weights_is_no_model(tmp_path):
    model = Model(parse(FIELDS), weights_only=True)
    with pytest.raises(TypeError, match="weights_only"):
        snapshot.save(model, tmp_path / "m")
    with pytest.raises(TypeError, match="weights_only"):
        pickle.dumps(model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model_text", MODELS.values(), ids=MODELS)
def test_predictions_are_the_same_on_any_number_of_threads(model_text):
    batch = events(3000)
    model = trained(model_text, batch.slice(0, 2000))
    before, alone = model.state_hash(), model.predict_many(batch)
    for threads in (2, 3, 8):
        assert np.array_equal(model.predict_many(batch, threads=threads), alone)
    assert np.array_equal(model.predict_many(batch.slice(7, 8), threads=4), alone[7:8])
    assert len(model.predict_many(batch.slice(0, 0), threads=4)) == 0
    assert model.state_hash() == before
    with pytest.raises(ValueError, match="at least 1"):
        model.predict_many(batch, threads=0)
