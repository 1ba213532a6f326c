"""Training of repzoo's encoders: from images to an evaluated and exported model package.

Start reading at :func:`repzoo_training.loop.trainer.train`. The equations are in
:mod:`repzoo_training.objectives`, and the built-in recipes in :mod:`repzoo_training.recipes`.
"""
