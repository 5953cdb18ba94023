"""The fields of a spec that say how channels are chosen. Torch-free."""

from typing import Literal

from pydantic import Field

from models.core.spec import Int, SpecGroup


class Selective(SpecGroup):
    """When slots are closed and used again, and how."""

    enabled: bool = Field(default=True, description="false trains the plain net")
    threshold: float = Field(
        default=1e-3,
        gt=0,
        lt=1,
        description="gamma: share of any output that all slots closed in a round may make up;"
        " useful from 1e-4 to 1e-2, chosen on validation images",
    )
    top_k: Int = Field(
        default=3,
        ge=0,
        le=100_000,
        description="Slots of most importance that copies come from; 0 only closes slots",
    )
    max_copies: Int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Copies of a channel from which on it is no source any more",
    )
    shift_init: float = Field(
        default=1.5, gt=0, le=64, description="Greatest first shift of a copy in pixels"
    )
    shift_weight_decay: float = Field(
        default=1e-5, ge=0, le=1, description="Weight decay of the shifts alone"
    )
    active_fraction: float = Field(
        default=0.5, gt=0, le=1, description="Share of the epochs after which there are rounds"
    )
    interval_epochs: Int = Field(
        default=1, ge=1, le=10_000, description="Epochs from round to round"
    )
    realloc: bool = Field(default=True, description="false only closes slots, as top_k 0 does")
    reset_optimizer_state: bool = Field(
        default=True,
        description="Zero the momentum of re-used slots; the authors' code leaves it",
    )
    score: Literal["mean", "rms"] = Field(
        default="mean",
        description="Damage of a slot: the paper's expected change, or the root of its expected"
        " square, which sees filters that sum to zero",
    )
    apply_to: Literal["1x1", "all"] = Field(
        default="1x1", description="Units that use closed slots again; the others only close them"
    )

    @property
    def opens(self) -> bool:
        """Whether closed slots are used again."""
        return self.realloc and self.top_k > 0

    def is_round(self, epoch: int, epochs: float) -> bool:
        """Whether a round follows epoch ``epoch`` (from 0) of ``epochs``."""
        return epoch < self.active_fraction * epochs and (epoch + 1) % self.interval_epochs == 0
