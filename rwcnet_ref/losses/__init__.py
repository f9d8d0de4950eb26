"""What training minimises: every loss is a scalar tensor, less is better."""

from rwcnet_ref.losses.images import (
    local_ncc,
    mean_squared_error,
    mind_ssc,
    mind_ssc_descriptor,
    mutual_information,
)
from rwcnet_ref.losses.matches import dice_loss, displacement_error, keypoint_distance
from rwcnet_ref.losses.smoothness import (
    bending_energy,
    gradient_penalty,
    negative_jacobian_penalty,
)
from rwcnet_ref.losses.total import LOSSES, REGULARISERS, Prediction, total_loss

__all__ = [
    "LOSSES",
    "REGULARISERS",
    "Prediction",
    "bending_energy",
    "dice_loss",
    "displacement_error",
    "gradient_penalty",
    "keypoint_distance",
    "local_ncc",
    "mean_squared_error",
    "mind_ssc",
    "mind_ssc_descriptor",
    "mutual_information",
    "negative_jacobian_penalty",
    "total_loss",
]
