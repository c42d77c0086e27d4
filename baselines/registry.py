"""Names and what they stand for: looked up with an error that helps, and open to other packages."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any, TypeVar

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741  (an item as it is entered)
log = logging.getLogger(__name__)

#: A name that the command line can ask for, in lists like a,b and in pairs like METHOD=RATE.
ASKED_FOR = re.compile(r"(?!all$)[^\s,=-][^\s,=]*")
ALLOWED = "without spaces, commas and =, not 'all', and no - at the beginning"


class PlugInError(RuntimeError):
    """What another package or a script has registered does not do what it has to."""


@contextmanager
def blaming(plug_ins: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Name plug-ins in what is raised while they are at work, even where they ask to exit.

    Args:
        plug_ins: their kinds and names; if there are none, all that is raised is left as it is.
        passing: errors that they have no part in. An error that names a plug-in passes as well.

    Raises:
        PlugInError: something is raised; it has one line, with the kind, the name and the reason.
    """  # noqa: DOC501  (what passes is not raised here)
    left: tuple[type[Exception], ...] = (PlugInError, *passing)
    try:
        yield
    except left:
        raise
    except (Exception, SystemExit) as error:
        if not plug_ins:
            raise
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise PlugInError(f"{plug_ins}: {told}") from error


def guarded(
    plug_in: str,
    function: Callable[..., Any],
    check: Callable[..., T] = lambda returned, *_, **__: returned,
    passing: tuple[type[Exception], ...] = (),
) -> Callable[..., T]:
    """Return a function that is called as one of a plug-in, and names it where that fails.

    Args:
        plug_in: its kind and name.
        function: of the plug-in.
        check: returns what the function has returned, which comes first, and raises `TypeError` or
            `ValueError` where it is not what it has to be; the arguments follow. By default,
            anything is.
        passing: errors that the plug-in may raise.

    Returns:
        The function; what it wraps is the plug-in's (:func:`inspect.unwrap`).
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        with blaming(plug_in, passing=passing):
            return check(function(*args, **kwargs), *args, **kwargs)

    return call


class Registry(Mapping[str, T]):
    """A table of names that a user's own code extends, by a decorator or when it is installed.

    In a script, before the names are used::

        @METHODS.register("mine")
        class Mine(DescentTrainer): ...

    In the ``pyproject.toml`` of a package, which every command and every worker then knows::

        [project.entry-points."lfp_bench.methods"]
        mine = "package.module:Mine"

    Packages are imported when all names are asked for, or one that this project does not have. A
    package that cannot be imported, or an item that is not what it has to be, is reported on stderr
    and left out; so is a name that exists already.

    Attributes:
        group: of the entry points.
        own: what is registered, in order, without what packages add; an item or, as packages have
            it, where it is ("package.module:name"), until it is imported when it is asked for.
        convert: makes an item of what was entered, which may be simpler; raises `TypeError` for
            what cannot be one.
        guard: makes of a plug-in, with its kind and name, an item that is what it has to be
            wherever it is called (:func:`guarded`).
    """

    def __init__(
        self,
        group: str,
        own: Mapping[str, Any],
        convert: Callable[[Any], T] = lambda item: item,
        guard: Callable[[str, T], T] = lambda name, item: item,
    ) -> None:
        self.group = group
        self.own = dict(own)
        self.convert = convert
        self.guard = guard
        self._ours = frozenset(own)
        self._added: dict[str, Any] | None = None

    def plug_in(self, name: str) -> str:
        """Return the kind and the name of what a user's own code has entered; empty if ours."""
        if name in self._ours or not (name in self.own or name in self._packages()):
            return ""
        return f"{self.group.rpartition('.')[2].removesuffix('s')} {name!r}"

    def register(self, name: str) -> Callable[[I], I]:
        """Return a decorator that registers what it decorates.

        The decorator raises `ValueError` if the name exists already, or could not be given on a
        command line.

        Args:
            name: not empty, without spaces, commas and "=", not "all", and without "-" in front.

        Returns:
            The decorator, which returns what it is given.
        """

        def enter(item: I) -> I:
            if name in self.own:
                raise ValueError(f"{self.group}: {name!r} is registered already")
            if not ASKED_FOR.fullmatch(name):
                raise ValueError(f"{self.group}: {name!r}; allowed: {ALLOWED}")
            self.own[name] = item
            return item

        return enter

    def __getitem__(self, name: str) -> T:
        """Return what the name stands for."""
        item = self.own[name] if name in self.own else self._packages()[name]
        if name in self.own and isinstance(item, str):
            item = self.own[name] = resolve_name(item)
        found, plug_in = self.convert(item), self.plug_in(name)
        return self.guard(plug_in, found) if plug_in else found

    def __iter__(self) -> Iterator[str]:
        """Return all names: ours in their order, then those of packages."""
        return iter({**self.own, **self._packages()})

    def __len__(self) -> int:
        """Return the number of names."""
        return len(list(iter(self)))

    def announced(self) -> list[str]:
        """Return all names without importing packages, also those that cannot be imported."""
        return announced(self.group, self.own)

    def _packages(self) -> dict[str, Any]:
        """Return what other packages add; they are imported once."""
        if self._added is None:
            self._added = {}  # what a package imports may ask for names as well
            for point in entry_points(group=self.group):
                told = f"{point.value} is not {point.name!r} of {self.group}"
                if point.name in self.own or point.name in self._added:
                    log.warning("%s: the name is taken", told)
                    continue
                if not ASKED_FOR.fullmatch(point.name):
                    log.warning("%s: allowed names: %s", told, ALLOWED)
                    continue
                try:
                    item = point.load()
                    self.convert(item)
                    self._added[point.name] = item
                except KeyboardInterrupt:
                    raise
                # Whatever a package does, even to exit or to skip as a test, the others must work.
                except BaseException as error:
                    reason = " ".join(str(error).split())
                    log.warning("%s: %s: %s", told, type(error).__name__, reason)
        return self._added


