"""`executors bench`: measures on a real server where a function belongs.

A Quart app runs under Hypercorn in a process of its own (`server`). It keeps calls of the function running in one
place, called an arm (`arms`). Meanwhile the probe, a second process (`client`), sends requests to the app at a
fixed rate and measures the time from when each was planned to its answer. `run` measures every arm in every round,
starting with another one each time; `results` has the records and the figures computed from them; `advice` decides;
`command` shows the result in the terminal and `page` in HTML.

Each arm has a new server in each round, which is warmed up before it is measured. That takes a second each time, and
excludes effects of other arms and earlier rounds: threads, workers and memory.
"""
