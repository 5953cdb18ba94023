"""The images of a supervised training, in memory or decoded as they are needed."""

from models.core.run import Run
from models.data import loading
from models.data.images import ImageData
from models.supervised.spec import SupervisedSpec


def load(spec: SupervisedSpec, run: Run) -> ImageData:
    """The images that a spec asks for, on the run's device.

    Raises:
        DataError: if the data is not there or cannot be used.
        SpecError: if more images are asked for than there are, or the set cannot be streamed.
    """
    return loading.load(spec.data, spec.images, run, spec.seed, spec.held, spec.loading)
