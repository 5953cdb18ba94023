"""Several processes on one training: who is first, one decision for all, one gradient.

Every function is the identity in an ordinary run of one process.
"""

import importlib
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Processes of this run, as torchrun says; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this process reports and writes files."""
    return rank() == 0


def start(device: str) -> None:
    """Join the group: gradients by NCCL between GPUs, decisions by gloo, which needs no GPU."""
    if world_size() > 1 and not dist.is_initialized():
        # Loaded later, by an optimizer's first step, its functions would take the group as their
        # default and so keep it, and its threads, beyond ``leave``.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")


def leave() -> None:
    """Leave the group and wait until its threads have ended: the last thing of a rank.

    A thread of gloo gives back the tensors of a transfer some time after the transfer is over. Once
    the interpreter is going down, that aborts the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def parallel(module: nn.Module) -> nn.Module:
    """The module for training: a backward pass leaves the mean gradient of all processes.

    Made on a side stream, so that a CUDA graph can hold a whole step, transfers included. On a CPU
    a parameter may have no part in a step; on a GPU that would make the host wait for the others.

    Args:
        module: its parameters become those of the first process; buffers stay each process's own.
    """
    if world_size() == 1:
        return module
    on_gpu = next(module.parameters()).is_cuda
    with _side_stream() if on_gpu else nullcontext():
        return DistributedDataParallel(
            module,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=not on_gpu,
        )


@contextmanager
def _side_stream() -> Generator[None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def share(rows: Tensor) -> Tensor:
    """This process's part of the rows [n, ...] of a batch: every so many, n a multiple of them."""
    return rows[rank() :: world_size()]


def broadcast_flags(*flags: bool) -> tuple[bool, ...]:
    """The flags of the first process, for all: clocks and stop requests differ between them."""
    if world_size() == 1:
        return flags
    decided = torch.tensor(flags, dtype=torch.uint8)
    dist.broadcast(decided, src=0)
    return tuple(bool(flag) for flag in decided)


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in one transfer.

    Tensors of any shapes [...], the same on all processes.
    """
    if world_size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(
        list(tensors), [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
    )


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of the first process (running statistics before a test).

    Tensors of any shapes [...], the same on all processes.
    """
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
