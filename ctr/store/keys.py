"""Names of everything a model keeps in Redis.

All keys of one shard carry one hash tag, so that a shard is one slot of a Redis Cluster and MULTI/EXEC works in it.
A model is written ``name@generation``; shard of a feature = key mod number of shards.

On a Cluster the slots of the plain tags would be drawn at random, and one node might get most of a model. There the tag
ends in the first number that puts shard s of S into the s-th of S equal ranges of slots: nodes hold ranges, too.
"""

from __future__ import annotations

import binascii
import itertools
from dataclasses import dataclass
from functools import lru_cache

SLOTS = 16384
"""Of a Redis Cluster."""


def live_key(name: str) -> str:
    """The generation that is served."""
    return f"ctr:{{{name}}}:live"


def spec_key(model_id: str) -> str:
    """Specification, format version, number of shards, as JSON."""
    return f"ctr:{{{model_id}}}:spec"


def lease_key(model_id: str) -> str:
    """Who should write: see `ctr.store.lease`."""
    return f"ctr:{{{model_id}}}:lease"


def guard_key(model_id: str) -> str:
    """What the guard says, and what is answered: see `ctr.store.guard_record`."""
    return f"ctr:{{{model_id}}}:guard"


def slot_of(tag: str) -> int:
    """Slot of a hash tag: CRC-16/XMODEM of its bytes, as Redis Cluster has it."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


@lru_cache(maxsize=64)
def shard_keys(model_id: str, shards: int, *, spread: bool) -> tuple[ShardKeys, ...]:
    """Keys of all shards of a model; `spread` evenly over the slots of a Cluster."""
    if not spread:
        return tuple(ShardKeys(model_id, shard) for shard in range(shards))
    return tuple(ShardKeys(model_id, shard, _suffix(model_id, shard, shards)) for shard in range(shards))


def _suffix(model_id: str, shard: int, shards: int) -> str:
    """What puts the slot of a shard's tag into the shard's range."""
    begin, end = (SLOTS * edge // shards for edge in (shard, shard + 1))
    for number in itertools.count():
        if begin <= slot_of(f"{model_id}:{shard}:{number}") < end:
            return f":{number}"
    raise AssertionError("count() never ends")


def model_pattern(model_id: str) -> str:
    """What all keys of all shards of a model match, and nothing else does."""
    return f"ctr:{{{model_id}:*}}:*"


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of one shard."""

    model_id: str
    shard: int
    suffix: str = ""

    @property
    def _tag(self) -> str:
        return f"ctr:{{{self.model_id}:{self.shard}{self.suffix}}}"

    @property
    def rows(self) -> str:
        """Hash: feature key (8 bytes, little-endian) -> packed row."""
        return f"{self._tag}:rows"

    @property
    def new_rows(self) -> str:
        """Hash: rows that are being written anew, until they take the place of `rows`."""
        return f"{self._tag}:rows:new"

    @property
    def meta(self) -> str:
        """Hash: version, owner, offsets, watermarks. The only key ever watched; every write to the shard writes it."""
        return f"{self._tag}:meta"

    @property
    def changes(self) -> str:
        """Stream: one entry a commit."""
        return f"{self._tag}:changes"
