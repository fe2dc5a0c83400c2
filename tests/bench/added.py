"""What each further task adds to detection on YOLOR-CSP: size, operations, time, memory.

python tests/bench/added.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from cost import ANCHORS, forward, interleaved, make_batch, training_step
from hydra import compose, initialize_config_module
from results import table, write
from torch import nn

from heads.dense import DenseHead
from heads.longtail import LongTailHead
from unified.batch import Batch
from unified.build import build
from unified.data.coco.captions import SPECIAL
from unified.kinds.captions import END, START, CaptionTargets
from unified.kinds.federated import FederatedTargets
from unified.kinds.keypoints import KeypointTargets
from unified.kinds.masks import MaskTargets
from unified.kinds.objects import ObjectTargets
from unified.kinds.pixels import PixelTargets
from unified.kinds.segments import SegmentTargets
from unified.model import UnifiedModel
from unified.run.cost import measure_cost, peak_memory
from unified.schema import validate
from unified.task import DataSpec, Upstream
from unified.trunks.features import FeatureSpec

SIZE, LARGE, BATCH = 320, 640, 4
CASES = {
    "detection": "detection",
    "+ instance": "detection,instance",
    "+ stuff": "detection,stuff",
    "+ instance, stuff, panoptic": "detection,instance,stuff,panoptic",
    "+ keypoints": "detection,keypoints",
    "+ longtail": "detection,longtail",
    "+ caption": "detection,caption",
}
COUNTS = {
    "objects": 80, "masks": 80, "pixels": 92, "segments": 133, "keypoints": 1, "federated": 1203,
}  # fmt: skip
"""As many categories as COCO has, and LVIS."""
SEARCHED = 15
"""Categories that an image of LVIS is known to have or not to have."""
JOINTS = 17
SPACES = {
    kind: {
        "ids": list(range(count)),
        "names": list(map(str, range(count))),
        "identified": True,
        "things": [index < 80 for index in range(count)],
        "joints": [list(map(str, range(JOINTS)))] * count,
        "skeleton": [[]] * count,
        "flips": [[]] * count,
        "sigmas": [[0.05] * JOINTS] * count,
        "frequency": ["f"] * count,
    }
    for kind, count in COUNTS.items()
}
WORDS, LONGEST, SAID, TOLD = 8192, 32, 12, 5
"""Of a vocabulary; tokens of a caption, at most and here; captions of an image."""


def vocabulary() -> dict[str, Any]:
    """Of as many words as tokenisers of captions have."""
    from tokenizers import Tokenizer, models

    names = [*SPECIAL, *(f"w{number}" for number in range(WORDS - len(SPECIAL)))]
    words = models.WordLevel({name: number for number, name in enumerate(names)}, SPECIAL[0])
    return {"tokenizer": Tokenizer(words).to_str(), "longest": LONGEST}


def make(tasks: str, size: int, *more: str) -> UnifiedModel:
    """A network of some tasks, with codes; YOLOR-CSP, where no other trunk is said."""
    overrides = [f"task=[{tasks}]", "trunk=yolor_csp", "implicit=vector", f"data.image_size={size}"]
    if "caption" in tasks:
        overrides.append("task.caption.view=strong")  # all of the batch
    boxes = next((name for name in ("detection", "longtail") if name in tasks), None)
    if boxes:
        overrides.append(f"task.{boxes}.anchors={ANCHORS}")
    with initialize_config_module("conf", version_base="1.3"):
        config = validate(compose("config", [*overrides, *more]))
    return build(config, DataSpec(size, saved=SPACES | {"captions": vocabulary()}))


def labelled_batch(size: int, count: int = BATCH) -> Batch:
    """Boxes of the cost bench with masks that fill them, and maps of random classes."""
    batch = make_batch(size, 7 * count, count)
    side = size // 4  # of the class maps; masks are twice as fine
    cell = torch.arange(size // 2) * 2 + 1
    objects = batch.labels["objects"]
    across = (cell >= objects.boxes[:, :1]) & (cell < objects.boxes[:, 2:3])
    down = (cell >= objects.boxes[:, 1:2]) & (cell < objects.boxes[:, 3:])
    masks = (down[:, :, None] & across[:, None]).to(torch.uint8) * 255
    batch.labels |= {
        "masks": MaskTargets(objects.known, objects.image, objects.keys, masks),
        "pixels": PixelTargets(objects.known, classes("pixels", count, side)),
        "segments": SegmentTargets(objects.known, classes("segments", count, side)),
        "keypoints": joints_of(objects),
        "federated": federated_of(objects, size),
        "captions": captions_of(objects),
    }
    return batch


def federated_of(objects: ObjectTargets, size: int) -> FederatedTargets:
    """The objects as some of 1,203 categories, in images that were searched for a few."""
    images = len(objects.known)
    searched = torch.randint(COUNTS["federated"], (images * SEARCHED,))
    image = torch.cat([objects.image, torch.arange(images).repeat_interleave(SEARCHED)])
    whole = torch.tensor([[0.0, 0, size, size]]).expand(len(searched), -1)
    order = image.argsort(stable=True)
    return FederatedTargets(
        objects.known,
        image[order],
        torch.cat([objects.boxes, whole])[order],
        torch.cat([objects.labels, searched])[order],
        (torch.arange(len(image)) >= len(objects.boxes))[order],
    )


def captions_of(objects: ObjectTargets) -> CaptionTargets:
    """Sentences of random words."""
    images = len(objects.known)
    tokens = torch.zeros(images * TOLD, LONGEST + 2, dtype=torch.long)
    tokens[:, 0], tokens[:, SAID + 1] = SPECIAL.index(START), SPECIAL.index(END)
    tokens[:, 1 : SAID + 1] = torch.randint(len(SPECIAL), WORDS, (len(tokens), SAID))
    return CaptionTargets(objects.known, torch.arange(images).repeat_interleave(TOLD), tokens)


def joints_of(objects: ObjectTargets) -> KeypointTargets:
    """Joints at random places within every box."""
    low, sides = objects.boxes[:, None, :2], (objects.boxes[:, 2:] - objects.boxes[:, :2])[:, None]
    count = len(objects.boxes)
    places = low + sides * torch.rand(count, JOINTS, 2)
    joints = torch.cat([places, torch.full((count, JOINTS, 1), 2.0)], -1)
    labels, areas = torch.zeros(count, dtype=torch.long), sides[:, 0].prod(1)
    return KeypointTargets(objects.known, objects.image, objects.keys, labels, joints, areas)


def classes(kind: str, count: int, side: int) -> torch.Tensor:
    return torch.randint(COUNTS[kind], (count, side, side), dtype=torch.uint8)


def answer(model: UnifiedModel, image: torch.Tensor) -> Callable[[], object]:
    """A forward pass, and what each task keeps of its outputs: suppression included."""
    model.eval()

    def work() -> None:
        with torch.inference_mode():
            outputs, upstream = model(image), Upstream()
            for name, task in model.named_tasks().items():
                upstream.add(*task.shares(outputs[name]))
                kept = task.keep(outputs[name], upstream)
                upstream.add(*([kept] if isinstance(kept, task.publishes) else []))

    return work


def spoken(model: UnifiedModel) -> list[list[str]]:
    """Captions per second, by beams and images at a time, once the pyramid is there."""
    from unified.ops.generation import search

    task, rows = model.eval().tasks["caption"], []
    for beams in (1, 5):
        for count in (1, 8):
            memory = torch.randn(count, task.head.project.out_channels, (SIZE // 16) ** 2 * 5 // 4)
            work = partial(search, task.head.decoder, memory, task.marks, beams)
            seconds = interleaved({"": work}, rounds=5)[""]
            rows.append([str(beams), str(count), f"{count / seconds:.1f}"])
    return rows


def designs(features: FeatureSpec) -> dict[str, tuple[nn.Module, Callable[[], object]]]:
    """Heads of LVIS's categories: what a pass makes of random features, logits of all included."""
    count, anchors, width = COUNTS["federated"], 3, 128
    own = torch.zeros(len(features), 0, 2)
    maps = {
        name: torch.rand(1, level.channels, SIZE // level.stride, SIZE // level.stride)
        for name, level in features.items()
    }
    full = {
        "a logit per category at every anchor": DenseHead(
            features, dict.fromkeys(features, width), anchors * count
        ),
        "a logit per category at every cell": DenseHead(
            features, dict.fromkeys(features, width), count + anchors
        ),
    }
    chosen = LongTailHead(features, count, width, 64, anchors, own)

    def products() -> None:
        vectors = torch.cat(chosen.vectors(chosen(maps)), 1)
        chosen.categories(vectors)

    cases: dict[str, tuple[nn.Module, Callable[[], object]]] = {
        name: (head, partial(head, maps)) for name, head in full.items()
    }
    return cases | {
        "a vector of 64 at every cell, times one per category": (chosen, products),
        "the same without the products: a training step's": (chosen, partial(chosen, maps)),
    }


def memory(tasks: str) -> None:
    """Print the peak of this process after three steps at the large size."""
    torch.set_num_threads(2)
    step = training_step(make(tasks, LARGE), labelled_batch(LARGE))
    for _ in range(3):
        step()
    print(peak_memory(torch.device("cpu")) / 2**30)


def measured_memory(tasks: str) -> float:
    """GiB, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, tasks], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        memory(sys.argv[1])
        return
    peaks = {name: measured_memory(tasks) for name, tasks in CASES.items()}
    torch.set_num_threads(2)
    built = {name: make(tasks, SIZE) for name, tasks in CASES.items()}
    image, batch = torch.rand(1, 3, SIZE, SIZE), labelled_batch(SIZE)
    costs = {n: measure_cost(b, SIZE)["parts"].values() for n, b in built.items()}
    forwards = interleaved({n: forward(b, image) for n, b in built.items()}, rounds=15)
    answers = interleaved({n: answer(b, image) for n, b in built.items()}, rounds=15)
    steps = interleaved({n: training_step(b, batch) for n, b in built.items()}, rounds=5)
    base = "detection"
    with torch.inference_mode():
        heads = designs(built[base].trunk.features)
        seconds = interleaved({n: work for n, (_, work) in heads.items()}, rounds=15)
    compared = [
        [
            name, f"{sum(p.numel() for p in head.parameters()):,}", f"{1000 * seconds[name]:.1f}",
            f"{seconds[name] / forwards[base]:.3f}×",
        ]
        for name, (head, _) in heads.items()
    ]  # fmt: skip
    rows = []
    for name in CASES:
        parameters = sum(p["parameters"] for p in costs[name])
        flops = sum(p["flops"] for p in costs[name]) / 1e9
        rows.append(
            [
                name, f"{parameters:,}", f"{flops:.2f}", f"{1000 * forwards[name]:.0f}",
                f"{forwards[name] / forwards[base]:.3f}×", f"{1000 * answers[name]:.0f}",
                f"{answers[name] / answers[base]:.3f}×", f"{1000 * steps[name]:.0f}",
                f"{steps[name] / steps[base]:.3f}×", f"{peaks[name]:.2f}",
                f"{peaks[name] / peaks[base]:.3f}×",
            ]
        )  # fmt: skip
    write(
        "added",
        "What further tasks add to detection",
        "python tests/bench/added.py",
        [
            f"YOLOR-CSP with codes, COCO's numbers of categories, float32, two threads. Forward: one "
            f"image of {SIZE} px; training step: {BATCH} images of {SIZE} px, seven objects each; "
            "medians of interleaved runs. Decoding is up to what suppression keeps, of outputs that "
            "are not trained. Memory: peak of the process over three training steps of "
            f"{BATCH} images of {LARGE} px, optimiser included.",
            table(
                [
                    "tasks",
                    "parameters",
                    "GFLOPs",
                    "forward ms",
                    "",
                    "with decoding ms",
                    "",
                    "step ms",
                    "",
                    "peak GiB",
                    "",
                ],
                rows,
            ),
            "## Heads of 1,203 categories",
            f"Alone, of one image of {SIZE} px; the ratio is to detection's whole forward pass.",
            table(["head", "parameters", "ms", ""], compared),
            "## Captions",
            f"Of {LONGEST + 1} tokens, as a decoder says that was not trained; a real caption has "
            "about twelve. The time of trunk and head is not in it, and that of the decoder is in none "
            "of the operations and forward passes above: it begins with decoding.",
            table(["beams", "images at a time", "captions per second"], spoken(built["+ caption"])),
        ],
    )


if __name__ == "__main__":
    main()
