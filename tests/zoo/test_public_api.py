"""The names that `import repzoo` provides."""

from __future__ import annotations

import pickle

import pytest
import repzoo


def test_public_names_are_sorted_and_exist() -> None:
    assert repzoo.__all__ == sorted(repzoo.__all__)
    assert dir(repzoo) == repzoo.__all__
    for name in repzoo.__all__:
        assert getattr(repzoo, name) is not None, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        repzoo.nonsense  # noqa: B018


def test_every_error_is_also_a_builtin() -> None:
    builtins = {
        "GoldenMismatch": ValueError,
        "HubError": OSError,
        "HubUnavailable": ConnectionError,
        "IntegrityError": ValueError,
        "InvalidImage": ValueError,
        "InvalidInput": ValueError,
        "MissingExtra": ImportError,
        "ModelNotFound": LookupError,
        "PackageError": ValueError,
        "UnknownTask": LookupError,
        "UnsupportedOperation": TypeError,
    }
    for name, builtin in builtins.items():
        assert issubclass(getattr(repzoo, name), (repzoo.RepzooError,)), name
        assert issubclass(getattr(repzoo, name), builtin), name


def test_errors_survive_pickling() -> None:
    for error in (
        repzoo.InvalidImage("damaged", 3),
        repzoo.ImageTooLarge("too large", 1),
        repzoo.MissingExtra("zoo serve", "serving", ImportError("no", name="bentoml")),
        repzoo.ModelNotFound("no such model"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)
