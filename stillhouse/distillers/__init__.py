"""The paper's front door: five distillers with one interface, replaceable by each other.

    with distiller:
        distiller.train(optimizer, dataloader, num_epochs=3, callback=evaluate)

Each composes a plan (student, adaptor, teacher source, objective) and hands it to the one training loop.

    single.py         BasicTrainer, BasicDistiller, GeneralDistiller    base.py  what all five share
    multi_teacher.py  MultiTeacherDistiller                             multi_task.py  MultiTaskDistiller
"""

from stillhouse.distillers.base import Distiller
from stillhouse.distillers.multi_task import MultiTaskDistiller
from stillhouse.distillers.multi_teacher import MultiTeacherDistiller
from stillhouse.distillers.single import BasicDistiller, BasicTrainer, GeneralDistiller

__all__ = [
    "BasicDistiller", "BasicTrainer", "Distiller", "Distillers", "GeneralDistiller", "MultiTaskDistiller",
    "MultiTeacherDistiller",
]

Distillers: dict[str, type[Distiller]] = {
    "Basic": BasicDistiller, "General": GeneralDistiller, "MultiTeacher": MultiTeacherDistiller,
    "MultiTask": MultiTaskDistiller, "Train": BasicTrainer,
}
