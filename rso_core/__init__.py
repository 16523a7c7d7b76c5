"""Statistical rejection sampling optimisation (RSO, arXiv:2309.06657) as a library and a command line.

Nothing is imported here: `rso_core.config` and `rso_core.plan` stay light enough for a web process.
"""
