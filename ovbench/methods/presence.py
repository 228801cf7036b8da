"""Scores with queries that are moved towards the image and with the class token's similarity to the queries.

This is the text side of CASS (section 3.3), which RF-CLIP uses too.

Symbols: B windows; N = gh * gw patches; D width of the joint space; Q queries; K clusters of queries; M queries of the
largest cluster.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from ovbench.methods.base import Method, Queries, WindowedImage

TOP_PATCHES = 2  # patches that a query is moved towards


class PresenceFeatures(NamedTuple):
    """The features of windows, all of length 1.

    Attributes:
        tokens: float (B, N, D), patch features.
        grid: (gh, gw).
        presence: float (B, D') or (1, D'), class token of each window or of the image.
    """

    tokens: Tensor
    grid: tuple[int, int]
    presence: Tensor


class Presence(Method):
    """Score patches with adjusted queries, and add the similarity of the class token; override `encode`.

    ``Params`` has ``gamma``, the weight of the class token; ``alpha``, the weight of the patches; ``cluster_distance``,
    at which the clustering of queries is cut; and ``class_token``, "image" or "window".

    Attributes:
        linkage: How the clustering of similar queries merges them, a ``method`` of ``scipy.cluster.hierarchy.linkage``.
    """

    enlarges_once: ClassVar[bool] = False
    scores_cosines: ClassVar[bool] = True  # weighted means of cosines
    linkage: str = "ward"

    @property
    def windowwise(self) -> bool:
        """Return whether windows are independent: not if they need the class token of the image."""
        return self.params.class_token == "window"

    def encode_image(self, image: WindowedImage) -> Tensor | None:
        """Return the class token (1, D') of the whole image, or None if each window has its own."""
        return self.class_tokens(image.resized[None]) if self.params.class_token == "image" else None

    def class_tokens(self, images: Tensor) -> Tensor:
        """Return normalised class tokens (B, D') of images (B, 3, h, w)."""
        raise NotImplementedError

    def map_queries(self, queries: Queries) -> Queries:
        """Return the queries with their clusters, computed once per vocabulary."""
        found = cluster(queries.embeddings, self.params.cluster_distance, self.linkage)
        return queries._replace(clusters=members(found))

    def score(self, features: PresenceFeatures, queries: Queries) -> Tensor:
        """Return scores float (B, Q, gh, gw): (1 - gamma) patch cosines + gamma class token cosines."""
        presence = self.presence_scores(features, queries)  # (B, Q) or (1, Q)
        cosines = features.tokens @ queries.embeddings.T  # (B, N, Q)
        if self.params.alpha > 0:
            winners, adjusted = self.move_queries(features, queries, presence, cosines)
            at = winners[:, None].expand(-1, cosines.shape[1], -1)
            cosines = cosines.scatter(2, at, features.tokens @ adjusted.mT)
        scores = (1 - self.params.gamma) * cosines + self.params.gamma * presence[:, None]
        return scores.mT.unflatten(2, features.grid)

    def presence_scores(self, features: PresenceFeatures, queries: Queries) -> Tensor:
        """Return the cosines of the class token with the unadjusted queries, float (B, Q) or (1, Q)."""
        return features.presence @ queries.embeddings.T

    def move_queries(
        self, features: PresenceFeatures, queries: Queries, presence: Tensor, cosines: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move the most present query of each cluster towards its most similar patches in the window.

        Returns:
            The winner of each cluster, int64 (B, K), and its adjusted embedding, float (B, K, D).
        """
        winners = first_largest(presence, queries.clusters).expand(len(cosines), -1)
        likeness = cosines.gather(2, winners[:, None].expand(-1, cosines.shape[1], -1))  # (B, N, K)
        nearest = likeness.topk(min(TOP_PATCHES, likeness.shape[1]), dim=1).indices  # (B, TOP_PATCHES, K)
        window = torch.arange(len(cosines), device=winners.device)[:, None, None]
        mean = F.normalize(features.tokens[window, nearest].mean(1), dim=-1)  # (B, K, D)
        adjusted = (1 - self.params.alpha) * F.normalize(queries.embeddings[winners], dim=-1) + self.params.alpha * mean
        return winners, F.normalize(adjusted, dim=-1)


def cluster(text: Tensor, distance: float, method: str) -> Tensor:
    """Cluster queries by a linkage on their cosine distances.

    Ward's linkage is defined for Euclidean distances; on cosine distances it is the call of CASS's official code.

    Args:
        text: float (Q, D).
        distance: Height at which the tree is cut.
        method: Linkage as scipy names it, "ward" or "complete".

    Returns:
        int64 (Q,), cluster of every query, numbered by first query.
    """
    if len(text) == 1:
        return text.new_zeros(1, dtype=torch.int64)
    unit = F.normalize(text.cpu().double(), dim=-1)  # not every device has float64
    condensed = (1 - unit @ unit.T).clamp(0, 2)[tuple(torch.triu_indices(len(unit), len(unit), 1))]
    found = fcluster(linkage(condensed.numpy(), method=method), t=distance, criterion="distance")
    number = {label: position for position, label in enumerate(dict.fromkeys(found.tolist()))}
    return torch.tensor([number[label] for label in found.tolist()], device=text.device)


def members(clusters: Tensor) -> Tensor:
    """Return the queries of each cluster, int64 (K, M), ascending, padded with the first one.

    Args:
        clusters: int64 (Q,), cluster of every query.
    """
    lists: dict[int, list[int]] = {}
    for query, number in enumerate(clusters.tolist()):
        lists.setdefault(number, []).append(query)
    most = max(map(len, lists.values()))
    rows = [found + found[:1] * (most - len(found)) for _, found in sorted(lists.items())]
    return torch.tensor(rows, device=clusters.device)


def first_largest(values: Tensor, clusters: Tensor) -> Tensor:
    """Return the first index of the largest of the values (B, Q) in each of the clusters (K, M), int64 (B, K)."""
    of_cluster = values[:, clusters]  # (B, K, M)
    largest = of_cluster == of_cluster.amax(-1, keepdim=True)
    return torch.where(largest, clusters, values.shape[1] - 1).amin(-1)
