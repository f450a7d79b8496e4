"""The local stack: real servers started from wheels, without Docker, and the supervisor that keeps processes alive."""
