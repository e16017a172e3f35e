"""Training: one loop, and the parts it is made of."""

from stillhouse.training.bundle import Bundle
from stillhouse.training.events import ConsoleSink, Event, JsonLinesSink, Sink
from stillhouse.training.loop import fit, total_steps
from stillhouse.training.options import Evaluation, FitOptions, FitResult
from stillhouse.training.precision import Precision, resolve_device, resolve_precision
from stillhouse.training.prefetch import PrefetchSource
from stillhouse.training.profiling import Profile, StepProfile
from stillhouse.training.saving import EverySteps, PerEpoch
from stillhouse.training.sources import BatchSource, LoaderSource, TaskSource
from stillhouse.training.step import WindowLoss
from stillhouse.training.trackers import MLflowSink, TensorBoardSink, WandbSink

__all__ = [
    "BatchSource",
    "Bundle",
    "ConsoleSink",
    "Evaluation",
    "Event",
    "EverySteps",
    "FitOptions",
    "FitResult",
    "JsonLinesSink",
    "LoaderSource",
    "MLflowSink",
    "PerEpoch",
    "Precision",
    "PrefetchSource",
    "Profile",
    "Sink",
    "StepProfile",
    "TaskSource",
    "TensorBoardSink",
    "WandbSink",
    "WindowLoss",
    "fit",
    "resolve_device",
    "resolve_precision",
    "total_steps",
]
