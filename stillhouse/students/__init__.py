"""Students made from a teacher: some of its layers kept, or a new and smaller shape."""

from __future__ import annotations

from stillhouse.students.build import StudentPlan, StudentSpec, build_student, plan_student
from stillhouse.students.shapes import known_shapes

__all__ = ["StudentPlan", "StudentSpec", "build_student", "known_shapes", "plan_student"]
