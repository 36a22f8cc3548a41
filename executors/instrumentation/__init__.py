"""Metrics and traces of tasks for monitoring systems: one module for each library, imported when it is used."""
