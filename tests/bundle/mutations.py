"""Does a test fail for every guard that is taken away?

    python -m tests.bundle.mutations [WORD]

Each guard is a piece of the code, what it is replaced by, and the tests that are to notice. The
code is changed in a copy, never here. Prints a line for each; exits 1 when one went unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOM = "divergence_doctor/bundle"


@dataclass(frozen=True)
class Guard:
    """One guard: where it stands, what it is and becomes, and which tests are to fail."""

    file: str
    code: str
    broken: str
    tests: str


GUARDS = (
    # Writing.
    Guard("_filesystem", "FOLDER_MODE: Final = 0o700", "FOLDER_MODE: Final = 0o755", "write"),
    Guard("_filesystem", "FILE_MODE: Final = 0o600", "FILE_MODE: Final = 0o644", "write"),
    Guard("_draft", "self._fs.fsync(descriptor)", "pass", "write"),
    Guard(
        "_draft",
        "            finally:\n                os.close(descriptor)",
        "            finally:\n                pass",
        "failures",
    ),
    Guard(
        "_draft",
        "        except BaseException:\n            self._unlink(path)\n            raise",
        "        except BaseException:\n            raise",
        "failures",
    ),
    Guard("_draft", "        if self.spoiled:\n", "        if False:\n", "failures"),
    Guard(
        "_draft",
        "view = view[self._fs.write(self._descriptor, view) :]",
        "self._fs.write(self._descriptor, view); break",
        "write",
    ),
    Guard("_dump", "        self.draft.tidy()\n", "", "failures"),
    Guard(
        "_dump",
        "        self.draft.release()\n        self._write_manifest",
        "        self._write_manifest",
        "write",
    ),
    Guard(
        "_dump",
        "self.draft.reserve(_RESERVED if self.free is None else min(_RESERVED, self.free // 4))",
        "pass",
        "full_disk",
    ),
    Guard("_dump", "if error.errno in _FULL and self._groups:", "if False:", "room"),
    Guard("_dump", "if error.errno in _FULL and self._groups:", "if self._groups:", "failures"),
    Guard(
        "_dump",
        "                if error.errno in _FULL:\n",
        "                if False:\n",
        "full_disk",
    ),
    Guard("_dump", "over = self.max_bytes is not None and", "over = False and", "room"),
    Guard(
        "_dump",
        "        if self.max_bytes is not None and size > self.max_bytes:\n"
        "            return False\n",
        "",
        "room",
    ),
    Guard("_dump", "size * _MARGIN <= self.free", "size <= self.free", "room"),
    Guard("_dump", "list(reversed(contents.batches))", "list(contents.batches)", "room"),
    Guard("_dump", "key=lambda one: one.role == OPTIMIZER", "key=lambda one: 0", "write"),
    Guard("_dump", "        if self.data:\n", "        if True:\n", "write"),
    Guard("_reason", "if len(text) < MAX_REASON:", "if True:", "write"),
    Guard("_write", "        _make(fs, root)\n", "        raise\n", "write"),
    Guard("_write", "            name = name.following()\n", "            raise\n", "write"),
    Guard("_write", "        if give_up(fs, partial):\n", "        if True:\n", "failures"),
    Guard("_write", "        sync_folder(fs, root)\n", "        pass\n", "write"),
    Guard(
        "_arrays",
        '        raise ValueError("the array holds Python objects")\n    header',
        "        pass\n    header",
        "arrays",
    ),
    Guard("_arrays", "            if list(fixed.flat) == values:", "            if True:", "write"),
    # The order in which things come to the disk.
    Guard("_draft", "                self._fs.fsync(descriptor)\n", "", "power"),
    Guard(
        "_draft",
        "            sync_folder(self._fs, self.folder / subfolder)",
        "            pass",
        "power",
    ),
    Guard("_draft", "        sync_folder(self._fs, self.folder)\n", "", "power"),
    Guard("_dump", "        self.draft.tidy()\n        self.draft.sync()\n", "", "power"),
    Guard("_write", "        sync_folder(fs, root)\n", "        pass\n", "power"),
    Guard("_sweep", "            sync_folder(fs, root)\n", "            pass\n", "power"),
    # Sweeping.
    Guard(
        "_sweep",
        "and found.kin(ours) and found.older_than(ours)",
        "and found.older_than(ours)",
        "sweep",
    ),
    Guard(
        "_sweep", "and found.kin(ours) and found.older_than(ours)", "and found.kin(ours)", "sweep"
    ),
    Guard(
        "_sweep",
        '                fs.rename(root / name, root / f"{TRASH}{name}")\n'
        '                trash.append(f"{TRASH}{name}")\n',
        "                trash.append(name)\n",
        "kills",
    ),
    Guard("_sweep", "> _SURELY_OVER and not _runs(found.pid)", "> _SURELY_OVER", "sweep"),
    Guard(
        "_sweep",
        "> _SURELY_OVER and not _runs(found.pid)",
        "> timedelta() and not _runs(found.pid)",
        "sweep",
    ),
    Guard("_sweep", "            if path.is_symlink():\n                raise\n", "", "sweep"),
    # Reading.
    Guard(
        "_manifest",
        "    if hashlib.sha256(head).hexdigest().encode() != tail[1]:",
        "    if False:",
        "verify",
    ),
    Guard("_manifest", "_FILE.fullmatch(name) is None", "False", "hostile"),
    Guard("_manifest", "    if len(files) < len(found):", "    if False:", "hostile"),
    Guard("_manifest", "    if folders & set(files):", "    if False:", "hostile"),
    Guard("_manifest", '    if members.get("complete") is not True:', "    if False:", "hostile"),
    Guard("_manifest", "or len(listed) > MAX_FILES", "", "hostile"),
    Guard("_manifest", "not 0 <= size < 1 << 62", "False", "hostile"),
    Guard("_manifest", "_SHA256.fullmatch(sha256) is None", "False", "hostile"),
    Guard("_manifest", "    if REASON not in files:", "    if False:", "hostile"),
    Guard(
        "_folder",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "os.O_RDONLY | os.O_CLOEXEC",
        "verify",
    ),
    Guard("_folder", "        if not stat.S_ISREG(found.st_mode):", "        if False:", "verify"),
    Guard("_folder", "        if size > limit:", "        if False:", "hostile"),
    Guard("_folder", "return stream.read(size)", "return stream.read(limit)", "hostile"),
    Guard("_json", "    if len(found) < len(pairs):", "    if False:", "hostile"),
    Guard("_json", "            parse_constant=_no_constant,\n", "", "hostile"),
    Guard("_json", "            parse_float=_no_overflow,\n", "", "hostile"),
    Guard("_json", "    except RecursionError:\n", "    except ZeroDivisionError:\n", "hostile"),
    Guard("_json", "    if _deeper(value):", "    if False:", "hostile"),
    Guard("_arrays", "    if length > MAX_HEADER:", "    if False:", "hostile"),
    Guard(
        "_arrays",
        '    if dtype.hasobject:\n        raise ValueError("it holds pickled objects")\n',
        "",
        "hostile",
    ),
    Guard("_arrays", "or header.nbytes != size - header.offset", "", "hostile"),
    Guard("_arrays", "    if len(set(names)) < len(names):", "    if False:", "hostile"),
    Guard("_arrays", "member.compress_type != zipfile.ZIP_STORED or ", "", "hostile"),
    Guard("_arrays", "        declared.append(", "        str(", "hostile"),
    Guard("_arrays", "    _check_directory(stream, size)\n", "", "hostile"),
    Guard("_arrays", "    if len(members) > MAX_MEMBERS:", "    if False:", "hostile"),
    Guard(
        "_arrays",
        "                    while opened.read(PIECE):\n                        pass\n",
        "                    pass\n",
        "arrays",
    ),
    Guard(
        "_variables",
        "        if header.dtype != np.dtype(stored_as(self.dtype)) or header.shape != self.shape:",
        "        if False:",
        "hostile",
    ),
    Guard(
        "_variables",
        "        if seen.hexdigest() != self._entry.sha256:",
        "        if False:",
        "hostile",
    ),
    Guard(
        "_read",
        "        if hashlib.sha256(text).hexdigest() != entry.sha256:",
        "        if False:",
        "verify",
    ),
    Guard("_read", "            if size != entry.size:", "            if False:", "verify"),
    Guard("_variables", 'STATE_FILE.fullmatch(item["file"]) is None', "False", "hostile"),
    Guard("_read", "BATCH_FILE.fullmatch(file) is None or file not in files", "False", "hostile"),
    Guard(
        "_read",
        "        return clean(value, _LONGEST, multiline=True)",
        "        return value",
        "hostile",
    ),
    # Verifying and salvaging.
    Guard("_verify", "            variable.check()\n", "            pass\n", "hostile"),
    Guard(
        "_verify",
        "            if _hash(stream) != entry.sha256:",
        "            if False:",
        "verify",
    ),
    Guard("_verify", "            if size != entry.size:", "            if False:", "verify"),
    Guard("_verify", '        if entry.kind == "link":', "        if False:", "verify"),
    Guard(
        "_verify", "    found = _strangers(path, files)", "    found: list[Problem] = []", "verify"
    ),
    Guard(
        "_verify",
        "            return _malformed(stream, entry)",
        "            return None",
        "hostile",
    ),
    Guard("_verify", "        found.extend(_contents(path, files))", "        pass", "hostile"),
    Guard("_salvage", "    _check_free(out)\n", "", "salvage"),
    Guard(
        "_remains",
        "return None if seen.hexdigest() == entry.sha256 else",
        "return None if True else",
        "salvage",
    ),
    Guard("_salvage", "            open_bundle(folder)\n", "", "hostile"),
    Guard(
        "_salvage",
        "            if name in told and not _fits(found.folder, name, told[name]):",
        "            if False:",
        "salvage",
    ),
    Guard("_salvage", "            remove(fs, folder)\n", "            pass\n", "salvage"),
    Guard("_names", 're.sub(r"[^A-Za-z0-9._-]", "_", text)', "text", "write"),
    Guard("_names", "plain[:longest]", "plain", "write"),
)


def noticed(copy: Path, guard: Guard) -> bool:
    """Break the guard in the copy, say whether its tests fail, and mend it."""
    file = copy / ROOM / f"{guard.file}.py"
    whole = file.read_text(encoding="utf-8")
    if whole.count(guard.code) != 1:
        raise SystemExit(f"{guard.file} holds {guard.code!r} {whole.count(guard.code)} times")
    file.write_text(whole.replace(guard.code, guard.broken), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", f"tests/bundle/test_{guard.tests}.py"],
            capture_output=True,
            text=True,
            check=False,
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    finally:
        file.write_text(whole, encoding="utf-8")
    last = done.stdout.strip().splitlines()[-3:]
    failed = next((line for line in last if line.startswith(("FAILED", "ERROR"))), "")
    verdict = failed.partition("::")[2].partition(" - ")[0] if done.returncode == 1 else "UNNOTICED"
    print(f"{guard.file}: {guard.code.strip().splitlines()[0][:60]!r} -> {verdict}", flush=True)  # noqa: T201 - the result
    return done.returncode == 1


def main() -> None:
    """Go through the guards."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [guard for guard in GUARDS if word in f"{guard.file} {guard.code} {guard.tests}"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("divergence_doctor", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        unnoticed = [guard for guard in chosen if not noticed(copy, guard)]
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} guards are missed by a test")  # noqa: T201 - the result
    sys.exit(bool(unnoticed))


if __name__ == "__main__":
    main()
