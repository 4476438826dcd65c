"""Evaluation of models on datasets."""
