"""Pure functions on tensors: no state, no names of tasks."""
