"""`python -m cloister.app PROCESS --state-dir DIR --supervisor PID`: how the supervisor starts each process."""

from cloister.app.process import main

if __name__ == "__main__":
    raise SystemExit(main())
