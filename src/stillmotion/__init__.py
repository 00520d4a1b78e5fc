"""stillmotion: a still image becomes a moving one.

The public names are imported when they are first used, so that importing the package costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints.load import load as load
    from .diffusers_api import AutoencoderKLTemporalDecoder as AutoencoderKLTemporalDecoder
    from .diffusers_api import EulerDiscreteScheduler as EulerDiscreteScheduler
    from .diffusers_api import StableVideoDiffusionPipeline as StableVideoDiffusionPipeline
    from .diffusers_api import StableVideoDiffusionPipelineOutput as StableVideoDiffusionPipelineOutput
    from .diffusers_api import UNetSpatioTemporalConditionModel as UNetSpatioTemporalConditionModel
    from .diffusers_api import export_to_video as export_to_video
    from .diffusers_api import load_image as load_image
    from .errors import StillmotionError as StillmotionError
    from .media.formats import Encoding as Encoding
    from .media.video import read_video as read_video
    from .media.video import write_video as write_video
    from .pipelines.image_to_video import VideoSettings as VideoSettings
    from .pipelines.image_to_video import animate as animate
    from .placement import Placement as Placement
    from .placement import Stage as Stage
    from .recipe import Recipe as Recipe
    from .recipe import read_recipe as read_recipe
    from .tasks.convert import ConvertSettings as ConvertSettings
    from .tasks.convert import convert as convert
    from .tasks.doctor import DoctorSettings as DoctorSettings
    from .tasks.doctor import doctor as doctor
    from .tasks.generate import generate as generate
    from .tasks.grid import GridSettings as GridSettings
    from .tasks.grid import grid as grid
    from .tasks.inspect import InspectSettings as InspectSettings
    from .tasks.inspect import inspect as inspect
    from .tasks.repeat import RepeatSettings as RepeatSettings
    from .tasks.repeat import repeat as repeat
    from .tasks.score import ScoreSettings as ScoreSettings
    from .tasks.score import score as score
    from .tasks.settings import GenerateSettings as GenerateSettings

__version__ = "0.1.0"

_HOMES = {
    "AutoencoderKLTemporalDecoder": "diffusers_api",
    "ConvertSettings": "tasks.convert",
    "DoctorSettings": "tasks.doctor",
    "Encoding": "media.formats",
    "EulerDiscreteScheduler": "diffusers_api",
    "GenerateSettings": "tasks.settings",
    "GridSettings": "tasks.grid",
    "InspectSettings": "tasks.inspect",
    "Placement": "placement",
    "Recipe": "recipe",
    "RepeatSettings": "tasks.repeat",
    "ScoreSettings": "tasks.score",
    "StableVideoDiffusionPipeline": "diffusers_api",
    "StableVideoDiffusionPipelineOutput": "diffusers_api",
    "Stage": "placement",
    "StillmotionError": "errors",
    "UNetSpatioTemporalConditionModel": "diffusers_api",
    "VideoSettings": "pipelines.image_to_video",
    "animate": "pipelines.image_to_video",
    "convert": "tasks.convert",
    "doctor": "tasks.doctor",
    "export_to_video": "diffusers_api",
    "generate": "tasks.generate",
    "grid": "tasks.grid",
    "inspect": "tasks.inspect",
    "load": "checkpoints.load",
    "load_image": "diffusers_api",
    "read_recipe": "recipe",
    "read_video": "media.video",
    "repeat": "tasks.repeat",
    "score": "tasks.score",
    "write_video": "media.video",
}
__all__ = [
    "AutoencoderKLTemporalDecoder",
    "ConvertSettings",
    "DoctorSettings",
    "Encoding",
    "EulerDiscreteScheduler",
    "GenerateSettings",
    "GridSettings",
    "InspectSettings",
    "Placement",
    "Recipe",
    "RepeatSettings",
    "ScoreSettings",
    "StableVideoDiffusionPipeline",
    "StableVideoDiffusionPipelineOutput",
    "Stage",
    "StillmotionError",
    "UNetSpatioTemporalConditionModel",
    "VideoSettings",
    "animate",
    "convert",
    "doctor",
    "export_to_video",
    "generate",
    "grid",
    "inspect",
    "load",
    "load_image",
    "read_recipe",
    "read_video",
    "repeat",
    "score",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stillmotion' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
