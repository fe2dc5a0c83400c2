"""What can be known, or said, of an image: one file a kind.

A kind has a space (what its numbers mean), a label (of one image), targets (of a batch), a result
(what a task says of one image) and an ask (by which a task names what it learns from); one that
is only said, never annotated, has a result alone. `kind.py` is their contract.
"""
