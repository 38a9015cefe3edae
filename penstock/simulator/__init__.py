"""The simulator: a local stand-in for the Anthropic API.

Start it, and point any client at the address that it prints::

    $ python -m penstock.simulator --port 8080
    http://127.0.0.1:8080

docs/simulator.md describes its options, directives, faults and control endpoints.
"""
