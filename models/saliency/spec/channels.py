"""Spec fields of methods that weight the feature maps of a layer without gradients. Torch-free."""

from typing import Literal

from pydantic import Field

from models.core.spec import Int, SpecGroup


class ChannelMethod(SpecGroup):
    """The layer, and how many of its feature maps are used."""

    id: Literal["score_cam", "ablation_cam"]
    layer: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a module; null: the last with feature maps",
    )
    channels: Int = Field(
        default=2048,
        ge=1,
        le=65_536,
        description="Feature maps used at most, those of the largest mean positive part; each is "
        "a row",
    )

    def rows(self, height: int, width: int) -> int:
        """Rows through the net, at most: for every feature map one, and two more."""
        return self.channels + 2


class ScoreCam(ChannelMethod):
    """Feature maps weighted by the score of the image seen through each (Wang et al. 2020)."""

    id: Literal["score_cam"]


class AblationCam(ChannelMethod):
    """Feature maps weighted by the fall of the score without each (Desai, Ramaswamy 2020)."""

    id: Literal["ablation_cam"]
