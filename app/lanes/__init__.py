"""Deterministic answers by rule and template, without a model."""
