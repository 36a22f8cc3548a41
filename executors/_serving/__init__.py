"""While a server serves an app, whatever the framework: signals, the parent process, the drain, notices in the log."""
