"""Old import path of the schedules and temperature strategies."""

from stillhouse.losses.temperature import CWSM, FLSW, constant
from stillhouse.presets import linear_decay, linear_growth

linear_decay_weight_scheduler = linear_decay
linear_growth_weight_scheduler = linear_growth
constant_temperature_scheduler = constant
flsw_temperature_scheduler_builder = FLSW
cwsm_temperature_scheduler_builder = CWSM

__all__ = [
    "constant_temperature_scheduler", "cwsm_temperature_scheduler_builder", "flsw_temperature_scheduler_builder",
    "linear_decay_weight_scheduler", "linear_growth_weight_scheduler",
]
