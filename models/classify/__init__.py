"""Predictions of trained classifiers."""
