"""Implicit knowledge: codes z_T, decoders g_φ, and the operators by which they meet features.

YOLOR (arXiv 2105.04206), equations 3 to 6: y = f_θ(x) ⋆ g_φ(z), ⋆ one of addition,
multiplication and concatenation.
"""
