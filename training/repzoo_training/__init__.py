"""Training of repzoo's encoders: data, views, objectives, networks, trainer, evaluation, export.

Start at :func:`repzoo_training.loop.trainer.train`; the equations are in
:mod:`repzoo_training.objectives`, the settings that ship in :mod:`repzoo_training.recipes`.
"""
