"""Texts as words without punctuation, as scorers of captions want them."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

log = logging.getLogger(__name__)
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-",
     ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)  # fmt: skip
"""Of the Penn Treebank, what COCO's captions are scored without."""
JAVA, PLAIN = "PTB (Java)", "Treebank (nltk)"
SECONDS = 600


def has_java() -> bool:
    """Whether the official tokeniser, and METEOR, can be run."""
    return shutil.which("java") is not None


def split_words(texts: Sequence[str], java: bool) -> tuple[list[str], str]:
    """Lower-case words with one space in between.

    Args:
        texts: any number; line breaks count as spaces.
        java: by the Penn Treebank tokeniser of Stanford's CoreNLP, which COCO scores with, where it
            runs; else by nltk's, which differs in rare cases.

    Returns:
        One line per text, and the name of the tokeniser.
    """
    lines = [" ".join(text.split()) for text in texts]
    split = _by_java(lines) if java else None
    name = PLAIN if split is None else JAVA
    tokens = split if split is not None else _by_nltk(lines)
    return [" ".join(w for w in own if w not in PUNCTUATION) for own in tokens], name


def _by_java(lines: Sequence[str]) -> list[list[str]] | None:
    """None where it does not run."""
    command = ["java", "-cp", str(packaged("tokenizer/stanford-corenlp-3.4.1.jar")),
               "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase",
               "-encoding", "utf-8"]  # fmt: skip
    try:
        done = subprocess.run(
            command, input="\n".join(lines).encode(), capture_output=True, check=True,
            timeout=SECONDS,
        )  # fmt: skip
        said = done.stdout.decode().split("\n")[: len(lines)]
        split = [line.rstrip().split(" ") for line in said]  # some words have other blanks inside
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        log.warning("captions are split by nltk, as Java's tokeniser fails: %s", error)
        return None
    return split + [[]] * (len(lines) - len(split))  # empty lines at the end


def _by_nltk(lines: Sequence[str]) -> list[list[str]]:
    from nltk.tokenize import TreebankWordTokenizer

    split = TreebankWordTokenizer().tokenize
    return [split(line.lower()) for line in lines]


def packaged(name: str) -> Path:
    """A file of pycocoevalcap."""
    spec = find_spec("pycocoevalcap")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / name
