"""Figures and pages that illustrate a model."""
