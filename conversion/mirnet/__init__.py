"""The parts of the conversion that know MIRNet: exact rewrites, equalisation, pixel arithmetic, the sketch's limits."""
