"""Specs of this method on scikit-learn's digits."""

import pytest

from models.lcw.spec import LcwTrain
from tests.smallest import smallest


@pytest.fixture
def make_spec():
    """The smallest spec with other fields."""

    def make(**fields):
        return LcwTrain.model_validate({**smallest("lcw.train"), **fields})

    return make
