"""What training keeps in memory beside the weights, counted while it is done, and what memory is free for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from polyrank.core import limits


def free_memory(device: torch.device) -> int:
    """Bytes that are free where it is computed."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else limits.free_memory())


def most_saved(model: nn.Module, step: Callable[[], object]) -> int:
    """The most bytes that are kept at a time for a backward pass, the model's own tensors left out.

    Args:
        model: whose weights do not count.
        step: trains; whatever it computes with a gradient is counted.
    """
    weights = {_memory(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    largest = 0

    def count(tensor: Tensor) -> Tensor:
        if (where := _memory(tensor)) not in weights:
            kept[where] = tensor.untyped_storage().nbytes()  # once, however many operations keep it
        return tensor

    def look(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, sum(kept.values()))
        kept.clear()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, look):
        step()
    return largest


def most_allocated(device: torch.device, step: Callable[[], object]) -> int | None:
    """The most bytes that a GPU's allocator held beyond what it held before; None where there is no GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _memory(tensor: Tensor) -> int:
    """Where its memory is; views share it."""
    return tensor.untyped_storage().data_ptr()
