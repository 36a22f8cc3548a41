"""Runs while a server serves an app, whatever the framework."""
