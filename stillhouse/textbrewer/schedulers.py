"""Old import path of the schedules."""

from stillhouse.presets import constant_temperature, linear_decay, linear_growth

linear_decay_weight_scheduler = linear_decay
linear_growth_weight_scheduler = linear_growth
constant_temperature_scheduler = constant_temperature

__all__ = ["constant_temperature_scheduler", "linear_decay_weight_scheduler", "linear_growth_weight_scheduler"]
