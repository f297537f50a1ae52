"""`connect`: how many clients a second come in through TLS 1.3 and SCRAM to an awake compute and get a row.

pgbench -C opens a connection for every transaction (`SELECT 1`). The client itself spends about as much as the server:
SCRAM's 4096 rounds of HMAC and the certificate check are its part of the bargain, and both stand on these two cores.
"""

import tempfile
from pathlib import Path

from benchmarks import pgbench
from benchmarks.doors import open_doors
from benchmarks.measure import Result


def run(rounds: int = 5, seconds: int = 5) -> Result:
    result = Result("connect")
    with open_doors(scale=1) as doors, tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("SELECT 1;\n")
        script.flush()
        words = ("-C", "-f", str(Path(script.name)))
        for clients in (1, 8):
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(rounds):
                ours.append(pgbench.throughput(doors.cloister, *words, clients=clients, seconds=seconds)[0])
                theirs.append(pgbench.throughput(doors.pgbouncer, *words, clients=clients, seconds=seconds)[0])
            mine = result.add(f"cloister, {clients} clients", ours, "connects/s")
            other = result.add(f"PgBouncer TLS+SCRAM, {clients} clients", theirs, "connects/s")
            result.ratio(f"cloister ÷ PgBouncer, {clients} clients (target ≥ 1)", mine, other)
    return result
