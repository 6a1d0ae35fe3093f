"""Is a bundle that is there whole after a loss of power, whatever was still in memory?"""

from __future__ import annotations

import random
import shutil

from divergence_doctor.bundle import salvage, verify, write_bundle
from divergence_doctor.errors import DoctorError
from tests.bundle._made import HOST, at, contents, digest, finals, partials
from tests.bundle._power import Power, PowerCutError, switch_on

SEEDS = 4


def dumped(root, number: int) -> tuple[Power, bool]:
    """Write a bundle beside older ones, one of which is to go, until the power goes."""
    root.mkdir()
    fs = Power(root)
    write_bundle(root, contents(layers=1), host="elder", now=at(0), fs=fs)
    for second in (1, 2):
        write_bundle(root, contents(layers=1), host=HOST, now=at(second), fs=fs)
    fs.disk.settle_all()
    fs.cut_after(number)
    try:
        write_bundle(root, contents(layers=1), host=HOST, keep=2, now=at(3), fs=fs)
    except PowerCutError:
        return fs, True
    return fs, False


def test_whenever_the_power_goes_every_bundle_that_is_there_is_whole(swift):
    whole = salvaged = number = 0
    cut = True
    while cut:
        root = swift / "before"
        fs, cut = dumped(root, number)
        kept = {path.name: digest(path) for path in finals(root) if "120003Z" not in path.name}
        for seed in range(SEEDS):
            after = swift / "after"
            switch_on(fs.disk, after, random.Random(f"{number} {seed}"))  # noqa: S311 - no secret
            found = {path.name: path for path in finals(after)}
            assert [verify(path) for path in found.values()] == [()] * len(found), (number, seed)
            survived = {name: digest(path) for name, path in found.items() if name in kept}
            assert survived.items() <= kept.items(), (number, seed)
            # The elder and the one before this are not touched at all.
            assert len(survived) >= 2, (number, seed)
            new = [name for name in found if "120003Z" in name]
            whole += len(new)
            # What was said to be written is there.
            assert new or cut, (number, seed)
            for partial in partials(after):
                try:
                    salvaged += verify(salvage(partial, swift / "saved")) == ()
                    shutil.rmtree(swift / "saved")
                except DoctorError as error:
                    assert error.exit_status in {2, 4}  # noqa: PT017 - there may be nothing
            shutil.rmtree(after)
        shutil.rmtree(root)
        number += 1
    assert number > 60
    assert whole > SEEDS
    assert salvaged > 60


def test_a_bundle_that_was_said_to_be_written_is_there_also_where_none_made_room(swift):
    root = swift / "before"
    root.mkdir()
    fs = Power(root)
    made = write_bundle(root, contents(layers=1), host=HOST, now=at(3), fs=fs)

    for seed in range(20):
        after = swift / f"{seed}"
        switch_on(fs.disk, after, random.Random(seed))  # noqa: S311 - no secret
        assert verify(after / made.name) == (), seed
