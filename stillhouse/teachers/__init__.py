"""Teacher sources: a model, several, one a task, a function, numbers, none, or a cache around any of them."""

from stillhouse.teachers.base import TeacherSource
from stillhouse.teachers.cached import CachedTeacher
from stillhouse.teachers.called import CalledTeacher
from stillhouse.teachers.ensemble import EnsembleTeacher
from stillhouse.teachers.given import GivenTeacher
from stillhouse.teachers.live import LiveTeacher, model_fingerprint
from stillhouse.teachers.none import NoTeacher
from stillhouse.teachers.routed import RoutedTeacher

__all__ = [
    "CachedTeacher",
    "CalledTeacher",
    "EnsembleTeacher",
    "GivenTeacher",
    "LiveTeacher",
    "NoTeacher",
    "RoutedTeacher",
    "TeacherSource",
    "model_fingerprint",
]
