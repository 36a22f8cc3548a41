"""`executors demo`: a Quart app that analyses Python files, under load, compared with Quart's own threads.

`app` is the app, with `analysis` and `store`: an example by itself. `run` and `client` start it, put load on it and
show the results.
"""
