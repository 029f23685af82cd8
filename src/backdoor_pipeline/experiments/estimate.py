"""How long tasks will take, by what earlier runs in the same folder of outputs have cost."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from backdoor_pipeline.experiments.tasks import Task
from backdoor_pipeline.keys import HASH_LENGTH, STAGES


class Estimate:
    """Seconds of each stage in earlier runs.

    Args:
        data_dir: Folder of the outputs, with the costs that ``hooks.costs`` keeps.
    """

    def __init__(self, data_dir: Path) -> None:
        self._spent = {
            folder.name: sum(
                json.loads(path.read_text(encoding="utf-8"))["wall_seconds"]
                for path in folder.glob("*.json")
            )
            for folder in sorted((data_dir / ".costs").glob("*/"))
        }

    def of_stage(self, stage: str, key: str) -> float | None:
        """Seconds of a stage: the median over runs of the same model and data, else of all data.

        None if it has never been run here.
        """
        own = _folders(stage).fullmatch(key)
        if own is None:
            return None
        data, model = (own.groupdict().get(name) or "" for name in ("data", "model"))
        for pattern in (_folders(stage, data, model), _folders(stage, model=model)):
            if spent := [s for folder, s in self._spent.items() if pattern.fullmatch(folder)]:
                return median(spent)
        return None

    def of_task(self, task: Task) -> float | None:
        """Seconds of a task, None if one of its stages has never been run here."""
        stages = [self.of_stage(stage, task.cell.keys[stage]) for stage in task.stages]
        known = [seconds for seconds in stages if seconds is not None]
        return sum(known) if len(known) == len(stages) else None

    def of_all(self, tasks: Sequence[Task], at_once: int) -> tuple[float, list[Task]]:
        """Seconds until all tasks have ended, and those of which nothing is known.

        Args:
            tasks: Each after those it needs.
            at_once: How many run at the same time.
        """
        ends: dict[str, float] = {}
        total, unknown = 0.0, []
        for task in tasks:
            seconds = self.of_task(task)
            if seconds is None:
                unknown.append(task)
            ready = max((ends.get(name, 0.0) for name in task.needs), default=0.0)
            ends[task.name] = ready + (seconds or 0.0)
            total += seconds or 0.0
        return max(total / at_once, *ends.values(), 0.0), unknown


def _folders(stage: str, data: str | None = None, model: str | None = None) -> re.Pattern[str]:
    """Matches the folders of a stage, whatever attack and seed, for any data and model if None."""
    words = {"data": "DATA", "attack": "ATTACK", "rate": "RATE", "model": "MODEL", "seed": "SEED"}
    pattern = re.escape(STAGES[stage].folder.format(**words))
    for word, meant in (
        ("DATA", r"(?P<data>[^.]+)" if data is None else re.escape(data)),
        ("ATTACK", r"[^.]+"),
        ("RATE", r"\d\.\d\d+"),
        ("MODEL", r"(?P<model>.+?)" if model is None else re.escape(model)),
        ("SEED", r"\d+"),
    ):
        pattern = pattern.replace(word, meant)
    return re.compile(rf"{pattern}-[0-9a-f]{{{HASH_LENGTH}}}")
