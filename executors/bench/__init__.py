"""`executors bench`: where a function belongs, measured on a real server.

A Quart app runs under Hypercorn in a process of its own (`server`), which keeps calls of the function under way
(`driver`) in one place (an arm: see `arms`), while a second process (`probe`) sends requests to it at a fixed rate and
counts each answer's time from when its request was planned. `run` measures every arm in every round, another one first
in each, `advice` decides, and `results` are the records.

Each arm has a fresh server in each round, warmed up before it is measured. That costs a second each, and buys that
nothing else is there meanwhile: no other arm's server with its threads, workers and memory; no traces of what was
measured before.

The records, as `results` has them and JSON too; all times are seconds:

- `Measurement`, one arm in one round: ``arm round seconds latencies failed lateness lags utilisation over lag_p50
  lag_p99 lag_max calls cpu_seconds error``. Where an arm couldn't be measured ``latencies`` is empty and ``error`` says
  why; an ``error`` beside latencies is the first call's that failed while it was measured.
- `Findings`, the whole run: ``target args kwargs concurrency rate machine measurements advice``, with ``arms`` (a list
  of `Summary`, idle first), ``arm(name)``, ``errors`` (by arm), ``failures`` and ``doubts`` (sentences),
  ``to_json()`` and ``from_json()``.
- `Summary`, one arm over its rounds: ``arm http_p50 http_p99 http_p999 http_max lag_p50 lag_p99 lag_max over_50ms
  utilisation throughput cpu_per_call cpu_per_second failed client_lateness_p99``, medians of the rounds' own figures
  (of the two ``_max`` the most, of ``failed`` the sum), and ``spread``: the least and the most of the rounds by name.
"""
