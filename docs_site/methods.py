"""The page on the methods that there are, made of what they say of themselves."""

import sys
from inspect import getdoc

from baselines import FAMILIES, METHODS, Settings, Trainer
from baselines.options import fields_of

BEGIN = """\
# Methods

`--methods` of `lfp-bench compare`, and the key `methods` of a study file, take these names, or that
of a family, which stands for all in it. A method that fills `p.grad` has the options of an
optimiser besides its own; the [study file](study-file.md) has all, with their ranges.
[A method of your own](../tutorials/method.md) brings its options as well.

| method | family | what it is | options of its own |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return the page."""
    families = {name: family for family, members in FAMILIES.items() for name in members}
    shared = fields_of(Settings)
    rows = []
    for name, method in METHODS.items():
        own = [f"`{option}`" for option in fields_of(method.Options) if option not in shared]
        family = f"`{families[name]}`" if name in families else ""
        rows.append(f"| `{name}` | {family} | {_told(method)} | {', '.join(own)} |")
    return BEGIN + "\n".join([*rows, ""])


def _told(method: type[Trainer]) -> str:
    """Return the first sentences of the method's module and of its class, as a cell."""
    module, own = sys.modules[method.__module__].__doc__ or "", getdoc(method) or ""
    told = [text.split("\n\n")[0].replace("\n", " ") for text in (module, own)]
    return " ".join(told).replace("|", "\\|")
