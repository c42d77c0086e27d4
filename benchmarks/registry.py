"""Names and what they stand for, as :mod:`baselines.registry` has it."""

from baselines.registry import Registry, pick

__all__ = ["Registry", "pick"]
