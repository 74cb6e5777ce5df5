"""What the software costs: ``python -m recipes.speed``.

Every figure stands beside the cost of one forward of the network in the same run, so that runs on
different machines compare.
"""
