"""What happens around every run: a lock, the cost of each node, tracking, the closing lines."""

from __future__ import annotations

from backdoor_pipeline.hooks.closing import ClosingHooks
from backdoor_pipeline.hooks.costs import CostHooks
from backdoor_pipeline.hooks.lock import LockHooks
from backdoor_pipeline.hooks.tracking import TrackingHooks

HOOKS = (ClosingHooks(), TrackingHooks(), CostHooks(), LockHooks())
"""Kedro calls the last one first: the lock is taken before anything else happens."""
