"""A cut goes in, and may be sent or is held back until an operator decides; `ctr guard` is the operator's side.

While a cut is held back nothing is sent and nothing is read, the lease stays ours, and a record beside the model says
why. Nothing is lost with the process: the log still has all events, they are learned again and judged again, by what
the record remembers of those before them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctr import metrics
from ctr.errors import FencedError, ModelMissingError, SettingError, StoreUnavailableError
from ctr.quality import Guard
from ctr.rows import RowBlock
from ctr.store import Cut, GuardRecord, connect, guard_record, read_model
from workers.lifecycle import ExitCode

_REMEMBER_S = 5.0
"""What was accepted is written down so often: a restart judges by what is at most so old."""
_LOOK_S = 0.5
"""Between two looks for an operator's decision."""
_KEPT = 20
"""Stretches of log that were discarded, told in the record."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator wants.

    Attributes
    ----------
    what : str
        ``resume`` or ``discard``.
    to : dict of str to int
        discard: where reading goes on.
    """

    what: str
    to: dict[str, int]


class Gate:
    """Lets cuts pass, or holds one back.

    Parameters
    ----------
    guard : Guard
        Has seen all events that are learned.
    record : GuardRecord
    logger : structlog logger
    """

    def __init__(self, guard: Guard, record: GuardRecord, logger: Any) -> None:
        self._guard, self._record, self._log = guard, record, logger
        self._held: Cut | None = None
        self._said: dict[str, str] = {}  # of a refusal, until it is written down
        self._due = 0.0
        self._refusals: Counter[str] = Counter()
        self._decisions: Counter[str] = Counter()
        self._discarded_offsets = 0
        self._discarded: list[dict[str, Any]] = []

    @property
    def refusing(self) -> bool:
        """Whether a cut is held back."""
        return self._held is not None

    def begin(self, *, again: bool) -> None:
        """Become the writer: judge by what was accepted, whoever had learned it.

        Parameters
        ----------
        again : bool
            This process was the writer all along, and remembers more than it has written down.

        Raises
        ------
        StoreUnavailableError
        """
        self.let_go()
        self._guard.forget()
        stored = self._record.read()
        if not again:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # of another version: then there is no memory
                self._guard.remember(json.loads(stored["memory"]))
        with contextlib.suppress(ValueError, KeyError):
            self._discarded = list(json.loads(stored["discarded"]))
        if stored.get("state") == "refusing":
            self._record.write({"state": "watching"})

    def let_go(self) -> None:
        """Another writer has the model: what is held back here is no longer anyone's to decide."""
        self._held, self._said = None, {}

    def passes(self, cut: Cut, more: Iterable[RowBlock] = ()) -> bool:
        """Whether this cut may be sent, and `more` that belongs to it and is not made yet; else it is kept here."""
        findings = self._guard.judge(cut.rows, more)
        if not findings:
            self._guard.accept()
            return True
        self._held, self._due = cut, 0.0
        self._refusals.update(finding.check for finding in findings)
        self._said = {
            "state": "refusing", "refusal": cut.nonce, "since_s": repr(time.time()), "rows": str(len(cut.rows)),
            "findings": json.dumps([asdict(finding) for finding in findings]), "decision": "",
            "positions": json.dumps(dict(cut.offsets)), "memory": json.dumps(self._guard.memory()),
        }  # fmt: skip
        self._log.error(
            "cut_refused", reasons=[finding.text for finding in findings], rows=len(cut.rows),
            positions=dict(cut.offsets), next="nothing is sent or read until `ctr guard` is told what to do",
        )  # fmt: skip
        return False

    def decision(self) -> Decision | None:
        """Look for an operator's decision, now and then; writes down first what it is about.

        Raises
        ------
        FencedError
            The record tells of another trainer, or the lease is not ours.
        StoreUnavailableError
        """
        now = time.monotonic()
        if self._held is None or now < self._due:
            return None
        self._due = now + _LOOK_S
        if self._said:
            if not self._record.write(self._said):
                raise FencedError("another trainer has the lease while a cut is held back here")
            self._said = {}
            return None
        stored = self._record.read()
        if stored.get("refusal") != self._held.nonce:
            raise FencedError("another trainer has written the guard's record while a cut is held back here")
        if not stored.get("decision"):
            return None
        return Decision(stored["decision"], {**self._held.offsets, **json.loads(stored.get("to") or "{}")})

    def resume(self) -> Cut:
        """Give the cut out after all; later ones are judged by what comes now.

        Raises
        ------
        StoreUnavailableError
            Nothing has changed; ask again.
        """
        cut = self._held
        assert cut is not None, "asked only while one is held back"
        self._record.write({"state": "watching", "answered": "resume"})
        self._held = None
        self._guard.begin_anew()
        self._decisions["resume"] += 1
        self._log.warning("guard_overruled", rows=len(cut.rows), positions=dict(cut.offsets))
        return cut

    def discard(self, decision: Decision, committed: Mapping[str, int]) -> dict[str, int]:
        """Give the cut up; returns where reading goes on. The record keeps what was left out.

        Raises
        ------
        StoreUnavailableError
            Nothing has changed; ask again.
        """
        left_out = {
            name: (begin, decision.to[name])
            for name, begin in committed.items()
            if decision.to.get(name, begin) > begin
        }
        discarded = [*self._discarded, {"at_s": time.time(), "from_to": left_out}][-_KEPT:]
        self._record.write({"state": "watching", "answered": "discard", "discarded": json.dumps(discarded)})
        self._discarded, self._held = discarded, None
        self._guard.forget()
        self._decisions["discard"] += 1
        self._discarded_offsets += sum(end - begin for begin, end in left_out.values())
        self._log.warning("discarded", from_to=left_out)
        return decision.to

    def remember(self, *, at_once: bool = False) -> None:
        """Write down what was accepted, now and then: the store has just answered."""
        now = time.monotonic()
        if (now < self._due and not at_once) or self.refusing:
            return
        self._due = now + _REMEMBER_S
        with contextlib.suppress(StoreUnavailableError):  # next time
            self._record.write({"state": "watching", "memory": json.dumps(self._guard.memory())})

    def numbers(self) -> dict[str, metrics.Value]:
        """Its metrics."""
        return {
            "ctr_guard_refusing": float(self.refusing),
            "ctr_guard_refusals": {(check,): float(n) for check, n in dict(self._refusals).items()},
            "ctr_guard_decisions": {(what,): float(self._decisions[what]) for what in ("resume", "discard")},
            "ctr_guard_discarded_offsets": float(self._discarded_offsets),
        }


