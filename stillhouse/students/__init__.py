"""Students made from a teacher: some of its layers kept, a new and smaller shape, or a network on its word embeddings.

Importing it makes the package's own model classes known to transformers.
"""

from __future__ import annotations

from stillhouse.students import own_models
from stillhouse.students.build import StudentPlan, StudentSpec, build_student, plan_student
from stillhouse.students.networks import known_networks
from stillhouse.students.shapes import known_shapes

own_models.register()

__all__ = ["StudentPlan", "StudentSpec", "build_student", "known_networks", "known_shapes", "plan_student"]
