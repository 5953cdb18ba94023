"""What an import took, what it left out, and how parts and labels were chosen."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

MOST_LINES = 50  # of each list in the answer
MOST_LETTERS = 200  # of a line: names come from strangers
SYSTEM_FILES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
    | {"thumbs.db:encryptable", "system volume information", "lost+found", "#recycle"}
)
HIDDEN = "hidden, or left by an operating system"


def hidden(name: str) -> str | None:
    """The part of a path that is hidden or was left by an operating system, if there is one."""
    parts = PurePosixPath(name).parts
    return next((x for x in parts if x.startswith((".", "~$")) or x.lower() in SYSTEM_FILES), None)


def ending(name: str) -> str:
    """Lower-case ending with its dot, or "(none)"."""
    return PurePosixPath(name).suffix.lower() or "(none)"


@dataclass
class Contents:
    """Filled while a set is read.

    Attributes:
        taken: files or arrays that were read, by ending or name.
        left_out: files or arrays that were not read, by name or ending and reason.
        split: how the parts were chosen, one sentence.
        label: how the labels were chosen, one sentence.
        sizes: pictures by height and width in pixels.
        noted: pictures by what was changed in them.
        notes: further sentences.
    """

    taken: Counter[str] = field(default_factory=Counter)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    split: str | None = None
    label: str | None = None
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def visible(self, names: list[str]) -> list[str]:
        """The names that are not hidden; the others are listed as left out."""
        for part in filter(None, map(hidden, names)):
            self.left_out[part, HIDDEN] += 1
        return [name for name in names if not hidden(name)]

    def answer(self) -> dict[str, Any]:
        """All of it as JSON, its lists bounded: ``taken``, ``left_out``, ``split``, and so on."""
        listed = self.left_out.most_common(MOST_LINES)
        left_out = [
            {"what": what[:MOST_LETTERS], "count": count, "reason": reason}
            for (what, reason), count in listed
        ]
        if rest := sum(self.left_out.values()) - sum(count for _, count in listed):
            left_out.append({"what": "others", "count": rest, "reason": "of further names"})
        notes = [*self.notes, *(f"{count} {what}" for what, count in self.noted.items())]
        return {
            "taken": {what[:MOST_LETTERS]: n for what, n in self.taken.most_common(MOST_LINES)},
            "left_out": left_out,
            "split": self.split,
            "label": self.label and self.label[:MOST_LETTERS],
            "sizes": self._sizes(),
            "notes": [note[:MOST_LETTERS] for note in notes[:MOST_LINES]],
        }

    def _sizes(self) -> str | None:
        """Height x width in pixels, or their range."""
        if not self.sizes:
            return None
        if len(self.sizes) == 1:
            ((height, width),) = self.sizes
            return f"{height} x {width} pixels"
        low, high = (bound(self.sizes, key=lambda size: size[0] * size[1]) for bound in (min, max))
        return (
            f"{len(self.sizes)} sizes (height x width), from {low[0]} x {low[1]} to "
            f"{high[0]} x {high[1]} pixels"
        )


def notes_alone(notes: list[str]) -> dict[str, Any]:
    """The answer of a file of which nothing is chosen or left out."""
    contents = Contents()
    contents.notes.extend(notes)
    return contents.answer()
