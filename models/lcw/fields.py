"""The groups of fields of lcw.train. Torch-free."""

from typing import Literal

from pydantic import Field, model_validator

from models.core.errors import SpecError
from models.core.spec import ArtifactOrVersion, DatasetRef, Int, SpecGroup

FEATURE_DIMS = {"fd_clf": 64, "fd_effnetlite0": 1280, "fid_inception": 2048}
MIN_BATCH = 8
TRAINED = ("cwae", "wae_mmd", "swae")
Phi = Literal["exact", "asymptotic"]


class GeneratorShape(SpecGroup):
    """The net from noise to latents: blocks of Linear, BatchNorm, ReLU."""

    depth: Int = Field(default=5, ge=1, le=20, description="Blocks")
    width: Int = Field(default=512, ge=2, le=8192, description="Units of a block")


class Architecture(SpecGroup):
    """Encoder, decoder and latent generator."""

    preset: Literal["auto", "mlp", "conv"] = Field(
        default="auto", description="auto: conv for colour images whose side allows it, else mlp"
    )
    latent_dim: Int = Field(default=8, ge=2, le=512)
    noise_dim: Int | None = Field(
        default=None, ge=1, le=512, description="Of the generator's input; latent_dim if left out"
    )
    width: Int | None = Field(
        default=None,
        ge=4,
        le=4096,
        description="Hidden units of mlp (256), or channels of the first convolution (64)",
    )
    depth: Int = Field(default=3, ge=1, le=5, description="Convolutions of conv, each halving")
    generator: GeneratorShape = GeneratorShape()

    @property
    def inputs(self) -> int:
        """Width of the noise."""
        return self.noise_dim or self.latent_dim

    def resolve(self, side: int, channels: int) -> "Architecture":
        """The same with every choice made."""
        fits = channels == 3 and side % 2**self.depth == 0
        preset = ("conv" if fits else "mlp") if self.preset == "auto" else self.preset
        return self.model_copy(
            update={
                "preset": preset,
                "noise_dim": self.inputs,
                "width": self.width or (64 if preset == "conv" else 256),
            }
        )

    def check(self, side: int, channels: int, *, square: bool = True) -> None:
        """Refuse images that the encoder cannot take.

        Raises:
            SpecError: if they are not square, or convolutions do not divide their side.
        """
        if not square:
            raise SpecError(
                "the images are not square: give images.image_size", pointer="/images/image_size"
            )
        shape = self.resolve(side, channels)
        if shape.preset == "conv" and side % 2**shape.depth:
            raise SpecError(
                f"arch.preset conv halves the side {shape.depth} times and images are of {side}"
                f" pixels: give images.image_size as a multiple of {2**shape.depth}, a lower"
                " arch.depth, or preset mlp",
                pointer="/arch",
            )


class Gamma(SpecGroup):
    """Smoothing variance of a two-sample distance."""

    gamma_mode: Literal["fixed", "dynamic", "value"] = Field(
        default="fixed",
        description="Silverman's rule for the whole target, for each batch of it, or a value",
    )
    gamma: float | None = Field(
        default=None, gt=0, le=1e6, description="Smoothing variance, with gamma_mode value"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Gamma":
        if (self.gamma_mode == "value") != (self.gamma is not None):
            raise ValueError("gamma goes with gamma_mode value: give both or neither")
        return self


class PhaseSpec(Gamma):
    """Length and step of a phase."""

    batch_size: Int = Field(
        default=256,
        ge=MIN_BATCH,
        le=65_536,
        description="Images or latents a step; where it is left out and there are fewer, all of"
        " them",
    )
    lr: float = Field(default=2e-3, ge=1e-5, le=1e-1, description="Rate of Adam")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant",
        description="Of the rate: held, or falling to zero over max_steps as a half cosine; in"
        " phase1 also of peers that train an autoencoder, over steps of their own",
    )
    max_steps: Int = Field(default=5000, ge=1, le=10_000_000, description="Optimizer steps")
    patience: Int | None = Field(
        default=None, ge=1, le=1000, description="Stop after so many validations without a gain"
    )
    validate_every: Int = Field(default=500, ge=1, le=1_000_000, description="In steps")


