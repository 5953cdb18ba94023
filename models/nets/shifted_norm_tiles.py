"""How the work of :mod:`models.nets.shifted_norm_gpu` is split over programs."""

from math import gcd
from typing import NamedTuple


class Tiles(NamedTuple):
    """Shapes of the programs; section ``sweep`` of the benchmark on a GPU compares others.

    Attributes:
        pixels: of a tile of a map.
        channels: of a tile of a map.
        slots: re-used ones of a tile.
        columns: of a tile of re-used slots.
        rows: that a program walks down, at least.
        share: programs are started for one in so many slots, as if no more were re-used.
        gather: slots, columns and rows of a program that adds up the gradients of a plane.
        warps: of a program.
        splits: parts of a sum over pixels, about at most.
    """

    pixels: int = 64
    channels: int = 32
    slots: int = 8
    columns: int = 64
    rows: int = 8
    share: int = 3
    gather: tuple[int, int, int] = (8, 32, 8)
    warps: int = 8  # eight values of a map a thread: more want too many registers
    splits: int = 1024


TILES = Tiles()


def over(count: int, size: int) -> int:
    return -(-count // size)


def power(size: int) -> int:
    return 1 << (size - 1).bit_length()


class Map(NamedTuple):
    """A map [n, c, h, w] as a matrix of pixels and channels, and how the work on it is split."""

    n: int
    c: int
    h: int
    w: int

    @property
    def pixels(self) -> int:
        return self.n * self.h * self.w

    @property
    def align(self) -> int:
        """Channels whose addresses are consecutive and aligned in every pixel."""
        return gcd(self.c, 8)

    @property
    def part(self) -> int:
        """Pixels of a part of a sum."""
        return over(over(self.pixels, TILES.splits), TILES.pixels) * TILES.pixels

    @property
    def rows(self) -> int:
        """Rows that a program walks down."""
        return max(TILES.rows, over(self.h * self.columns, TILES.splits))

    @property
    def columns(self) -> int:
        """Tiles of columns."""
        return over(self.n * self.w, TILES.columns)

    @property
    def parts(self) -> tuple[int, int]:
        """Of sums over a channel and over a re-used slot."""
        return over(self.pixels, self.part), self.columns * over(self.h, self.rows)

    @property
    def tiles(self) -> tuple[int, int]:
        """Of the whole map."""
        return over(self.pixels, TILES.pixels), over(self.c, TILES.channels)

    @property
    def split(self) -> tuple[int, int]:
        """Of the map, for sums."""
        return self.parts[0], self.tiles[1]

    @property
    def walk(self) -> tuple[int, int, int]:
        """Programs for the re-used slots."""
        groups = over(self.c, TILES.slots * TILES.share)
        return self.columns, groups, over(self.h, self.rows)

    @property
    def tile(self) -> dict[str, int]:
        """Constants of programs that walk along channels."""
        return {"BP": TILES.pixels, "BC": TILES.channels, "num_warps": TILES.warps}

    @property
    def strip(self) -> dict[str, int]:
        """Constants of programs that walk down columns."""
        own = {"BM": TILES.slots, "BQ": TILES.columns, "num_warps": TILES.warps}
        return {"H": self.h, "W": self.w} | own

    @property
    def behind(self) -> tuple[int, int, int]:
        """Programs for the gradients of the planes."""
        _, columns, rows = TILES.gather
        return over(self.n * self.w, columns), min(self.c, 8), over(self.h, rows)

    @property
    def gather(self) -> dict[str, int]:
        """Constants of those programs."""
        slots, columns, rows = TILES.gather
        own = {"RH": rows, "BM": slots, "BQ": columns, "num_warps": 4}
        return {"H": self.h, "W": self.w} | own

    @property
    def sums(self) -> dict[str, int]:
        """Constants of programs that add up the parts."""
        parts = power(max(self.parts))
        return {"BS": parts, "BC": max(1, min(8, 2048 // parts)), "num_warps": 4}
