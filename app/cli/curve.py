"""A curve in the terminal, of braille patterns: two by four dots in each character."""

from collections.abc import Sequence

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column, from above
BLANK = 0x2800
EDGE = 10  # characters of the scale on the left


def plot(points: Sequence[tuple[float, float]], width: int = 72, height: int = 12) -> str:
    """Points (step, value) joined by lines, with their range at the edges.

    Args:
        points: finite values, ordered by step.
        width: in characters, without the scale on the left.
        height: in lines.
    """
    xs, ys = zip(*points, strict=True)
    across = _places(xs, 2 * width - 1)
    down = [4 * height - 1 - level for level in _places(ys, 4 * height - 1)]
    cells = [[BLANK] * width for _ in range(height)]
    dots = list(zip(across, down, strict=True))
    for start, end in zip(dots, dots[1:] or dots, strict=False):
        for x, y in _line(start, end):
            cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    edges = {height - 1: f"{min(ys):.4g}"}
    edges |= {0: f"{max(ys):.4g}"} if max(ys) > min(ys) else {}
    lines = [
        f"{edges.get(row, ''):>{EDGE}} │{''.join(map(chr, line))}".rstrip(chr(BLANK))
        for row, line in enumerate(cells)
    ]
    first, last = f"{xs[0]:.4g}", f"{xs[-1]:.4g}"
    foot = f"{'step':>{EDGE}}  {first}{last:>{width - len(first)}}"
    return "\n".join([*lines, f"{'':>{EDGE}} └{'─' * width}", foot])


def _places(values: Sequence[float], most: int) -> list[int]:
    """Values as whole numbers from 0 to ``most``."""
    low, span = min(values), (max(values) - min(values)) or 1
    return [round((value - low) / span * most) for value in values]


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """All dots from one to another."""
    (x, y), (to_x, to_y) = start, end
    steps = max(abs(to_x - x), abs(to_y - y)) or 1
    return [
        (round(x + (to_x - x) * k / steps), round(y + (to_y - y) * k / steps))
        for k in range(steps + 1)
    ]
