"""The benchmarks of Cloister: each figure beside its baseline, measured in the same run.

`scripts/bench NAME… [--json FILE]`, or `python -m benchmarks`. A benchmark states the machine, the versions, n, p50,
p95 and p99, and the ratio to its baseline. It never asserts: tests assert behaviour, people judge figures.
"""