def announced(group: str, own: Iterable[str]) -> list[str]:
    """Return our names, then those that packages announce, none of which is imported."""
    return list(dict.fromkeys([*own, *(point.name for point in entry_points(group=group))]))


def required(item: I, wanted: str, *, given: bool) -> I:
    """Return an item of a registry, or raise `TypeError` that says what it has to be.

    Args:
        item: what was entered.
        wanted: what it has to be, in words.
        given: whether it is that.

    Raises:
        TypeError: it is not.
    """
    if not given:
        raise TypeError(f"it is of type {type(item).__name__}; allowed: {wanted}")
    return item


def plug_ins(*used: tuple[Mapping[str, Any], str]) -> str:
    """Return the kinds and names of those of some items that are plug-ins, as in a message.

    Args:
        used: tables, and names in them; a table that is no registry has none.
    """
    found = [table.plug_in(name) for table, name in used if isinstance(table, Registry)]
    return ", ".join(filter(None, found))


def pick(field: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`.

    Raises:
        ValueError: the name is not in the table; the message names the field, the value, the
            nearest allowed name and all of them.

    >>> pick("model", "lenett", {"mlp": 1, "lenet": 2})
    Traceback (most recent call last):
    ...
    ValueError: model: unknown name 'lenett'; did you mean 'lenet'? Allowed: mlp, lenet
    """
    if isinstance(name, str) and name in table:  # a list, for one, has no hash to look it up by
        return table[name]
    nearest = get_close_matches(str(name).lower(), table, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    raise ValueError(f"{field}: unknown name {name!r}{hint} Allowed: {', '.join(table)}")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the error message for an unknown key, with the nearest of the known ones."""
    keys = list(known)
    nearest = get_close_matches(key, keys, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"{key}: unknown key{hint} Allowed: {', '.join(keys)}"
