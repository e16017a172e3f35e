"""What a recipe says about training: the sections ``training`` and ``teacher.train``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from stillhouse.recipe.values import DurationText
from stillhouse.sections import Section
from stillhouse.sections.values import Count, NotNegative, Positive, Seed
from stillhouse.types import Duration, DurationUnit


class TrainingSettings(Section):
    """What fine-tuning a teacher and training a student have in common."""

    default_epochs: ClassVar[float]

    epochs: Positive | None = None
    """Passes over the training data; a fraction trains a part. Or give steps."""
    steps: Count | None = None
    """Optimizer steps, instead of epochs, over as many passes as it takes."""
    batch_size: Count = 32
    """Rows in a micro-batch (on each process)."""
    accumulation: Count = 1
    """Micro-batches in an optimizer step."""
    learning_rate: Positive = 1e-4
    """The highest learning rate."""
    warmup: DurationText = 0.1
    """How long the learning rate rises: a share of training from 0 to 1, 'N steps' or 'N epochs'."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up, to 0 at the end (constant: not at all)."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay; biases and normalisation weights are left out."""
    max_grad_norm: Positive | None = 1.0
    """The gradient of all that is trained is clipped to this norm; null does not clip."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where the hardware has it, else fp32."""
    seed: Seed = 0
    """Decides new weights, the order of the data and dropout."""
    evaluate_every: DurationText = "1 epochs"
    """How often the model is judged on the validation data and a checkpoint is kept: 'N steps' or 'N epochs'."""
    keep_last: Count = 1
    """How many newest checkpoints are kept, beside the best one."""
    early_stopping: Count | None = None
    """Stop after so many evaluations without a better one; null never does."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    log_every: Count = 50
    """Optimizer steps between logged values."""

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = [name for name in ("epochs", "steps") if values.get(name) is not None]
        if len(given) == 2:
            raise ValueError("give epochs or steps, not both")
        return values if given else {**values, "epochs": cls.default_epochs}

    @field_validator("evaluate_every")
    @classmethod
    def _whole_epochs(cls, value: str | float) -> str | float:
        duration = Duration.parse(value)
        if duration.value <= 0 or (duration.unit is DurationUnit.EPOCHS and duration.value != int(duration.value)):
            raise ValueError(f"{value!r}: write 'N steps' or 'N epochs' with a whole number from 1")
        return value


class TeacherTraining(TrainingSettings):
    """How the teacher is fine-tuned first. It is done once: the result is stored by content and used again."""

    default_epochs = 3.0

    learning_rate: Positive = 5e-5
    """The highest learning rate."""


class StudentTraining(TrainingSettings):
    """How the student is trained."""

    default_epochs = 10.0

    device: str = "auto"
    """auto, cpu, cuda or cuda:1: where everything runs, the teacher included."""
    compile: bool = False
    """Compile the student's layers with torch.compile: the same gradients, after a minute or more at the start. It
    needs a C++ compiler on a CPU, where it has not made any student faster that was measured, and Triton on CUDA."""
    embedding_updates: Literal["auto", "all", "touched"] = "auto"
    """Which word embeddings AdamW updates at each step: all, or those of the batch's words alone, and the others when
    they are read next. touched gives the same weights up to rounding (and, for words whose gradients are near AdamW's
    eps, up to 1e-4 of them); with a large vocabulary it saves a CPU time.
    auto is touched on a CPU where that is possible and the table is large."""
