"""Mutation testing of `lfp_core`: does a test fail for every small error that is put into it?

``python -m validation.mutation`` changes one operator, number, condition or loop of the engine at a
time, as cosmic-ray has them (:mod:`~validation.mutation.mutants`), and runs the tests that execute
the changed line, the fastest first, until one fails (:mod:`~validation.mutation.session`). What
survives has to be explained in ``validation/mutation/survivors.yaml``: why no test can tell it from
the original. What is explained is not run again, unless ``--all`` asks for it.

Every mutant runs in a fork of a process that has imported and collected everything, where the code
of the changed functions is swapped (:mod:`~validation.mutation.swapping`); so a mutant takes a
second, not ten. What runs when the engine is imported, such as the composition of its tables, is
imported again in the fork.
"""
