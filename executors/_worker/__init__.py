"""Runs in worker processes only."""
