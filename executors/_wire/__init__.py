"""Shared by both ends of a worker connection: frames, channel, payloads, shared memory, pickling."""
