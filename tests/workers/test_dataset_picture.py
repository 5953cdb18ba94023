"""The picture that a check leaves: a small JPEG of its own folder, or none."""

import os

import pytest

from workers import dataset_check
from workers.dataset_check import JPEG, PICTURE, PICTURE_BYTES


def link(file):
    (file.parent / "secret").write_bytes(JPEG)
    file.symlink_to(file.parent / "secret")


@pytest.mark.parametrize(
    "leave",
    [
        lambda file: (file.parent / "other.jpg").write_bytes(JPEG),
        lambda file: file.write_bytes(b"<svg/>"),
        lambda file: file.write_bytes(JPEG + bytes(PICTURE_BYTES)),
        lambda file: os.mkfifo(file),
        lambda file: file.mkdir(),
        link,
    ],
    ids=["none", "another form", "too large", "a pipe", "a folder", "a link"],
)
def test_anything_else_is_left_out(tmp_path, leave):
    leave(tmp_path / PICTURE)
    assert dataset_check._picture(tmp_path) is None


def test_a_small_jpeg_is_kept(tmp_path):
    (tmp_path / PICTURE).write_bytes(JPEG + b"rest")
    assert dataset_check._picture(tmp_path) == JPEG + b"rest"
