"""Which models the store holds: creation, look-up by name, the live generation."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from ctr.errors import ModelMismatchError, ModelMissingError, SettingError, ShardLostError
from ctr.rows import RowShape
from ctr.spec import NAME_PATTERN, Spec, differences, encode, from_builtins
from ctr.store.connection import Client, is_cluster, translated
from ctr.store.keys import ShardKeys, live_key, model_pattern, shard_keys, spec_key

DEFAULT_SHARDS = 16
"""Of a new model whose specification does not say."""

FORMAT = 1
"""Version of everything below a model's keys. A newer one is refused; an older one must stay readable."""


class _Held(msgspec.Struct, omit_defaults=True):
    """What the key of a specification holds, as JSON."""

    format: int
    shards: Annotated[int, msgspec.Meta(ge=1)] = 1
    spec: Any = None
    spread: bool = False


@dataclass(frozen=True, slots=True)
class StoredModel:
    """What the store says of a model."""

    spec: Spec
    shards: int
    format: int = FORMAT
    spread: bool = False
    """Whether tags spread the shards over the slots of a Cluster (see `ctr.store.keys`): it was made on one."""

    @property
    def keys(self) -> tuple[ShardKeys, ...]:
        """Names of what each shard holds, in order."""
        return shard_keys(self.spec.model_id, self.shards, spread=self.spread)

    @property
    def row_bytes(self) -> int:
        """Size of a packed row (see `ctr.rows`)."""
        return RowShape.of(self.spec).packed_bytes


def read_model(client: Client, model: str) -> StoredModel:
    """Look a model up as ``name`` (its live generation) or ``name@generation``.

    Raises
    ------
    ModelMissingError
        No such model.
    ModelMismatchError
        It was written in a newer format.
    """
    name, _, generation = model.partition("@")
    if not re.match(NAME_PATTERN, name) or (generation and not re.match(NAME_PATTERN, generation)):
        raise SettingError("model", model, "name or name@generation, each of a-z 0-9 _ - and at most 64 long")
    with translated():
        if not generation:
            live: Any = client.get(live_key(name))
            if live is None:
                raise ModelMissingError(f"the store holds no model {name!r}: ctr train SPEC --create makes one")
            generation = live.decode()
        raw: Any = client.get(spec_key(f"{name}@{generation}"))
    if raw is None:
        raise ModelMissingError(f"the store holds no model {name}@{generation}: ctr train SPEC --create makes one")
    return decode(raw, f"{name}@{generation}")


@lru_cache(maxsize=16)
def decode(raw: bytes, model_id: str) -> StoredModel:
    """Read what `create_model` wrote. Kept: a scorer looks each second, and it takes 4 ms of the interpreter."""
    try:
        held = msgspec.json.decode(raw, type=_Held)
    except msgspec.DecodeError as error:
        raise ModelMismatchError(
            f"{spec_key(model_id)} does not hold a specification ({error}): restore Redis from a backup, or delete "
            f"{spec_key(model_id)} and {model_pattern(model_id)} to make the model anew"
        ) from None
    if held.format > FORMAT:
        raise ModelMismatchError(
            f"{model_id} is stored in format {held.format}, this version reads up to {FORMAT}: upgrade this program"
        )
    try:
        return StoredModel(from_builtins(held.spec), held.shards, held.format, held.spread)
    except SettingError as error:
        raise ModelMismatchError(f"{spec_key(model_id)} holds a specification that is none: {error}") from None


def encoded(stored: StoredModel) -> bytes:
    """What `decode` reads."""
    return msgspec.json.encode(_Held(FORMAT, stored.shards, encode(stored.spec), stored.spread))


def create_model(client: Client, spec: Spec) -> StoredModel:
    """Make a new, empty model and let it be served if its name has no live generation yet.

    The shards come first, the specification last: a crash between leaves nothing that looks like a model, and the next
    call goes on from there.

    Raises
    ------
    ShardLostError
        Parts of a model of that name are there, without a specification.
    ModelMismatchError
        The model is there.
    """
    stored = StoredModel(spec, spec.store.shards or DEFAULT_SHARDS, spread=is_cluster(client))
    with translated():
        if client.exists(spec_key(spec.model_id)):
            raise ModelMismatchError(f"{spec.model_id} is there already: start again without making it")
        if left := _leftovers(client, spec.model_id):
            raise ShardLostError(
                f"{spec.model_id} has no specification but {', '.join(left[:3])}{' ...' if len(left) > 3 else ''} "
                f"({len(left)} keys): restore a backup, or delete {model_pattern(spec.model_id)}"
            )
        for keys in stored.keys:
            client.hsetnx(keys.meta, "ver", f"0-{secrets.token_hex(8)}")
            client.hset(keys.meta, "spec", spec.digest)
        client.set(spec_key(spec.model_id), encoded(stored))
        client.setnx(live_key(spec.name), spec.generation)
    return stored


def _leftovers(client: Client, model_id: str) -> list[str]:
    """Keys of shards, without those that a creation leaves which did not come to its end."""
    left = []
    for name in sorted(client.scan_iter(match=model_pattern(model_id), count=1000)):
        meta: Any = client.hgetall(name) if name.endswith(b":meta") else {}
        if not (meta.keys() in ({b"ver"}, {b"ver", b"spec"}) and meta[b"ver"].startswith(b"0-")):
            left.append(name.decode())
    return left


def open_model(client: Client, spec: Spec, *, create: bool) -> StoredModel:
    """The stored model that `spec` may train; made now if there is none and `create` says so.

    What may change in place (step, ttl, interval) is taken over into the store.

    Raises
    ------
    ModelMissingError
        There is none, and `create` is off.
    ModelMismatchError
        The stored specification differs in more than what may change in place; the message shows where.
    """
    try:
        stored = read_model(client, spec.model_id)
    except ModelMissingError:
        if not create:
            raise ModelMissingError(
                f"the store holds no model {spec.model_id}: pass --create to make it, or correct name and generation"
            ) from None
        return create_model(client, spec)
    was = stored.spec
    changed = differences(was, spec)
    if changed:
        listed = "; ".join(changed)
        raise ModelMismatchError(
            f"{spec.model_id} was made by another specification ({listed}): restore these, or give a new generation"
        )
    if spec.store.shards not in (None, stored.shards):
        raise ModelMismatchError(
            f"{spec.model_id} has {stored.shards} shards, the specification says store.shards = {spec.store.shards}: "
            "leave it out, or give a new generation"
        )
    stored = replace(stored, spec=spec)
    if was != spec:
        with translated():
            client.set(spec_key(spec.model_id), encoded(stored))
    return stored


def write_again(client: Client, stored: StoredModel) -> None:
    """Put a specification back that the store has lost.

    Raises
    ------
    StoreUnavailableError
    """
    with translated():
        client.set(spec_key(stored.spec.model_id), encoded(stored))
        client.setnx(live_key(stored.spec.name), stored.spec.generation)
