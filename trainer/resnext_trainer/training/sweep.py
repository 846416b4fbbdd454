"""Sweep over precisions and batch sizes: throughput, utilization, and the time that the device waits for input."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from resnext_trainer.training.batch_search import Outcome, largest_batch
from resnext_trainer.training.sweep_cell import Cell, Measured

GPU_MODES = ("fp16+xla", "tf32+xla", "fp32+xla", "fp16", "tf32", "fp32")
"""The fastest first, so that a sweep that is cut short has the most important results."""
CPU_MODES = ("fp32",)

GPU_STEP, CPU_STEP = 8, 1
"""Batch sizes are multiples of these. The tensor cores of a GPU process multiples of 8."""


_SHORT = 24
"""Maximum length of a reason in the table; only `line` prints longer ones."""


@dataclass(frozen=True)
class Plan:
    """What a sweep measures."""

    modes: Sequence[str]
    """Precisions, with `+xla` if compiled."""
    first: dict[str, int]
    """Batch size to begin with, by mode."""
    limit: int
    """Largest batch size."""
    step: int
    real: bool
    """Whether to repeat the largest batch size of each mode with the configured dataset."""
    seconds: float
    """Time limit of the sweep."""
    cell_seconds: float
    """Time limit of a measurement."""


def sweep(plan: Plan, measure: Callable[[Cell, float], Measured], report: Callable[[str], None]) -> list[Measured]:
    """Measures until all modes are done or the time limit is reached; returns all results in the order of measurement.

    measure: runs a cell with a time limit in seconds. report: gets one line per result, as soon as it is measured.
    """
    deadline = time.monotonic() + plan.seconds
    found: list[Measured] = []

    def attempt(cell: Cell) -> Outcome:
        left = deadline - time.monotonic()
        if left <= 0:
            return Outcome.STOP
        result = measure(cell, min(left, plan.cell_seconds))
        if not result.facts and deadline <= time.monotonic():
            result = replace(result, outcome=Outcome.STOP, reason="the time limit of the sweep was reached")
        found.append(result)
        report(line(result))
        return result.outcome

    for mode in plan.modes:
        precision, _, compiler = mode.partition("+")
        cell = Cell(precision, bool(compiler), plan.first[mode])
        batch = largest_batch(
            lambda batch, cell=cell: attempt(replace(cell, batch=batch)),  # type: ignore[misc]
            cell.batch,
            plan.limit,
            plan.step,
        )
        if batch and plan.real:
            attempt(replace(cell, batch=batch, synthetic=False))
    if deadline <= time.monotonic():
        report(
            f"the time limit of the sweep (--minutes {plan.seconds / 60:g}) was reached: increase it, or select fewer "
            "modes with --mode"
        )
    return found


def line(result: Measured) -> str:
    """One result as text."""
    cell = result.cell
    images = "synthetic images" if cell.synthetic else "dataset"
    outcome = f"{result.facts['imagesPerSecond']:,.1f} images/s" if result.facts else result.reason
    return f"{cell.mode}, batch {cell.batch}, {images}: {outcome}"


def summarize(found: Sequence[Measured]) -> dict[str, Any]:
    """All results and the largest batch size of each mode, for JSON."""
    fits = [result for result in found if result.facts and result.cell.synthetic]
    largest = {mode: max(each.cell.batch for each in fits if each.cell.mode == mode) for mode in _modes(fits)}
    return {
        "benchmark": "sweep",
        "largestBatch": largest,
        "cells": [
            asdict(result.cell)
            | {"inputIdleShare": input_idle(result, found)}
            | ({"facts": dict(result.facts)} if result.facts else {"error": result.reason})
            for result in found
        ],
    }


def input_idle(result: Measured, found: Sequence[Measured]) -> float | None:
    """Fraction of the training time that the input costs: 1 - images/s with the dataset / images/s with random images.

    None for random images, and if one of the two measurements is missing. Unlike `dataWaitShare`, it includes the
    slowdown of the step by decoding.
    """
    same = replace(result.cell, synthetic=True)
    bare = next((each for each in found if each.cell == same and each.facts), None)
    if result.cell.synthetic or not result.facts or bare is None:
        return None
    return max(0.0, 1 - float(result.facts["imagesPerSecond"]) / float(bare.facts["imagesPerSecond"]))


def show(found: Sequence[Measured]) -> None:
    """Prints a table, ordered by mode and batch size."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("mode", "batch", "images", "images/s", "step p50", "MFU", "peak memory", "data wait", "idle for input"),
        box=None,
    )
    order = {mode: position for position, mode in enumerate(_modes(found))}
    for result in sorted(found, key=lambda each: (order[each.cell.mode], each.cell.batch, not each.cell.synthetic)):
        cell, facts = result.cell, result.facts
        row = [cell.mode, str(cell.batch), "synthetic" if cell.synthetic else "dataset"]
        if facts:
            row += [
                f"{facts['imagesPerSecond']:,.1f}",
                f"{facts['latencySeconds']['p50'] * 1000:,.1f} ms",
                _percent(facts["modelFlopUtilization"], "unknown"),
                f"{facts['peakMemoryGiB']:.1f} GiB",
                _percent(facts["dataWaitShare"]),
                _percent(input_idle(result, found)),
            ]
        else:
            row.append(result.reason if len(result.reason) <= _SHORT else "failed")
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table, markup=False)
    for mode, batch in summarize(found)["largestBatch"].items():
        print(f"largest batch size that fits with {mode}: {batch}")


def _modes(found: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(result.cell.mode for result in found))


def _percent(share: float | None, otherwise: str = "") -> str:
    return otherwise if share is None else f"{share:.0%}"
