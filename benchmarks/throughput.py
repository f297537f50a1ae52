"""`throughput`: pgbench -S over TLS with 1, 8 and 32 clients, and what the gateway adds to one query's latency."""

from benchmarks import pgbench
from benchmarks.doors import open_doors
from benchmarks.measure import Result


def run(rounds: int = 5, seconds: int = 5) -> Result:
    result = Result("throughput")
    with open_doors(scale=10) as doors:
        for clients in (1, 8, 32):
            rates: dict[str, list[float]] = {"cloister": [], "PgBouncer TLS": [], "bare, Unix socket": []}
            for _ in range(rounds):
                for name, environment in zip(rates, (doors.cloister, doors.pgbouncer, doors.bare), strict=True):
                    rates[name].append(pgbench.throughput(environment, "-S", clients=clients, seconds=seconds)[0])
            series = {name: result.add(f"{name}, {clients} clients", values, "tps") for name, values in rates.items()}
            result.ratio(
                f"cloister ÷ PgBouncer, {clients} clients (target ≥ 1)", series["cloister"], series["PgBouncer TLS"],
            )  # fmt: skip
        ours = result.add(
            "latency: cloister, 1 client", pgbench.latencies(doors.cloister, doors.directory, "-S", seconds=seconds),
        )  # fmt: skip
        theirs = result.add(
            "latency: PgBouncer TLS, 1 client",
            pgbench.latencies(doors.pgbouncer, doors.directory, "-S", seconds=seconds),
        )
        bare = result.add(
            "latency: bare, Unix socket", pgbench.latencies(doors.bare, doors.directory, "-S", seconds=seconds),
        )  # fmt: skip
        result.facts["added p50, cloister (ms; target ≤ 0.1)"] = round(ours.p50 - bare.p50, 3)
        result.facts["added p50, PgBouncer (ms)"] = round(theirs.p50 - bare.p50, 3)
    return result
