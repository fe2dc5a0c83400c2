"""Heads: the discriminators d_Ψ."""
