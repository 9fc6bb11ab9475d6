"""One process or several, started by `torchrun`: their ranks and devices, and what they exchange."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from sharpose.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int  # number of the process, from 0
    world_size: int  # number of processes
    device: torch.device  # what it computes on

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, on each of them."""
        if self.world_size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.world_size

    def gather(self, value: object) -> list[Any]:
        """Every process's value, on each of them, in order of rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def join_ranks(device_name: str | None) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started (gloo on CPUs, NCCL on GPUs) until the block ends.

    The device is `cpu`, `cuda` (under torchrun each process has its own GPU), `cuda:i`, or None: a GPU if there is one.
    Raises `ConfigError` where it isn't there, or torchrun's environment is incomplete.
    """
    world_size = _from_environment("WORLD_SIZE", 1)
    rank, local_rank = _from_environment("RANK", 0), _from_environment("LOCAL_RANK", 0)
    device = _device(device_name, local_rank if world_size > 1 else None)
    if world_size == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{world_size} processes: can't find the others ({' '.join(str(error).split())[:160]}); start with torchrun"
        ) from error
    try:
        yield Ranks(rank, world_size, device)
    finally:
        distributed.destroy_process_group()


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigError(
            f"environment variable {name}: expected a number, as torchrun sets it, got {text!r}"
        ) from None


def _device(name: str | None, local_rank: int | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: expected cpu, cuda or cuda:INDEX") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(f"--device {name}: expected cpu, cuda or cuda:INDEX")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: no usable GPU; use --device cpu, or install a PyTorch with CUDA")
    if local_rank is not None and device.index is not None:
        raise ConfigError(f"--device {name}: under torchrun every process takes its own GPU; give --device cuda")
    index = local_rank if local_rank is not None else device.index or 0
    if index >= torch.cuda.device_count():
        raise ConfigError(f"--device cuda:{index}: this machine has {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", index)
