"""Readers of a folder in COCO's layout, one source per annotation kind.

`<root>/<split>/*.jpg` and `<root>/annotations/{kind}_<split>.json` (COCO's API page).
"""
