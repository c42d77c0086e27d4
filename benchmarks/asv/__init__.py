"""The asv suite: what LFP costs, to be tracked over the history of the project.

asv imports this folder as a package called `asv`, and everything else from the commit that it
measures. So modules here import each other relatively, and from the project what its first commits
have; what came later is imported in `setup`, and is n/a before (:func:`.common.applicable`).
"""
