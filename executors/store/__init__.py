"""Records of tasks for all server processes of a machine, kept over restarts, in a file of SQLite."""
