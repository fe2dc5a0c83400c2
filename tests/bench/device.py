"""What each further task adds to detection on YOLOR-CSP, on a GPU: time, memory, waits.

python tests/bench/device.py
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial

import torch
from added import CASES, labelled_batch, make
from cost import forward, training_step
from results import table, write
from torch import Tensor

from unified.model import UnifiedModel

SIZE, BATCH, ROUNDS = 640, 16, 20
ALL = {
    "all nine": "detection,instance,stuff,panoptic,keypoints,longtail,caption,classification,embedding",
}
SAID = ((1, 1), (1, 64), (5, 1), (5, 64))
"""Beams, and images at a time."""


def interleaved(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each case on the device; the cases take turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 3):
        for name, work in cases.items():
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            began.record()
            work()
            ended.record()
            torch.cuda.synchronize()
            if turn >= 3:
                times[name].append(began.elapsed_time(ended))
    return {name: statistics.median(values) for name, values in times.items()}


def mixed(work: Callable[[], object]) -> Callable[[], object]:
    """In bfloat16, as a run on a GPU computes."""

    def wrapped() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            work()

    return wrapped


def peak(work: Callable[[], object]) -> float:
    """GiB that the device holds at most beyond what it held before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def waits(work: Callable[[], object]) -> int:
    """How often the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    own = [w for w in told if "synchroniz" in str(w.message)]
    for place in sorted({f"{w.filename}:{w.lineno}" for w in own}):
        print("waits at", place, file=sys.stderr)
    return len(own)


def spoken(model: UnifiedModel) -> list[list[str]]:
    """Captions per second, once the pyramid is there."""
    from unified.ops.generation import search

    task, rows = model.eval().tasks["caption"], []
    for beams, count in SAID:
        memory = torch.randn(count, task.head.project.out_channels, (SIZE // 16) ** 2 * 5 // 4)
        work = partial(search, task.head.decoder, memory.cuda(), task.marks, beams)
        seconds = interleaved({"": mixed(work)}, rounds=3)[""] / 1000
        rows.append([str(beams), str(count), f"{count / seconds:.0f}"])
    return rows


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU")
    built = {n: make(tasks, SIZE).cuda() for n, tasks in (CASES | ALL).items()}
    layout = torch.channels_last
    batch = labelled_batch(SIZE, BATCH).to("cuda")
    one, many = (
        torch.randint(0, 255, (n, 3, SIZE, SIZE), dtype=torch.uint8, device="cuda").contiguous(
            memory_format=layout
        )
        for n in (1, BATCH)
    )

    def answers(image: Tensor) -> dict[str, float]:
        return interleaved({n: mixed(forward(b, image)) for n, b in built.items()}, ROUNDS)

    single, several = answers(one), answers(many)
    steps = {n: mixed(training_step(b, batch)) for n, b in built.items()}
    took = interleaved(steps, ROUNDS)
    peaks, waited = ({n: f(w) for n, w in steps.items()} for f in (peak, waits))
    base = "detection"
    rows = [
        [
            name, f"{single[name]:.1f}", f"{single[name] / single[base]:.3f}×",
            f"{several[name]:.1f}", f"{several[name] / several[base]:.3f}×",
            f"{took[name]:.1f}", f"{took[name] / took[base]:.3f}×",
            f"{peaks[name]:.2f}", f"{peaks[name] / peaks[base]:.3f}×", str(waited[name]),
        ]
        for name in built
    ]  # fmt: skip
    header = ["tasks", "forward of 1, ms", "", f"of {BATCH}, ms", "", "step, ms", "", "GiB", ""]
    write(
        "device",
        "What further tasks add to detection on a GPU",
        "python tests/bench/device.py",
        [
            "YOLOR-CSP with codes, COCO's numbers of categories, "
            f"images of {SIZE} px, bfloat16, channels_last; a training step has {BATCH} images of "
            "seven objects each. Medians of interleaved runs. GiB: what a step holds at most beyond "
            "weights and what the optimiser keeps. Waits: how often the host waits for the device "
            "in a step.",
            table([*header, "waits"], rows),
            "## Captions",
            "Of 33 tokens, as a decoder says that was not trained; trunk and head are not in it.",
            table(["beams", "images at a time", "captions per second"], spoken(built["all nine"])),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
