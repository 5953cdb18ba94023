"""Spec fields of the methods that use gradients of the score. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.core.spec import Int, SpecGroup


class Meaningful(SpecGroup):
    """The smallest smooth mask whose removal loses the class (Fong and Vedaldi 2017)."""

    id: Literal["meaningful"]
    iterations: Int = Field(default=300, ge=1, le=10_000, description="Adam steps")
    side: Int = Field(default=28, ge=2, le=224, description="Side of the mask before upsampling")
    l1: float = Field(default=1e-2, ge=0, le=100, description="Weight of mean(1 - mask)")
    tv: float = Field(default=2e-1, ge=0, le=100, description="Weight of mean |gradient|^beta")
    beta: float = Field(default=3.0, ge=1, le=4)
    lr: float = Field(default=0.1, gt=0, le=10, description="Learning rate of Adam")
    jitter: Int = Field(default=4, ge=0, le=32, description="Largest shift of the input, pixels")

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.iterations


class Extremal(SpecGroup):
    """The mask of a fixed area that best preserves the class (Fong, Patrick, Vedaldi 2019)."""

    id: Literal["extremal"]
    areas: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default=[0.1], min_length=1, max_length=16, description="Shares of the image kept"
    )
    variant: Literal["preserve", "delete", "dual"] = "preserve"
    iterations: Int = Field(default=800, ge=1, le=10_000, description="Steps for each area")
    step: Int = Field(default=7, ge=2, le=64, description="Pixels between mask parameters")
    sigma: float = Field(default=21.0, ge=1, le=100, description="Smoothness of the mask, pixels")
    perturbation: Literal["blur", "fade"] = Field(
        default="blur", description="Towards a blur of sigma 20, or towards the baseline"
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.iterations * len(self.areas) * (2 if self.variant == "dual" else 1)


class Gradient(SpecGroup):
    """Gradient of the score: its maximum size over channels, or times (x - baseline)."""

    id: Literal["gradient", "input_x_gradient"]

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return 1


class IntegratedGradients(SpecGroup):
    """Gradient averaged along the path from the baseline to the image, times their difference."""

    id: Literal["integrated_gradients"]
    steps: Int = Field(default=64, ge=1, le=4096, description="Points of the midpoint rule")

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.steps


class SmoothGrad(SpecGroup):
    """Size of the mean gradient over noisy images (Smilkov et al. 2017)."""

    id: Literal["smoothgrad"]
    samples: Int = Field(default=50, ge=1, le=4096)
    sigma: float = Field(
        default=0.15, gt=0, le=2, description="Of the noise, as a share of the range of x"
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return self.samples


class GradCam(SpecGroup):
    """Feature maps of one layer weighted by their mean gradient (Selvaraju et al. 2017)."""

    id: Literal["gradcam"]
    layer: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a module; null: the last with feature maps",
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, forward and backward, for each class."""
        return 1
