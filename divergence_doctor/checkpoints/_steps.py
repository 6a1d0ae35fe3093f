"""Which ``tf.train.Checkpoint`` does a path mean: the one it names, or which of its folder?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_STATE: Final = re.compile(r'^model_checkpoint_path:\s*"(?P<name>[^"]+)"', re.MULTILINE)
_MAX_STATE: Final = 1 << 20
_FILES: Final = re.compile(r"\.(index|data-\d+-of-\d+)$")
_NUMBERED: Final = re.compile(r"(?P<name>.*)-(?P<number>\d{1,18})")
#: Steps that a message lists at most.
_SHOWN: Final = 12


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint that a path means.

    Attributes:
        prefix: path without ``.index`` and ``.data-*``; None where there is no checkpoint.
        note: a sentence that says what else there was to choose from; empty where nothing.
    """

    prefix: Path | None
    note: str = ""


def choose_step(path: Path, step: int | None) -> Choice:
    """Return the checkpoint that a path and ``--step`` mean.

    Args:
        path: a prefix; one of the files behind it; a folder, whose latest is taken (its
            ``checkpoint`` file may name no file outside of it); the prefix that was given to
            ``tf.train.Checkpoint.save``, which numbers what it writes; or a SavedModel.
        step: the number at the end of the name to take instead of the latest.

    Raises:
        CheckpointError: there is no checkpoint of this step; the message lists those there are.
    """
    one = path / "variables" / "variables"
    if not path.is_dir():
        one = path.with_name(_FILES.sub("", path.name))
    if _has_index(one):
        return _only(one, path, step)
    several = _prefixes(path if path.is_dir() else path.parent)
    if not path.is_dir():
        several = [prefix for prefix in several if _family(prefix) == path.name]
    if step is not None and several:
        return Choice(_of_step(path, several, step))
    return _latest(path, several) if path.is_dir() else _newest(several)


def _only(prefix: Path, path: Path, step: int | None) -> Choice:
    if step is not None and _number(prefix) != step:
        raise CheckpointError(
            "no-such-step",
            f"{clean(str(path))} is one checkpoint and not that of step {step}",
            why="--step picks one of the checkpoints in a folder",
            fix="name the folder, or leave --step out",
        )
    return Choice(prefix)


def _of_step(path: Path, prefixes: list[Path], step: int) -> Path:
    found = [prefix for prefix in prefixes if _number(prefix) == step]
    if len(found) == 1:
        return found[0]
    there = _listed(prefixes) or "none whose name ends in a number"
    if not found:
        raise CheckpointError(
            "no-such-step",
            f"{clean(str(path))} holds no checkpoint of step {step}",
            why=f"the steps there are: {there}",
            fix="give one of these to --step, or leave it out for the latest",
        )
    names = ", ".join(clean(prefix.name, 60) for prefix in found[:_SHOWN])
    raise CheckpointError(
        "no-such-step",
        f"{clean(str(path))} holds {len(found)} checkpoints of step {step}: {names}",
        why="their names differ before the number",
        fix=f"name the one you mean instead of the folder: {clean(str(found[0]))}",
    )


def _latest(folder: Path, prefixes: list[Path]) -> Choice:
    """Return what the folder's ``checkpoint`` file names, else the newest there is."""
    state = folder / "checkpoint"
    missing = ""
    if state.is_file() and state.stat().st_size <= _MAX_STATE:
        match = _STATE.search(state.read_text(encoding="utf-8", errors="replace"))
        if match:
            name = re.split(r"[\\/]", match.group("name"))[-1]
            named = next((prefix for prefix in prefixes if prefix.name == name), None)
            if named is not None:
                return Choice(named, _told(named, prefixes))
            missing = (
                f"The file {clean(state.name)} of the folder names {clean(name, 60)} as the latest,"
                " which is not there. "
            )
    choice = _newest(prefixes)
    return Choice(choice.prefix, (missing + choice.note).strip() if choice.prefix else "")


def _newest(prefixes: list[Path]) -> Choice:
    def age(prefix: Path) -> tuple[float, int, str]:
        return (_index(prefix).stat().st_mtime, _number(prefix), prefix.name)

    if not prefixes:
        return Choice(None)
    newest = max(prefixes, key=age)
    return Choice(newest, _told(newest, prefixes))


def _told(taken: Path, prefixes: list[Path]) -> str:
    if len(prefixes) < 2:
        return ""
    return (
        f"{clean(taken.name, 60)} was opened, the latest of the {len(prefixes)} checkpoints in the"
        f" folder (steps {_listed(prefixes)}); --step opens another."
    )


def _listed(prefixes: Iterable[Path]) -> str:
    numbers = sorted({number for prefix in prefixes if (number := _number(prefix)) >= 0})
    if len(numbers) <= _SHOWN:
        return ", ".join(map(str, numbers))
    first = ", ".join(map(str, numbers[: _SHOWN // 2]))
    last = ", ".join(map(str, numbers[-_SHOWN // 2 :]))
    return f"{first}, … {last} ({len(numbers)} in all)"


def _prefixes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(index.with_suffix("") for index in folder.glob("*.index") if index.is_file())


def _family(prefix: Path) -> str:
    match = _NUMBERED.fullmatch(prefix.name)
    return match.group("name") if match else ""


def _number(prefix: Path) -> int:
    """Return the number at the end of a prefix, -1 where there is none."""
    match = _NUMBERED.fullmatch(prefix.name)
    return int(match.group("number")) if match else -1


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _has_index(prefix: Path) -> bool:
    return _index(prefix).is_file()
