"""`encryption`: what AES-256-XTS and the way it is mounted cost: pgbench TPC-B and -S on `luks`, over the same on `plain`.

Both go through the same gateway and sandbox; they run in turns.
"""

from benchmarks import pgbench
from benchmarks.measure import Result
from tests.instance import Instance


def run(rounds: int = 5, seconds: int = 8, scale: int = 20) -> Result:
    result = Result("encryption")
    with Instance(storage="luks") as encrypted, Instance(storage="plain") as plain:
        doors = {
            "luks": encrypted.create_project("bench").environment,
            "plain": plain.create_project("bench").environment,
        }
        for environment in doors.values():
            pgbench.initialise(environment, scale)
        for name, words, target in (("TPC-B", (), 0.8), ("-S", ("-S",), 0.95)):
            rates: dict[str, list[float]] = {"luks": [], "plain": []}
            for _ in range(rounds):
                for storage, environment in doors.items():
                    rates[storage].append(pgbench.throughput(environment, *words, clients=8, seconds=seconds)[0])
            ours = result.add(f"{name}, luks", rates["luks"], "tps")
            theirs = result.add(f"{name}, plain", rates["plain"], "tps")
            result.ratio(f"{name}: luks ÷ plain (target ≥ {target})", ours, theirs)
        result.facts["cipher"] = encrypted.status()["storage"]["cipher"]
        result.facts["opener"] = encrypted.status()["storage"]["opener"]
    return result
