"""`executors top`: shows what the executors of all server processes do. It needs rich."""
