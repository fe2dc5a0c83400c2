"""Five captions per scene from a small grammar: counts, colours, relations, ground."""

from __future__ import annotations

from collections import Counter

import numpy as np

from unified.arrays import Array
from unified.data.shapes.scene import Scene
from unified.data.shapes.world import PATTERNS, SHAPES, STUFF

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def describe(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five sentences, each true of the scene."""
    things = [i for i, t in enumerate(scene.things) if not t.crowd]
    areas = np.bincount(scene.ground.ravel(), minlength=len(STUFF))
    grounds = [STUFF[i] for i in np.argsort(-areas) if areas[i]]
    place = f"on {grounds[0]}" if len(grounds) == 1 else f"on {grounds[0]} and {grounds[1]}"
    if not things:
        crowd = "a crowd" if scene.things else "nothing"
        return [
            f"{crowd} {place}",
            f"there is {crowd} {place}",
            f"an area of {grounds[0]} with {crowd}",
            f"a picture of {grounds[0]} and {crowd}",
            f"{crowd} to be seen {place}",
        ]
    counts = Counter(SHAPES[scene.things[i].individual.shape] for i in things)
    listed = [
        f"{NUMBERS[n]} {shape if n == 1 else _plural(shape)}" for shape, n in counts.most_common(3)
    ]
    visible = np.bincount(scene.owner[scene.owner >= 0], minlength=len(scene.things))
    largest = max(things, key=lambda i: visible[i])
    other = things[int(rng.integers(len(things)))]
    total = f"{NUMBERS[len(things)]} {'thing' if len(things) == 1 else 'things'}"
    one = "it" if len(things) == 1 else "one"
    are = "is" if listed[0].startswith("one") else "are"
    return [
        f"{_join(listed)} {place}",
        f"a large {_name(scene, largest)} {place}",
        _relation(scene, largest, other, grounds[0]),
        f"{total} among {grounds[0]}, {one} is {_article(_name(scene, other))}",
        f"there {are} {_join(listed[:2])} in this picture of {_join(grounds[:3])}",
    ]


def _relation(scene: Scene, first: int, second: int, ground: str) -> str:
    if first == second:
        return f"{_article(_name(scene, first))} stands on the {ground}"
    offset = _centre(scene.owner == second) - _centre(scene.owner == first)
    if abs(offset[0]) > abs(offset[1]):
        word = "right of" if offset[0] > 0 else "left of"
    else:
        word = "below" if offset[1] > 0 else "above"
    return f"{_article(_name(scene, second))} {word} {_article(_name(scene, first))}"


def _centre(mask: Array) -> Array:
    return np.asarray(np.argwhere(mask).mean(0)[::-1])


def _name(scene: Scene, index: int) -> str:
    who = scene.things[index].individual
    pattern = "" if PATTERNS[who.pattern] == "plain" else f"{PATTERNS[who.pattern]} "
    return f"{pattern}{who.colours[0]} {SHAPES[who.shape]}"


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
