"""Runs ``saliency.roar``: rank pixels by maps, remove them, train anew, compare with chance."""

from pathlib import Path

from torch import nn

from models.core import checkpoint
from models.core.errors import DataError, SpecError
from models.core.run import Run, StoppedError
from models.data.images import ImageData
from models.saliency import references, roar_report
from models.saliency.removal import Ranking, rank_at_random, rank_by_map, removed
from models.saliency.spec.fields import labels
from models.saliency.spec.methods import check_window
from models.saliency.spec.roar import SaliencyRoar
from models.supervised import source
from models.supervised.hooks import Hooks, SubRun
from models.supervised.initial import initial_net
from models.supervised.loop import fit

Training = tuple[str, float, int]  # arm, share of removed pixels, seed


def roar(spec: SaliencyRoar, run: Run) -> None:
    """Train on whole images, rank their pixels, and train on images without the first of them.

    A stop leaves a checkpoint of the finished trainings, from which a later run goes on.

    Raises:
        SpecError: if a method does not fit the net or the images.
        DataError: if the data or the checkpoint to go on from cannot be used.
        DivergedError: if a loss is not finite.
        StoppedError: if a stop was requested.
    """
    data = source.load(spec.model_copy(update={"loading": "memory"}), run)
    for index, method in enumerate(spec.methods):
        try:
            check_window(method, f"methods.{index}", *data.size)
        except ValueError as error:
            raise SpecError(str(error)) from error
    job = RoarJob(spec, data, run)
    try:
        job.train_all()
    except StoppedError:
        if run.stop_wants_checkpoint:
            job.save()
        raise
    references.leave_keys(references.cited_by(spec.methods, "roar"), run)
    roar_report.write(spec, data, job.accuracy, run)


class RoarJob:
    """The trainings of a job.

    Attributes:
        accuracy: on the test images, of each finished training.
    """

    def __init__(self, spec: SaliencyRoar, data: ImageData, run: Run) -> None:
        self.spec, self.data, self._run = spec, data, run
        self.accuracy: dict[Training, float] = {}
        self._net = initial_net(spec, data, run).net  # takes the weights of the first training
        self._methods = dict(zip(labels(spec.methods), spec.methods, strict=True))
        if run.resume is not None:
            self._restore(run.resume)

    def train_all(self) -> None:
        """Do what is not done, ranking by ranking."""
        trainings = self.spec.trainings()
        for arm in ("none", *self.spec.arms()):
            wanted = [each for each in trainings if each[0] == arm and each not in self.accuracy]
            ranking = self._rank(arm) if wanted and arm in self._methods else None
            for training in wanted:
                self._train(training, ranking)
                if self._run.checkpoint_due():
                    self.save()

    def _rank(self, arm: str) -> Ranking:
        self._run.say(f"pixels are ranked by {arm}")
        net = self._net.eval()
        return rank_by_map(
            self.spec, self._methods[arm], net, self.data, lambda _: self._run.check_stop()
        )

    def _train(self, training: Training, ranking: Ranking | None) -> None:
        """One training, and its accuracy; the weights of the first are kept."""
        arm, share, seed = training
        data = self.data
        if arm != "none":
            ranking = rank_at_random(data, seed) if ranking is None else ranking
            data = removed(data, ranking, share)
        spec = self.spec.model_copy(update={"seed": seed})
        _, steps = spec.steps(len(data.train))
        total = steps * len(self.spec.trainings())
        sub_run = SubRun("", steps * len(self.accuracy), total, saves_checkpoints=False)
        self._run.say(f"training {len(self.accuracy) + 1}: {arm}, share {share:g}, seed {seed}")
        net: nn.Module = initial_net(spec, data, self._run).net
        fitted = fit(net, data, spec, self._run, Hooks(sub_run=sub_run))
        if not self.accuracy:
            self._net = net
        self.accuracy[training] = fitted.scores.accuracy

    def save(self) -> None:
        """Leave a checkpoint: the net that is explained, and all accuracies."""
        done = [[*training, accuracy] for training, accuracy in self.accuracy.items()]
        name = checkpoint.name_of(len(done))
        checkpoint.write(self._run.dir / name, self._net.state_dict(), {"roar": done})
        self._run.artifact(name, role="checkpoint", step=len(done))

    def _restore(self, path: Path) -> None:
        tensors, about = checkpoint.read(path)
        if "roar" not in about:
            raise DataError(
                f"{path.name} is no checkpoint of a removal and retraining",
                hint="resume from a checkpoint of a saliency.roar job",
            )
        self._net.load_state_dict(tensors)
        self.accuracy = {(arm, share, seed): value for arm, share, seed, value in about["roar"]}
        if unknown := self.accuracy.keys() - set(self.spec.trainings()):
            raise SpecError(
                f"resume_from: the checkpoint has a training of {min(unknown)}, which this "
                "spec has not",
                hint="keep methods, shares and seeds",
            )
