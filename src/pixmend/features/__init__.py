"""Features: maps in which sets of images are compared, and the distances between sets."""

from pixmend.features.distances import (
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    nearest_distances,
    paired_kernel_distance,
)
from pixmend.features.maps import FeatureMap, choose_features

__all__ = [
    "FeatureMap",
    "choose_features",
    "frechet_distance",
    "kernel_distance",
    "mean_pairwise_distance",
    "nearest_distances",
    "paired_kernel_distance",
]
