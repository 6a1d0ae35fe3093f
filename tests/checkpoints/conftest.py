import sys

import pytest


@pytest.fixture(autouse=True)
def untouched_process():
    """Undo what importing a user's code leaves behind, and the objects that it registers."""
    import keras

    path, modules = list(sys.path), set(sys.modules)
    registered = keras.saving.get_custom_objects()
    before = dict(registered)
    policy = keras.config.dtype_policy()
    yield
    assert keras.config.dtype_policy() == policy
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "pytest-of" in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    registered.clear()
    registered.update(before)
