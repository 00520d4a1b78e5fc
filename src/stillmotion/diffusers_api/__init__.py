"""The drop-in face: diffusers' class, method and argument names over our parts, and nothing else.

A script written for diffusers' StableVideoDiffusionPipeline runs with its import line changed. Where that pipeline is
wrong (wrong pairing of several videos an image, videos mixed while decoding, ...) this one is right; where it only
differs from the original model (the epsilon of the U-Net's norms), `norm_eps="diffusers"` gives its numbers.
"""

from .media import export_to_video, load_image
from .networks import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from .pipeline import StableVideoDiffusionPipeline, StableVideoDiffusionPipelineOutput
from .scheduler import EulerDiscreteScheduler

__all__ = [
    "AutoencoderKLTemporalDecoder",
    "EulerDiscreteScheduler",
    "StableVideoDiffusionPipeline",
    "StableVideoDiffusionPipelineOutput",
    "UNetSpatioTemporalConditionModel",
    "export_to_video",
    "load_image",
]
