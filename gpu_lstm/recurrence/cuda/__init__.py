"""The recurrence on a GPU: tiers `pointwise` and `sequence`, and the plan of what lies on chip."""
