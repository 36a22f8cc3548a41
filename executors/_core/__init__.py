"""One run of an executor, on the event loop's thread."""
