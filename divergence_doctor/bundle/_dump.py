"""What of a dying run is written, in which order, and what is left out where there is no room?

In the order of its value: why it died, the batch of the failing step and those before it, the
model, the weights from before, the optimizer's state. Whatever cannot be had or written is left
out and told under ``dropped``; only without ``reason.json`` and the manifest is there no bundle.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.bundle._arrays import feedable, npy_size, write_npy, write_npz
from divergence_doctor.bundle._contents import OPTIMIZER, SMALL_ROLES
from divergence_doctor.bundle._dtypes import storable, stored_as, to_stored
from divergence_doctor.bundle._json import encode
from divergence_doctor.bundle._manifest import (
    CONTEXT,
    CONTEXT_SCHEMA,
    HISTORY,
    MANIFEST,
    MAX_JSON,
    MODEL,
    REASON,
    STATE,
    STATE_SCHEMA,
    seal,
)
from divergence_doctor.bundle._reason import encode_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from divergence_doctor.bundle._arrays import Sink
    from divergence_doctor.bundle._contents import Contents, Recorded, Variable
    from divergence_doctor.bundle._draft import Draft
    from divergence_doctor.bundle._names import Name

#: What is written must fit this many times into the free space: others write there, too.
_MARGIN: Final = 1.2
_LAST_STEPS: Final = 1_000
#: Bytes that the manifest takes for each file, and besides.
_PER_FILE: Final = 160
_BESIDES: Final = 4 << 10
#: Bytes that an array takes in an archive besides its own.
_PER_MEMBER: Final = 256
#: Set aside for the manifest, so that a disk that fills up in the meantime has room for it.
_RESERVED: Final = 64 << 10
_LONGEST_WHY: Final = 200

#: What a system says of a disk, or a user's share of it, that is full.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

#: What goes first where there is no room for the manifest. Of the batches the oldest goes first.
_LEAST_FIRST: Final = (
    *(OPTIMIZER, "weights", "batch", "small variables", "state"),
    *("history", "model", "context"),
)


@final
@dataclass(frozen=True, slots=True)
class _Dropped:
    """Something that was left out: what, its files, and why."""

    what: str
    files: tuple[str, ...]
    why: str

    def told(self) -> dict[str, Any]:
        return {"what": self.what, "files": list(self.files), "why": self.why}


@final
@dataclass(frozen=True, slots=True)
class _Group:
    """Files that go together, and what they are called when they do."""

    what: str
    files: tuple[str, ...]


@final
@dataclass(slots=True)
class Dump:
    """One bundle in the writing.

    Args:
        draft: the folder.
        contents: what goes into it.
        max_bytes: bound on its size.
        data: write the batches.
        free: bytes that are free on the disk, where that is known.
    """

    draft: Draft
    contents: Contents
    max_bytes: int | None
    data: bool
    free: int | None
    _dropped: list[_Dropped] = field(default_factory=list)
    _groups: list[_Group] = field(default_factory=list)
    _dtypes: dict[int, dict[str, str]] = field(default_factory=dict)
    _given: Mapping[str, Any] = field(default_factory=dict)
    _structures: dict[int, Any] = field(default_factory=dict)

    def write(self, name: Name) -> None:
        """Write everything, the manifest last.

        Raises:
            OSError: the reason or the manifest cannot be written.
        """
        contents = self.contents
        self.draft.reserve(_RESERVED if self.free is None else min(_RESERVED, self.free // 4))
        self._write_reason()
        self._given = self._encodable("manifest", contents.manifest) or {}
        for one in contents.batches if self.data else ():
            self._structures[one.step] = self._encodable("structure", one.structure)
        self._optional("context", CONTEXT, lambda: encode(self._context(name)))
        self._optional("history", HISTORY, lambda: encode(_last_steps(contents.history)))
        if self.data:
            self._write_batches(list(reversed(contents.batches)))
        else:
            self._leave_out("data", "it was not wanted")
        if contents.model is not None:
            self._optional("model", MODEL, lambda: encode(contents.model, exact=True))
        self._write_state(sorted(contents.variables, key=lambda one: one.role == OPTIMIZER))
        self.draft.release()
        self._write_manifest(name)
        self.draft.tidy()
        self.draft.sync()

    def _fits(self, size: int) -> bool:
        """Say whether so many bytes more leave room for the manifest."""
        size += self.draft.size + _BESIDES + _PER_FILE * (len(self.draft.files) + 1)
        if self.max_bytes is not None and size > self.max_bytes:
            return False
        return self.free is None or size * _MARGIN <= self.free

    def _leave_out(self, what: str, why: str | BaseException, files: Sequence[str] = ()) -> None:
        if isinstance(why, BaseException):
            said = why.strerror if isinstance(why, OSError) else None
            why = f"{type(why).__name__}: {said or why}"
        told = _Dropped(what, tuple(files), why[:_LONGEST_WHY])
        for index, former in enumerate(self._dropped):
            if (former.what, former.why) == (told.what, told.why):
                self._dropped[index] = replace(former, files=former.files + told.files)
                return
        self._dropped.append(told)

    def _encodable(self, what: str, value: Any) -> Any:
        """Return the value if it can be written as JSON; else ``None``, and say why."""
        try:
            encode({what: value})
        except Exception as error:  # noqa: BLE001 - one odd value must not cost the bundle
            self._leave_out(what, error)
            return None
        return value

    def _write_reason(self) -> None:
        text = encode_reason(self.contents.reason)
        try:
            self.draft.add(REASON, lambda sink: sink.write(text))
        except OSError:
            self.draft.release()
            self.draft.add(REASON, lambda sink: sink.write(text))

    def _optional(self, what: str, name: str, encoded: Callable[[], bytes]) -> None:
        """Write one of the small files, or say why it is not there."""
        try:
            text = encoded()
            if len(text) > MAX_JSON or not self._fits(len(text)):
                self._leave_out(what, _no_room(len(text)), [name])
                return
            self.draft.add(name, lambda sink: sink.write(text))
        except Exception as error:  # noqa: BLE001 - what is not written must not cost what is
            self._leave_out(what, error, [name])
            return
        self._groups.append(_Group(what, (name,)))

    def _write_batches(self, newest_first: Sequence[Recorded]) -> None:
        """Write the batches, the failing step's first: what it was fed with matters most."""
        for number, recorded in enumerate(newest_first):
            try:
                why: str | BaseException | None = self._write_batch(recorded)
            except Exception as error:  # noqa: BLE001 - likewise
                why = error
            if why is not None:
                # Without this one the older ones lead nowhere.
                rest = [_batch_file(other) for other in newest_first[number:]]
                self._leave_out("batch", why, rest)
                return

    def _write_batch(self, recorded: Recorded) -> str | None:
        """Write one batch, or return why there is no room for it."""
        arrays = {}
        for name, array in recorded.fetch().items():
            arrays[name] = feedable(array)
            if array.dtype.kind == "V":
                self._dtypes.setdefault(recorded.step, {})[name] = array.dtype.name
        size = sum(npy_size(array) + _PER_MEMBER for array in arrays.values())
        if not self._fits(size):
            return _no_room(size)
        file = _batch_file(recorded)
        self.draft.add(file, lambda sink: write_npz(sink, arrays))
        self._groups.append(_Group("batch", (file,)))
        return None

    def _write_state(self, variables: Sequence[Variable]) -> None:
        named = {f"state/{number:05d}.npy": one for number, one in enumerate(variables)}
        for file, one in list(named.items()):
            if not storable(one.dtype):
                self._leave_out("variable", f"{one.path} is {one.dtype}", [file])
                del named[file]
        index = {
            "schema": STATE_SCHEMA,
            "variables": [_told(file, one) for file, one in named.items()],
            "generators": self._encodable("generators", self.contents.generators) or {},
        }
        self._optional("state", STATE, lambda: encode(index))
        small, weights, optimizer = (
            {file: one for file, one in named.items() if _group(one) == group}
            for group in ("small variables", "weights", OPTIMIZER)
        )
        self._write_variables("small variables", small)
        if self._write_variables("weights", weights):
            self._write_variables(OPTIMIZER, optimizer)
        elif optimizer:
            self._leave_out(OPTIMIZER, "the weights are left out", list(optimizer))

    def _write_variables(self, what: str, named: Mapping[str, Variable]) -> bool:
        """Write some variables, and say whether there was room for them.

        Where there is none, none of them stays; one that cannot be had is left out alone.
        """
        size = sum(one.estimate() for one in named.values())
        why: str | BaseException | None = None if self._fits(size) else _no_room(size)
        if STATE not in self.draft.files:
            why = "nothing would say what they are"
        for file, variable in named.items():
            if why is not None:
                break
            try:
                self._write_variable(file, variable)
            except OSError as error:
                if error.errno in _FULL:
                    why = error
                else:
                    self._leave_out(what, error, [file])
            except Exception as error:  # noqa: BLE001 - likewise
                self._leave_out(what, error, [file])
        if why is None:
            self._groups.append(_Group(what, tuple(named)))
        elif named:
            self.draft.drop(tuple(named))
            self._leave_out(what, why, tuple(named))
        return why is None

    def _write_variable(self, file: str, variable: Variable) -> None:
        # In a function of its own, so that the array is gone before the next one is fetched.
        array = to_stored(variable.fetch(), variable.dtype)
        if not self._fits(npy_size(array)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.draft.add(file, lambda sink: write_npy(sink, array))

    def _write_manifest(self, name: Name) -> None:
        """Write the manifest; where it finds no room, the least valuable goes until it does."""
        while True:
            text = seal(self._members(name), self.draft.files.values())
            over = self.max_bytes is not None and self.draft.size + len(text) > self.max_bytes
            why: str | BaseException | None = _no_room(len(text)) if over else None
            if not over or not self._groups:
                why = self._try_manifest(text)
            if why is None:
                return
            group = self._least()
            self._groups.remove(group)
            self.draft.drop(group.files)
            self._leave_out(group.what, why, group.files)

    def _try_manifest(self, text: bytes) -> OSError | None:
        """Write the manifest, or return why the disk has no room for it.

        Raises:
            OSError: there is nothing left that could make room, or that is not what is wrong.
        """
        try:
            self.draft.add(MANIFEST, partial(_put, text), listed=False)
        except OSError as error:
            if error.errno in _FULL and self._groups:
                return error
            if self.draft.spoiled:
                raise
        else:
            return None
        # Once more: a whole bundle hangs on it.
        self.draft.add(MANIFEST, partial(_put, text), listed=False)
        return None

    def _least(self) -> _Group:
        # Of equals the one that was written last: the oldest batch.
        return min(reversed(self._groups), key=lambda group: _LEAST_FIRST.index(group.what))

    def _context(self, name: Name) -> dict[str, Any]:
        """Return what the manifest is going to say, as far as it is known by now."""
        batches = [self._batch(one) for one in self.contents.batches] if self.data else []
        return {"schema": CONTEXT_SCHEMA, **self._members(name), "batches": batches}

    def _members(self, name: Name) -> dict[str, Any]:
        """Return what the manifest says, as things stand now."""
        model = self._given.get("model")
        said = model.get("why") if isinstance(model, dict) else None
        dropped = next((one.why for one in self._dropped if one.what == "model"), None)
        whole = self.contents.model is not None and dropped is None
        return {
            **self._given,
            "written": {
                "time": name.stamp,
                "host": name.host,
                "worker": name.worker,
                "pid": name.pid,
            },
            "model": {"config": MODEL}
            if whole
            else {"config": None, "why": dropped or said or "it was not given"},
            "data": self.data,
            "batches": [
                self._batch(one)
                for one in self.contents.batches
                if _batch_file(one) in self.draft.files
            ],
            "dropped": [dropped.told() for dropped in self._dropped],
        }

    def _batch(self, recorded: Recorded) -> dict[str, Any]:
        return {
            "step": recorded.step,
            "file": _batch_file(recorded),
            "structure": self._structures.get(recorded.step),
            "before_snapshot": recorded.before_snapshot,
            "dtypes": self._dtypes.get(recorded.step, {}),
        }


def _put(text: bytes, sink: Sink) -> None:
    sink.write(text)


def _group(variable: Variable) -> str:
    if variable.role == OPTIMIZER:
        return OPTIMIZER
    return "small variables" if variable.role in SMALL_ROLES else "weights"


def _told(file: str, variable: Variable) -> dict[str, Any]:
    """Return the entry of a variable in ``state.json``."""
    return {
        "file": file,
        "role": variable.role,
        "path": variable.path,
        "name": variable.name,
        "shape": variable.known_shape(),
        "dtype": variable.dtype,
        "stored": stored_as(variable.dtype),
    }


def _batch_file(recorded: Recorded) -> str:
    return f"batches/{recorded.step:08d}.npz"


def _last_steps(history: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the last steps of every column.

    Raises:
        ValueError: the columns are not of equal length.
    """
    columns = {name: list(column) for name, column in history.items()}
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("its columns are not of equal length")
    return {name: column[-_LAST_STEPS:] for name, column in columns.items()}


def _no_room(size: int) -> str:
    return f"no room for {size:,} bytes"
