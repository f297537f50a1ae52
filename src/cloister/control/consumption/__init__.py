"""What branches take over time: how long their computes ran, what they wrote, what they hold.

- `accounting.py`: from two moments and what is known of both to amounts by the hour. Pure.
- `frames.py`: the time frames that are asked for. Pure.
- `store.py`: the rows.
- `meter.py`: counts once a minute.
- `service.py`: answers.

Nobody is billed by it. What is not measured here (bytes over the network, CPU time) is not made up: it is left out of answers.
"""
