"""What every test shares: TensorFlow is quiet, on the CPU, and imported once per process."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest


@pytest.fixture
def keras():
    """Keras with names counted from the start, so that layer paths do not depend on test order."""
    keras = pytest.importorskip("keras")
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    yield keras
    keras.config.set_dtype_policy("float32")
