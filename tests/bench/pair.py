"""What embedding costs detection beside it, and what changes that: a run for every hypothesis.

python tests/bench/pair.py
"""

from __future__ import annotations

from collections.abc import Mapping

from joint import ALONE, BALANCE, BOXES, COMMON, Hypothesis, Scores, results, rows, run
from results import table, write

BOTH = ("detection", "embedding")
SILENT = [*ALONE["embedding"], *BALANCE, "+weighting.tasks.embedding=0"]
RECIPE = ["optim=adamw_joint", "weighting=balance"]
CODES = "implicit=vector"
LONGER = ["trainer.max_epochs=6", "trainer.check_val_every_n_epoch=6"]
WIDER = ["trunk.stem=32", "trunk.widths=[32,80,160,224,256]"]
ALIKE = {"": [], ", seen six times": LONGER, ", trunk of twice the width": WIDER}
CHANGES = {
    "fixed weights": ["weighting=fixed"],
    "UPGrad": ["weighting=torchjd"],
    "four shares for detection": [BOXES],
    "codes": [CODES],
    "codes at ten times the rate": [CODES, "optim.code_lr=10"],
    "codes before the last convolution only": [CODES, "implicit.refine=none"],
    "codes multiplied before, added behind": [CODES, "implicit.align=mul", "implicit.refine=add"],
    "embedding's stem of 128 channels": ["task.embedding.width=128"],
    "embedding at stride 16": ["task.embedding.level=p4"],
}
"""One at a time, of detection and embedding with RECIPE."""

SETTING = f"""Setting and reading as of [nine tasks](joint.md): `trunk=tiny`, 3,000 generated images, seed 0, \
one run each, scored on the 200 images of `val`; all have `{" ".join(COMMON)}`, where nothing else is said, and \
no codes. In brackets the part of the score alone; embedding alone is embedding with detection, which it \
requires."""
PAIRED = f"""One thing at a time: `{" ".join(RECIPE)}`, no codes but where said. In brackets the part of \
detection alone, and of embedding in the pair, of as long a run and as large a trunk."""
PAIR = "with embedding"
HYPOTHESES: list[Hypothesis] = [
    (
        "Something other than gradients costs detection: batch-norm statistics, what is drawn at random, "
        "the order of images",
        "embedding beside it, whose share of the trunk's gradient is 0",
        "alone", "silent", ("detection",),
        "**refuted**: detection is what it is alone to the last digit; gradients are all of it",
    ),
    (
        "Equal shares serve two tasks, too", "fixed weights", PAIR, "fixed weights", BOTH,
        "**refuted**: neither drowns the other since embedding weighs a fifth of what it did; `jde` and "
        "`ijde` keep fixed weights",
    ),
    (
        "Two tasks are in conflict", "UPGrad of torchjd", "fixed weights", "UPGrad", BOTH,
        "**next to none**: its weights stay near a half each. As AdamW knows no size, this is the "
        "run with fixed weights once more, and the distance of the two is what chance does",
    ),
    (
        "Detection wants the larger share of two", "four shares for it", PAIR,
        "four shares for detection", BOTH, "**an exchange**",
    ),
    *(
        (
            "Codes align what the tasks need" if name == "codes" else "…", name, PAIR, name, BOTH,
            "**nothing shown** by one run",
        )
        for name in CHANGES if name.startswith("codes")
    ),
    (
        "Embedding's stem is too narrow", "128 channels", PAIR, "embedding's stem of 128 channels", BOTH,
        "**refuted**",
    ),
    (
        "Embedding spoils the finest level, which small boxes need", "it reads stride 16", PAIR,
        "embedding at stride 16", BOTH,
        "**refuted**: it needs that level, and costs detection all the same",
    ),
    (
        "With more steps both are learnt", "detection alone and with embedding, seen six times",
        "detection alone, seen six times", "with embedding, seen six times", ("detection",),
        "**refuted**: a half is lost, of three times it was four tenths",
    ),
    (
        "A larger trunk has room for both", "both in a trunk of twice the width",
        "detection alone, trunk of twice the width", "with embedding, trunk of twice the width",
        ("detection",), "**at most in part**: three tenths are lost instead of four",
    ),
]  # fmt: skip


def alike(kind: str, own: list[str]) -> dict[str, Scores]:
    """Of one length and size: detection alone, with embedding, and, of the first, with one thing changed."""
    arms = {"detection alone": ALONE["detection"], PAIR: ALONE["embedding"]}
    words = {f"{name}{kind}": [*arm, *RECIPE, *own] for name, arm in arms.items()}
    if not own:
        words |= {n: [*ALONE["embedding"], *RECIPE, *change] for n, change in CHANGES.items()}
    return {name: run(f"pair {name}", arm) for name, arm in words.items()}


def beside(found: Mapping[str, Scores]) -> list[list[str]]:
    """Beside detection alone, and beside embedding in the pair."""
    single, both = list(found.values())[:2]
    return rows(found, {"detection": single["detection"], "embedding": both["embedding"]})


def main() -> None:
    plain = {
        "alone": run("alone detection", ALONE["detection"]),
        "fixed": run("alone embedding", ALONE["embedding"]),
        "silent": run("silent embedding", SILENT),
    }
    alone = {"detection": plain["alone"]["detection"], "embedding": plain["fixed"]["embedding"]}
    named = {
        "detection alone": plain["alone"],
        "with embedding, fixed weights": plain["fixed"],
        "with embedding, whose share of the trunk is 0": plain["silent"],
    }
    pairs = {kind: alike(kind, own) for kind, own in ALIKE.items()}
    write(
        "pair",
        "What embedding costs detection, and what changes it",
        "python tests/bench/pair.py",
        [
            SETTING,
            table(["at the usual rate", *BOTH, "mean"], rows(named, alone)),
            PAIRED,
            table(
                ["at the rate of joint training", *BOTH, "mean"],
                [row for found in pairs.values() for row in beside(found)],
            ),
            "## Hypotheses",
            results(
                HYPOTHESES, plain | {n: s for found in pairs.values() for n, s in found.items()}
            ),
        ],
    )


if __name__ == "__main__":
    main()
