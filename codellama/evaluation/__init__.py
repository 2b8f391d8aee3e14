"""Weights to figures."""