class Phase1(PhaseSpec):
    """The autoencoder. ae: squared error; cwae: + penalty log d2(z, N); cw2: log d2(y, x) + it."""

    objective: Literal["ae", "cwae", "cw2"] = "cw2"
    penalty: float = Field(
        default=1.0, ge=0, le=1e6, description="Weight of the latent's term (lambda); not for ae"
    )
    phi_latent: Literal["exact", "asymptotic", "imq"] = "exact"
    phi_data: Phi = "asymptotic"
    eps: float = Field(default=1e-7, ge=1e-12, le=1e-3, description="Added inside the logarithms")

    @model_validator(mode="after")
    def _penalty_has_a_term(self) -> "Phase1":
        if self.objective == "ae" and self.penalty != 1 and "penalty" in self.model_fields_set:
            raise ValueError(
                f"penalty {self.penalty} has no effect with objective ae, which has no term of the"
                " latent: leave penalty out, or use objective cwae or cw2"
            )
        return self


class Phase2(PhaseSpec):
    """The latent generator, trained against the frozen encoder's latents."""

    phi: Phi = Field(default="asymptotic", description="Kernel; exact is needed below 4 dimensions")
    reference: Literal["batch", "full"] = Field(
        default="batch", description="Encoded images of a step: a batch, or all of them"
    )
    statistic: Literal["v", "u"] = Field(
        default="v", description="u: leave a generated point's pair with itself out"
    )


class GeneratorEvaluation(SpecGroup):
    """How samples are judged. A score is named after its features and is not the usual FID."""

    features: Literal["fd_clf", "fd_effnetlite0", "fid_inception"] = Field(
        default="fd_clf",
        description="fd_clf: a classifier trained here on the labels; fd_effnetlite0: ImageNet's;"
        " fid_inception: of the net named in inception, which does not come with the service",
    )
    inception: DatasetRef | None = Field(
        default=None,
        description="An uploaded program of torch.export: images [batch, 3, 299, 299] in [-1, 1) to"
        " 2,048 pooled features; its SHA-256 stands beside the scores",
    )
    num_samples: Int = Field(default=10_000, ge=2, le=1_000_000, description="Images to draw")
    kid: bool = True
    prdc_k: Int = Field(default=5, ge=1, le=100, description="Neighbours of precision and recall")
    baselines: list[Literal["gmm10", "normal", "cwae", "wae_mmd", "swae"]] = Field(
        default=["gmm10", "normal"],
        max_length=5,
        description="Peers on the same data: the last three train autoencoders of their own",
    )
    classifier_steps: Int = Field(
        default=1000, ge=1, le=1_000_000, description="Of the classifier behind fd_clf"
    )
    classifier_seed: Int = Field(
        default=0, ge=0, lt=2**32, description="Of its training; not the seed of the job"
    )
    classifier_from: ArtifactOrVersion | None = Field(
        default=None,
        description="The classifier another lcw.train on this data left: scores of both then share"
        " one scale, which a training repeated on a GPU does not",
    )

    @model_validator(mode="after")
    def _enough(self) -> "GeneratorEvaluation":
        if (self.features == "fid_inception") != (self.inception is not None):
            raise ValueError(
                f"features {self.features} with inception {self.inception}: give fid_inception the"
                " net's data set as inception, and only that; or use fd_clf"
            )
        dim = FEATURE_DIMS[self.features]
        if self.num_samples <= dim:
            raise ValueError(
                f"num_samples {self.num_samples}: a Frechet distance in the {dim} dimensions of"
                f" {self.features} needs more than {dim} samples; 10 times as many are better"
            )
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError("baselines names one twice: give each once")
        return self

    def check(self, train: int, test: int) -> None:
        """Refuse sets that are too small for the features.

        Raises:
            SpecError: if a covariance would be singular.
        """
        dim = FEATURE_DIMS[self.features]
        if min(train, test) <= dim:
            raise SpecError(
                f"{train} training and {test} test images: a Frechet distance in the {dim}"
                f" dimensions of {self.features} needs more than {dim} of each",
                hint="use more images, or evaluation.features fd_clf (64 dimensions)",
                pointer="/evaluation/features",
            )

    def trained_baselines(self) -> list[str]:
        """Those with an autoencoder of their own, in the order given."""
        return [name for name in self.baselines if name in TRAINED]
