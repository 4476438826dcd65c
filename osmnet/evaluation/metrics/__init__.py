"""Metrics of the evaluation, one family a module."""
