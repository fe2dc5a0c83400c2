"""`shapes`: a generated data set in COCO's layout with every annotation kind, from a seed."""
