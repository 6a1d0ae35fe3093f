"""One file per case: what fails (or does not), as a small model of the family it came from.

A case defines ``model()``, which returns the compiled model, ``batch()``, which returns the arrays
of the batch by name, and ``EXPECTED``: ``outcome``, and for a divergence ``cause``, ``stage``,
``layer``, ``op`` and ``samples`` as ``report.json`` gives them; a key is left out where it has no
answer. Its docstring begins with what goes wrong and ends with the report that it comes from.

The file is handed to the doctor as the user's own code (``--custom-objects``), so it registers the
classes and functions that the model needs. ``ARGUMENTS`` holds further flags;
``WEIGHTS_ONLY = True`` saves the weights alone and hands ``model`` to the doctor as the factory.

``HELD_OUT = True`` puts the case in the report half, by this rule: its ``EXPECTED`` was written
down, from the mechanism and plain TensorFlow, before the doctor was asked about it, and the doctor
has not been changed because of it since. Whoever tunes a rule, a trial or the ranking on a case
takes its line away first. All other cases are the tuning half: each has been looked at while the
doctor was built, and what it scores on them says how well it was fitted, no more.
"""
