"""The recurrence: one contract, its tiers, and the plan that picks one."""

from gpu_lstm.recurrence.plan import TIERS, Plan, make_plan, runnable_tiers
from gpu_lstm.recurrence.problem import Arriving, Gradients, Joint, Mask, Problem, Saved
from gpu_lstm.recurrence.tier import Fit, Offer, Tier

__all__ = [
    "TIERS", "Arriving", "Fit", "Gradients", "Joint", "Mask", "Offer", "Plan", "Problem", "Saved", "Tier", "make_plan",
    "runnable_tiers",
]  # fmt: skip
