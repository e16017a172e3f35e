"""Teacher sources: a live model, several, one a task, none, or a cache around any of them."""

from stillhouse.teachers.base import TeacherSource
from stillhouse.teachers.cached import CachedTeacher
from stillhouse.teachers.ensemble import EnsembleTeacher
from stillhouse.teachers.live import LiveTeacher, model_fingerprint
from stillhouse.teachers.none import NoTeacher
from stillhouse.teachers.routed import RoutedTeacher

__all__ = [
    "CachedTeacher",
    "EnsembleTeacher",
    "LiveTeacher",
    "NoTeacher",
    "RoutedTeacher",
    "TeacherSource",
    "model_fingerprint",
]
