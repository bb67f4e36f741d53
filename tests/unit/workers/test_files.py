"""The file source: every line once, from any position, whatever is written meanwhile."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr.errors import PositionLostError, SettingError, SourceUnavailableError
from workers.sources import files
from workers.sources.files import BLOCK_BYTES, FileSource


def drain(source):
    """Everything that comes until nothing does, as (partition, offset, line)."""
    found = []
    while (messages := source.poll(0)) is not None:
        found += [
            (source.partitions[p], offset, bytes(messages.data[begin:end]))
            for p, offset, begin, end in zip(
                messages.partitions.tolist(), messages.offsets.tolist(), messages.begin.tolist(),
                messages.end.tolist(), strict=True,
            )
        ]  # fmt: skip
    return found


def opened(path, offsets=None, *, follow=False, max_line_bytes=1 << 20):
    source = FileSource(path, follow=follow, max_line_bytes=max_line_bytes)
    source.open(offsets or {})
    return source


@given(
    st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), max_size=30), st.data()
)
def test_every_line_once_from_any_line_on(tmp_path_factory, lines, data):
    path = tmp_path_factory.mktemp("f") / "a.jsonl"
    ends = data.draw(st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=len(lines), max_size=len(lines)))
    pieces = [line + end for line, end in zip(lines, ends, strict=True)]
    path.write_bytes(b"".join(pieces))
    skipped = data.draw(st.integers(0, len(lines)))
    offset = sum(map(len, pieces[:skipped]))
    source = opened(path, {str(path.resolve()): offset})
    expected = []
    for line, piece in zip(lines[skipped:], pieces[skipped:], strict=True):
        if line:
            expected.append((str(path.resolve()), offset, line))
        offset += len(piece)
    assert drain(source) == expected
    assert source.finished
    assert source.positions() == {str(path.resolve()): path.stat().st_size}


def test_blocks_do_not_cut_lines(tmp_path):
    path = tmp_path / "a"
    lines = [b"%07d" % i * (1 + i % 9) for i in range(3 * BLOCK_BYTES // 35)]
    path.write_bytes(b"\n".join(lines))  # the last line has no newline
    source = opened(path)
    polls = 0
    found = []
    while (messages := source.poll(0)) is not None:
        polls += 1
        found += [bytes(messages.data[b:e]) for b, e in zip(messages.begin, messages.end, strict=True)]
    assert found == lines
    assert polls > 2, "more than one block"


def test_a_line_beyond_the_bound_is_cut_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"short\n" + b"x" * (5 * BLOCK_BYTES) + b"\nnext\n")
    found = drain(opened(path, max_line_bytes=1000))
    assert [line for _, _, line in found if len(line) < 10] == [b"short", b"next"]
    assert [offset for _, offset, _ in found] == [0, 6, 6 + 5 * BLOCK_BYTES + 1]
    assert 1000 < len(found[1][2]) <= 2 * BLOCK_BYTES


def test_a_directory_is_read_in_the_order_of_names_without_dead_letters(tmp_path):
    for name in ("b", "a", ".hidden", "a.dlq"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "folder").mkdir()
    assert [line for _, _, line in drain(opened(tmp_path))] == [b"a", b"b"]


def test_following_waits_for_the_end_of_a_line_and_for_new_files(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1\n2")
    source = opened(tmp_path, follow=True)
    assert [line for _, _, line in drain(source)] == [b"1"]
    assert not source.finished
    with path.open("ab") as file:
        file.write(b"2\n")
    (tmp_path / "b").write_bytes(b"3\n")
    found = []
    for _ in range(100):
        found += [line for _, _, line in drain(source)]
        if len(found) == 2:
            break
        time.sleep(0.02)
    assert sorted(found) == [b"22", b"3"]


def test_the_arrival_watermark_is_now_only_when_all_is_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1\n")
    source = opened(path, follow=True)
    before = source.arrival_watermark_s()
    source.poll(0)
    assert source.arrival_watermark_s() == before, "the line was returned, the end not yet seen"
    assert source.poll(0) is None
    assert source.arrival_watermark_s() > before
    assert source.lag() == {str(path.resolve()): 0}


def test_a_file_that_shrank_is_not_read_on(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1\n2\n")
    with pytest.raises(PositionLostError, match="has 4 bytes, 9 of it are learned"):
        opened(path, {str(path.resolve()): 9})


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"--from = .*nowhere"):
        FileSource(tmp_path / "nowhere", follow=False, max_line_bytes=1)


def test_a_directory_that_goes_away_is_an_outage_and_over_when_it_is_back(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    source = opened(folder, follow=True)
    folder.rmdir()
    time.sleep(0.25)  # the directory is listed again every 0.2 s
    with pytest.raises(SourceUnavailableError, match="in cannot be read"):
        source.poll(0)
    assert not source.up
    folder.mkdir()
    (folder / "a").write_bytes(b"1\n")
    assert [line for _, _, line in drain(source)] == [b"1"]
    assert source.up


def test_positions_of_files_that_went_are_forgotten_but_for_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GONE_FILES", 3)
    monkeypatch.setattr(files, "_RESCAN_S", 0.0)
    folder, other = tmp_path / "in", "/elsewhere/a"
    folder.mkdir()
    source = opened(folder, {other: 7}, follow=True)
    for i in range(9):
        (folder / f"{i}").write_text(f"{i}\n")
        if i >= 2:
            (folder / f"{i - 2}").unlink()
        assert [line for _, _, line in drain(source)] == [b"%d" % i]
    # 7 and 8 are there, 0 to 6 went; a position of another source is none of ours
    kept = {str(folder / str(i)): 2 for i in (4, 5, 6, 7, 8)}
    assert source.positions() == {other: 7, **kept}
    (folder / "4").write_text("4\n")  # it comes back, as it was
    assert drain(source) == []
    (folder / "9").write_text("9\n")
    for i in (7, 8):
        (folder / f"{i}").unlink()
    assert [line for _, _, line in drain(source)] == [b"9"]
    assert source.positions() == {other: 7, **{str(folder / str(i)): 2 for i in (4, 6, 7, 8, 9)}}
    # a new source is told all positions, and forgets the first of the names
    again = opened(folder, {**source.positions(), str(folder / "0"): 2, str(folder / "1"): 2})
    assert drain(again) == []
    assert again.positions() == source.positions()


def test_a_directory_whose_disk_is_away_keeps_all_positions(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "GONE_FILES", 1)
    monkeypatch.setattr(files, "_RESCAN_S", 0.0)
    for i in range(5):
        (tmp_path / f"{i}").write_text(f"{i}\n")
    source = opened(tmp_path, follow=True)
    drain(source)
    before = source.positions()
    held = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in held:
        path.unlink()
    assert drain(source) == []
    assert source.positions() == before
    for path, data in held.items():
        path.write_bytes(data)
    assert drain(source) == []
    assert source.positions() == before


def test_many_small_files_cost_no_more_than_their_number(tmp_path, monkeypatch):
    for i in range(300):
        (tmp_path / f"{i:04}").write_text(f"{i}\n")
    opens = []
    real = FileSource._peek
    monkeypatch.setattr(FileSource, "_peek", lambda *args: opens.append(args[1]) or real(*args))
    assert len(drain(opened(tmp_path))) == 300
    assert len(opens) < 2 * 300, "no file is opened again for each that follows"
