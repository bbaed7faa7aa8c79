"""The recurrence: one contract, its tiers, and the plan that picks one."""

from gpu_lstm.recurrence.contract import Mask, Saved, Tier
from gpu_lstm.recurrence.plan import TIERS, Plan, make_plan, runnable_tiers

__all__ = ["TIERS", "Mask", "Plan", "Saved", "Tier", "make_plan", "runnable_tiers"]
