"""Names of everything a model keeps in Redis.

All keys of one shard carry one hash tag, so that a shard is one slot of a Redis Cluster and MULTI/EXEC works in it.
A model is written ``name@generation``; shard of a feature = key mod number of shards.
"""

from __future__ import annotations

from dataclasses import dataclass


def live_key(name: str) -> str:
    """The generation that is served."""
    return f"ctr:{{{name}}}:live"


def spec_key(model_id: str) -> str:
    """Specification, format version, number of shards, as JSON."""
    return f"ctr:{{{model_id}}}:spec"


def model_pattern(model_id: str) -> str:
    """What all keys of all shards of a model match, and nothing else does."""
    return f"ctr:{{{model_id}:*}}:*"


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The three keys of one shard."""

    model_id: str
    shard: int

    @property
    def _tag(self) -> str:
        return f"ctr:{{{self.model_id}:{self.shard}}}"

    @property
    def rows(self) -> str:
        """Hash: feature key (8 bytes, little-endian) -> packed row."""
        return f"{self._tag}:rows"

    @property
    def meta(self) -> str:
        """Hash: version, owner, offsets, watermarks. The only key ever watched; every write to the shard writes it."""
        return f"{self._tag}:meta"

    @property
    def changes(self) -> str:
        """Stream: one entry a commit."""
        return f"{self._tag}:changes"
