"""Sums and collections over the processes of `torchrun`; with one process, nothing happens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gathered(tensor: Tensor) -> Tensor:
    """The tensors of all processes, one below the other in the order of their ranks.

    tensor: (B, ...), of one shape in all processes.  Returns (W B, ...) without a graph.
    """
    size = rank_and_size()[1]
    if size == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def summed(number: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if rank_and_size()[1] > 1:
        dist.all_reduce(number)
    return number


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up `.grad` over all processes in one message; one without a gradient adds nothing."""
    if rank_and_size()[1] == 1:
        return
    live = [p for p in parameters if p.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in live]
    whole = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(whole)
    pieces = whole.split([part.numel() for part in parts])
    for parameter, piece in zip(live, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
