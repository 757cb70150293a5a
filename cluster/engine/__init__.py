"""One rank: an MLX process that holds a shard of the model and executes the plan.

The only importer of mlx.core and of mlx-lm's models. All MLX work is done on one thread
(`loop.py`); what it computes is a function of the steps and of the ids agreed in-band.
"""
