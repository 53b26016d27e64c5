"""How close training comes to what the machine can do, and what it costs as the work grows.

``python -m benchmarks.engines`` prints Markdown tables and writes ``benchmarks/results/engines.json``; ``--parts``
picks some of ``arithmetic``, ``width``, ``growth`` and ``compile``. A part is kept in the JSON until it is measured
again.
"""
