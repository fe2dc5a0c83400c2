"""Tasks: one file per job. They meet through `upstream` only and do not import each other."""
