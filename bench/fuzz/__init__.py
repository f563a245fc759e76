"""Broken bytes for every decoder, from a seed: see ``__main__``."""
