"""`shapes`: a generated data set in COCO's layout with every annotation kind, from a seed."""

from unified.data.shapes.write import ShapesConfig, generate

__all__ = ["ShapesConfig", "generate"]
