"""What is in a bundle, in a few lines? Why the run died, what was kept, what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from divergence_doctor._clean import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.bundle import Bundle

_LONGEST: Final = 400
_MOST_FILES: Final = 3
#: What one variable of a role is called, where the role itself is no noun.
_NOUNS: Final = {"optimizer": "optimizer slot", "other": "variable", "loss-scale": "loss scale"}


def lines(bundle: Bundle) -> Iterator[str]:
    """Yield the lines, the reason first."""
    yield f"died      {_reason(bundle)}"
    yield f"batches   {_batches(bundle)}"
    yield f"state     {_state(bundle)}"
    yield f"model     {'its config' if bundle.model is not None else _why_no_model(bundle)}"
    size = sum(entry.size for entry in bundle.files.values())
    yield f"size      {_size(size)} in {_count(len(bundle.files) + 1, 'file')}"
    missing = bundle.manifest.get("missing")
    for item in missing if isinstance(missing, list) else []:
        yield f"missing   {clean(str(item), _LONGEST)}"
    dropped = bundle.manifest.get("dropped")
    for item in dropped if isinstance(dropped, list) else []:
        if isinstance(item, dict):
            yield f"left out  {_dropped(item)}"


def _reason(bundle: Bundle) -> str:
    reason = bundle.reason
    step = reason.get("step")
    at = f" at step {step}" if isinstance(step, int) else ""
    message = clean(" ".join(str(reason.get("message") or "").split()), _LONGEST)
    return f"{clean(str(reason.get('trigger')))}{at}" + (f": {message}" if message else "")


def _batches(bundle: Bundle) -> str:
    if bundle.manifest.get("data") is False:
        return "none; they were not to be written"
    steps = [batch.step for batch in bundle.batches]
    if not steps:
        return "none"
    span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"{len(steps)}, of {span}"


def _state(bundle: Bundle) -> str:
    if not bundle.variables:
        return "none"
    from collections import Counter

    roles = Counter(clean(variable.role, 40) for variable in bundle.variables)
    told = ", ".join(_count(count, _NOUNS.get(role, role)) for role, count in roles.items())
    before = bundle.manifest.get("snapshot_step")
    told += f", from before step {before}" if isinstance(before, int) else ""
    missing = len(bundle.absent)
    return told + (f"; {missing:,} {'is' if missing == 1 else 'are'} missing" if missing else "")


def _why_no_model(bundle: Bundle) -> str:
    model = bundle.manifest.get("model")
    why = model.get("why") if isinstance(model, dict) else None
    return f"none ({clean(str(why), _LONGEST)})" if why else "none"


def _dropped(item: dict[str, Any]) -> str:
    files = item.get("files")
    names = [clean(str(name)) for name in files] if isinstance(files, list) else []
    more = f" and {len(names) - _MOST_FILES} more" if len(names) > _MOST_FILES else ""
    where = f" ({', '.join(names[:_MOST_FILES])}{more})" if names else ""
    return f"{clean(str(item.get('what')))}{where}: {clean(str(item.get('why')), _LONGEST)}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):,.4g} {unit}"
    return _count(count, "byte")
