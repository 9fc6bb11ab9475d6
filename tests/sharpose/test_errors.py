import inspect

import pytest

from sharpose import errors

ALL = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ALL)
def test_all_are_of_one_family_and_exit_with_an_agreed_code(error):
    assert issubclass(error, errors.SharposeError)
    expected = {errors.ParityError: 1, errors.SinkError: 3, errors.TrainingError: 3, errors.ReaderGoneError: 141}.get(
        error, 2
    )
    assert error.exit_code == expected
    assert error("what was wrong").exit_code == expected


def test_the_family_is_complete():
    names = {item.__name__ for item in ALL}
    assert {
        "ConfigError",
        "CheckpointError",
        "BundleError",
        "ExportError",
        "EngineError",
        "InputError",
        "SourceError",
    } <= names
