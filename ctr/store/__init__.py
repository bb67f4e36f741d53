"""Rows <-> Redis: what is stored under which key, how a commit is made atomic, how changes are followed."""

from ctr.store.catalog import StoredModel, create_model, open_model, read_model
from ctr.store.codec import CHUNK
from ctr.store.connection import Client, connect
from ctr.store.guard_record import GuardRecord
from ctr.store.keys import ShardKeys
from ctr.store.lease import Lease
from ctr.store.model_writer import ModelWriter, Resume, resume
from ctr.store.reader import Changes, ShardReader
from ctr.store.shard import Meta, Version, Watermarks
from ctr.store.writer import Cut, ShardWriter

__all__ = [
    "CHUNK", "Changes", "Client", "Cut", "GuardRecord", "Lease", "Meta", "ModelWriter", "Resume", "ShardKeys",
    "ShardReader", "ShardWriter", "StoredModel", "Version", "Watermarks", "connect", "create_model", "open_model",
    "read_model", "resume",
]  # fmt: skip
