"""PatchNet as one graph of named tensors: what the PyTorch runtime runs and what is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effvision.metadata import GraphSpec, StateSpec, TensorSpec
from effvision.models.patchnet.network import CELLS, GRID, PATCH, SEARCH, TEMPLATE, Matcher

__all__ = ["MatchGraph", "match_spec"]


class MatchGraph(nn.Module):
    """Search pictures and, where asked, new templates of M objects -> where they are, and the filters that are kept.

    A new template is taken up before the match, so an object's first call can already find it.
    """

    def __init__(self, network: Matcher, *, exported: bool = False) -> None:
        """Take the network; `exported` is the same function without a branch on values, for tracing."""
        super().__init__()
        self.network = network
        self.exported = exported

    def forward(
        self, search: Tensor, template: Tensor, refresh: Tensor, filters: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of M objects.

        Args:
            search: (M, 3, 119, 119) RGB minus the mean colour.
            template: (M, 3, 64, 64) likewise; looked at where `refresh` is above 0.5.
            refresh: (M,).
            filters: (M, 64, 3, 8, 8) state.
            mean: (M, 3) state.

        Returns:
            response (M, 7, 7), offsets (M, 4, 7, 7), strength (M,) of the filters, and the next `filters` and `mean`.
        """
        if self.exported or bool((refresh > 0.5).any()):
            asked = refresh > 0.5
            new_filters, new_mean = self.network.describe(template)
            filters = torch.where(asked[:, None, None, None, None], new_filters, filters)
            mean = torch.where(asked[:, None], new_mean, mean)
        response, offsets = self.network.match(search, filters, mean)
        strength = (filters.flatten(1).square().sum(1) / (GRID * GRID)).sqrt()
        return response, offsets, strength, filters, mean


def match_spec() -> GraphSpec:
    """Describe `MatchGraph`; the first axis counts objects."""
    return GraphSpec(
        "step",
        (
            TensorSpec("search", ("batch", 3, SEARCH, SEARCH)),
            TensorSpec("template", ("batch", 3, TEMPLATE, TEMPLATE)),
            TensorSpec("refresh", ("batch",)),
        ),
        (
            TensorSpec("response", ("batch", CELLS, CELLS)),
            TensorSpec("offsets", ("batch", 4, CELLS, CELLS)),
            TensorSpec("strength", ("batch",)),
        ),
        (
            StateSpec("filters", "filters_in", "filters_out", (GRID * GRID, 3, PATCH, PATCH)),
            StateSpec("mean", "mean_in", "mean_out", (3,)),
        ),
    )
