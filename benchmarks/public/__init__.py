"""What comes out of Persona when public data go in, beside the field's plain methods: `python -m benchmarks.public redial`, `... drift`.

Persona is asked by its command line alone. Nothing here knows its inside: metrics, methods and the names in texts are this package's own.
"""
