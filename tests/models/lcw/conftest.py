"""Specs of this method on scikit-learn's digits."""

import pytest

from models.lcw.spec import LcwTrain


@pytest.fixture
def make_spec():
    """The smallest spec with other fields."""

    def make(**fields):
        return LcwTrain.model_validate({**LcwTrain.minimal_example, **fields})

    return make
