"""Compressed files are read like plain ones: the same lines, the same positions."""

import gzip
import time

import pytest
import zstandard

from ctr.errors import SourceUnavailableError
from workers.sources.files import BLOCK_BYTES, FileSource

LINES = [b"line %d " % i * (1 + i % 50) for i in range(4000)]
TEXT = b"\n".join(LINES) + b"\n"


@pytest.fixture
def opened():
    """Makes sources that are closed at the end."""
    made = []

    def make(path, offsets=None, *, follow=False, max_line_bytes=1 << 20):
        made.append(FileSource(path, follow=follow, max_line_bytes=max_line_bytes))
        made[-1].open(offsets or {})
        return made[-1]

    yield make
    for source in made:
        source.close()


def drain(source):
    """Everything that comes until nothing does, as (offset, line)."""
    found = []
    while (messages := source.poll(0)) is not None:
        found += [
            (offset, bytes(messages.data[begin:end]))
            for offset, begin, end in zip(
                messages.offsets.tolist(), messages.begin.tolist(), messages.end.tolist(), strict=True
            )
        ]
    return found


def compressed(suffix, data):
    if suffix == ".gz":
        return gzip.compress(data)
    # two frames, as `cat a.zst b.zst` makes them
    middle = len(data) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:middle], data[middle:]))


@pytest.fixture(params=[".gz", ".zst"])
def pair(request, tmp_path):
    """A plain file, and the same compressed."""
    plain, packed = tmp_path / "a", tmp_path / f"b{request.param}"
    plain.write_bytes(TEXT)
    packed.write_bytes(compressed(request.param, TEXT))
    return plain, packed


def test_lines_and_positions_are_those_of_the_plain_file(pair, opened):
    plain, packed = pair
    assert len(TEXT) > 3 * BLOCK_BYTES
    expected, found = drain(opened(plain)), drain(opened(packed))
    assert found == expected


def test_a_restart_goes_on_at_the_position(pair, opened):
    _, packed = pair
    source = opened(packed)
    first = source.poll(0)
    at = source.positions()
    rest = drain(opened(packed, at))
    assert len(first) + len(rest) == len(LINES)
    assert rest[0][0] == at[str(packed.resolve())]
    assert [line for _, line in rest] == LINES[len(first) :]
    assert drain(opened(packed, {str(packed.resolve()): len(TEXT)})) == []


def test_what_is_appended_is_read_on_and_a_new_file_too(pair, opened, tmp_path):
    _, packed = pair
    source = opened(tmp_path, follow=True)
    assert len(drain(source)) == 2 * len(LINES)
    more = [b"more %d" % i for i in range(3)]
    with packed.open("ab") as file:
        file.write(compressed(packed.suffix, b"\n".join(more) + b"\n"))
    time.sleep(0.25)  # directories are looked at again every 0.2 s
    assert sum(source.lag().values()) > 0
    assert drain(source) == [(len(TEXT) + 7 * i, line) for i, line in enumerate(more)]
    assert sum(source.lag().values()) == 0
    (tmp_path / f"c{packed.suffix}").write_bytes(compressed(packed.suffix, TEXT))
    time.sleep(0.25)
    assert [line for _, line in drain(source)] == LINES
    assert source.positions()[str(packed.resolve())] == len(TEXT) + 21
    assert drain(opened(tmp_path, source.positions())) == []


def test_the_lag_is_gone_at_the_end(pair, opened):
    _, packed = pair
    source = opened(packed, follow=True)
    assert sum(source.lag().values()) > 0
    drain(source)
    assert sum(source.lag().values()) == 0


def test_a_line_beyond_the_bound_and_one_without_newline(tmp_path, opened):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"short\n" + b"x" * (5 * BLOCK_BYTES) + b"\nnext"))
    found = drain(opened(path, max_line_bytes=1000, follow=True))
    assert [line for _, line in found if len(line) < 10] == [b"short", b"next"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_file_gives_what_is_whole_and_then_says_so(tmp_path, opened, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(compressed(suffix, TEXT)[:-20])
    source = opened(path)
    with pytest.raises(SourceUnavailableError, match=r"a\.\w+ cannot be read: damaged or cut"):
        drain(source)
    assert not source.finished
    path.write_bytes(compressed(suffix, TEXT))  # it was being copied here still
    rest = drain(source)
    assert rest[-1][1] == LINES[-1]
    assert source.up


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_file_is_an_outage_wherever_the_damage_is(tmp_path, opened, suffix):
    path, good = tmp_path / f"a{suffix}", compressed(suffix, TEXT)
    for at in range(12, len(good), len(good) // 40):
        path.write_bytes(good[:at] + bytes(255 - byte for byte in good[at : at + 4]) + good[at + 4 :])
        try:
            drain(opened(path))
        except SourceUnavailableError as error:
            assert "damaged or cut" in str(error)  # noqa: PT017  zstd files need not have checksums
        else:
            assert suffix == ".zst"


def test_what_is_not_compressed_at_all_is_said(tmp_path, opened):
    for suffix in (".gz", ".zst"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"plain text\n")
        with pytest.raises(SourceUnavailableError, match="damaged or cut"):
            opened(path).poll(0)
