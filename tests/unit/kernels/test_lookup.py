"""The index against a dict: placing, finding, removing, refusing, with buckets that overflow and wrap around."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.kernels import build, layout

lookup, sweep = build.load("lookup"), build.load("sweep")
MAX_ROWS = 12


class Index:
    """A small index: 4 buckets of 5 keys, of which 12 may be used."""

    def __init__(self, buckets=4):
        self.index = np.zeros(8 * buckets, np.uint64)
        self.slots = self.index.view(np.uint32)
        self.row_key = np.zeros(MAX_ROWS + layout.FIRST_ROW, np.uint64)
        self.row_field = np.zeros(MAX_ROWS + layout.FIRST_ROW, np.uint8)
        self.dirty, self.stored = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
        self.counters = np.zeros(layout.N_COUNTERS, np.int64)
        self.counters[layout.NEXT_ROW] = layout.FIRST_ROW

    def known(self, keys):
        out = np.empty(len(keys), np.uint8)
        lookup.known(self.index, self.slots, np.array(keys, np.uint64), out)
        return out.tolist()

    def admit(self, keys):
        rows = np.empty(len(keys), np.uint32)
        lookup.admit(self.index, self.slots, self.row_key, self.dirty, self.stored, self.counters,
                     np.array(keys, np.uint64), MAX_ROWS, rows)  # fmt: skip
        self.row_field[rows[rows > 0]] = 3
        return rows.tolist()

    def forget(self, keys):
        lookup.forget(self.index, self.slots, self.row_key, self.row_field, self.dirty, self.stored, self.counters,
                      np.array(keys, np.uint64))  # fmt: skip

    def drop(self, keys):
        """Keys that `drop` names: all of `keys` must be held."""
        held = np.empty(MAX_ROWS, np.uint64), np.empty(MAX_ROWS, np.uint32)
        n = lookup.held_rows(self.index, self.slots, *held)
        row_of = dict(zip(held[0][:n].tolist(), held[1][:n].tolist(), strict=True))
        gone = np.empty(len(keys), np.uint64)
        rows = np.array([row_of[key] for key in keys], np.uint32)
        n = sweep.drop(self.index, self.slots, self.row_key, self.row_field, self.dirty, self.stored, self.counters,
                       rows, 0, np.zeros(1, np.uint64), gone)  # fmt: skip
        return gone[:n].tolist()

    def absent(self, keys):
        lookup.remember_absent(self.index, self.slots, self.counters, np.array(keys, np.uint64), MAX_ROWS)


# few high halves: many keys share a bucket, the last bucket overflows into the first
HIGH, LOW = st.sampled_from([0, 2**31, 2**32 - 1]), st.integers(2**16, 2**16 + 14)
KEYS = st.builds(lambda high, low: (high << 32) + low, HIGH, LOW)
COMMANDS = st.sampled_from(["admit", "forget", "absent", "drop"])
COMMANDS = st.lists(st.tuples(COMMANDS, st.lists(KEYS, max_size=4)), max_size=40)


@settings(max_examples=300)
@given(COMMANDS)
def test_the_index_behaves_like_a_dict(commands):
    table, rows, absent, seen = Index(), {}, set(), set()
    for command, keys in commands:
        seen.update(keys)
        if command == "drop":
            keys = [key for key in dict.fromkeys(keys) if key in rows]
            absent.clear()
            assert table.drop(keys) == keys  # all were loaded, so the store has them
            for key in keys:
                del rows[key]
        for key in keys if command != "drop" else ():
            getattr(table, command)([key])
            if command == "admit" and key not in rows:
                absent.discard(key)
                if len(rows) + len(absent) >= MAX_ROWS:
                    absent.clear()
                if len(rows) < MAX_ROWS:
                    rows[key] = True
            elif command == "forget":
                rows.pop(key, None)
                absent.discard(key)
            elif command == "absent" and key not in rows and key not in absent:
                if len(rows) + len(absent) >= MAX_ROWS:
                    absent.clear()
                if len(rows) < MAX_ROWS:
                    absent.add(key)
        every = sorted(seen)
        assert table.known(every) == [2 if key in rows else 1 if key in absent else 0 for key in every]
        assert table.counters[layout.ROWS] == len(rows)
        assert table.counters[layout.ABSENT] == len(absent)
    held = np.empty(MAX_ROWS, np.uint64), np.empty(MAX_ROWS, np.uint32)
    n = lookup.held_rows(table.index, table.slots, *held)
    assert sorted(held[0][:n].tolist()) == sorted(rows)
    assert len(set(held[1][:n].tolist())) == n  # no row has two keys
    assert all(int(table.row_key[row]) == key for key, row in zip(*(a[:n].tolist() for a in held), strict=True))
    assert sum(int(word).bit_count() for word in table.stored) == n
    table.forget(sorted(seen))
    assert (table.row_field[layout.FIRST_ROW : table.counters[layout.NEXT_ROW]] == layout.FREE_FIELD).all()
    assert not table.stored.any()
    assert not table.index.any()  # nothing is left, overflow counts included


def test_a_full_table_refuses_and_counts():
    table = Index()
    keys = list(range(2**16, 2**16 + MAX_ROWS + 3))
    rows = table.admit(keys)
    assert sorted(rows[:MAX_ROWS]) == list(range(layout.FIRST_ROW, layout.FIRST_ROW + MAX_ROWS))
    assert rows[MAX_ROWS:] == [0, 0, 0]
    assert table.counters[layout.REFUSED_ROWS] == 3


def test_reserved_keys_are_neither_admitted_nor_forgotten():
    table = Index()
    lookup.place(table.index, table.slots, np.uint64(layout.BIAS_KEY), layout.BIAS_ROW)
    assert table.admit([0, layout.BIAS_KEY, layout.RESERVED_KEYS - 1]) == [0, layout.BIAS_ROW, 0]
    table.forget([layout.BIAS_KEY])
    table.absent([5])
    assert table.known([layout.BIAS_KEY, 5, 0]) == [2, 0, 0]


def test_buckets_do_not_depend_on_low_bits_alone():
    """Low bits choose the shard: keys that differ only there must not crowd one end of the index."""
    keys = np.random.default_rng(0).integers(0, 2**64, 4000, np.uint64) & ~np.uint64(15)
    table = Index(buckets=1024)
    table.row_key = np.zeros(5000, np.uint64)
    for row, key in enumerate(keys, 2):
        lookup.place(table.index, table.slots, key, row)
    used = (table.index.reshape(-1, 8)[:, :5] != 0).sum(axis=1)
    assert (used > 0).mean() > 0.7
