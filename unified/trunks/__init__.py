"""Trunks: the explicit representation f_θ(x), a backbone and a neck that publish a pyramid."""
