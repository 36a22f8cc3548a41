"""`executors demo`: a Quart app that examines Python files, run under load and compared with Quart's own threads.

`app` is the app, with `analysis` and `store`; it is an example by itself. The rest runs and shows it.
"""