# ---- the operator's side ------------------------------------------------------------------------------------------

Say = Callable[[str], object]


def show(redis: str, model: str, say: Say, *, as_json: bool = False) -> ExitCode:
    """Say what the guard of a model does and why.

    Raises
    ------
    ModelMissingError, StoreUnavailableError
    """
    with connect(redis) as client:
        model_id = read_model(client, model).spec.model_id
        stored = guard_record.read(client, model_id)
    told = {name: json.loads(stored.get(name) or "null") for name in ("findings", "positions", "discarded")}
    if as_json:
        state = stored.get("state", "unknown")
        say(json.dumps({"model": model_id, "state": state, "since_s": float(stored.get("since_s", 0)), **told}))
        return ExitCode.OK
    if stored.get("state") == "refusing":
        waited = time.time() - float(stored["since_s"])
        say(f"{model_id}: a cut of {int(stored['rows']):,} rows is held back since {waited:,.0f} s; nothing is learned")
        for finding in told["findings"]:
            say(f"  {finding['check']}: {finding['text']}")
        say("  learned up to " + ", ".join(f"{name} {at:,}" for name, at in told["positions"].items()))
        say(f"Scorers keep the parameters before it. What to do:\n"
            f"  ctr guard {model} resume     publish it: this is what the world is like now\n"
            f"  ctr guard {model} discard    forget it, and leave out these events for good\n"
            f"  ctr rollback {model} URL     serve an older snapshot, when what is served is bad too")  # fmt: skip
    elif stored:
        say(f"{model_id}: cuts pass")
    else:
        say(f"{model_id}: no trainer with a guard has written it yet")
    for gap in told["discarded"] or ():
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(gap["at_s"]))
        places = ", ".join(f"{name} {begin:,} to {end:,}" for name, (begin, end) in gap["from_to"].items())
        say(f"  discarded {at}: {places}")
    return ExitCode.OK


def decide(redis: str, model: str, what: str, say: Say, *, to: Sequence[str] = ()) -> ExitCode:
    """Answer a refusal; the trainer acts within a second.

    Raises
    ------
    ModelMissingError
        There is no such model, or no cut of it is held back.
    SettingError
        A position that cannot be read, or of a partition that the cut does not know.
    StoreUnavailableError
    """
    with connect(redis) as client:
        model_id = read_model(client, model).spec.model_id
        stored = guard_record.read(client, model_id)
        missing = ModelMissingError(f"no cut of {model_id} is held back: ctr guard {model} tells what is known")
        if stored.get("state") != "refusing":
            raise missing
        places = _places(to, json.loads(stored["positions"]))
        answer = {"decision": what, "to": json.dumps(places), "decided_s": repr(time.time())}
        if not guard_record.decide(client, model_id, stored["refusal"], answer):
            raise missing
    say(f"{model_id}: {what}; the trainer acts within a second, if one is running")
    return ExitCode.OK


def _places(to: Sequence[str], known: Mapping[str, int]) -> dict[str, int]:
    places = {}
    for text in to:
        name, _, number = text.rpartition("=")
        if name not in known or not number.isdigit():
            raise SettingError("--to", text, f"PARTITION=OFFSET, where PARTITION is one of {', '.join(known)}")
        places[name] = int(number)
    return places
