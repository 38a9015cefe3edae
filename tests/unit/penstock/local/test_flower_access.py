"""How Flower is started: the generated password, the columns, and a port that is in use."""

import socket

import pytest
from flower.views.tasks import visible_task_columns

from penstock.local.flower_access import (
    TASKS_COLUMNS,
    busy_address,
    flower_environment,
    given_options,
    new_password,
)


def test_flower_gets_a_generated_password_and_the_columns() -> None:
    assert flower_environment({}, "pw") == {
        "FLOWER_BASIC_AUTH": "penstock:pw",
        "FLOWER_TASKS_COLUMNS": TASKS_COLUMNS,
    }
    assert len({new_password() for _ in range(9)}) == 9


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["--basic-auth=me:secret"], {}),
        (["--basic_auth=me:secret"], {}),
        (["--auth=.*@example.com"], {}),
        (["--read-only"], {}),
        ([], {"FLOWER_BASIC_AUTH": "me:secret"}),
        ([], {"FLOWER_UNAUTHENTICATED_API": "true"}),
        ([], {"FLOWER_READ_ONLY": "true"}),
    ],
)
def test_no_password_is_generated_if_the_operator_decides_who_may_use_flower(
    options: list[str], environment: dict[str, str]
) -> None:
    assert flower_environment(given_options(options, environment), "pw") == {
        "FLOWER_TASKS_COLUMNS": TASKS_COLUMNS
    }


def test_columns_that_the_operator_chooses_are_kept() -> None:
    given = given_options(["--tasks-columns=name,state"], {})
    assert "FLOWER_TASKS_COLUMNS" not in flower_environment(given, "pw")


def test_flower_knows_every_column() -> None:
    shown = [name for name, _ in visible_task_columns(TASKS_COLUMNS)]
    assert shown == TASKS_COLUMNS.split(",")


def test_an_option_takes_precedence_over_its_variable() -> None:
    assert given_options(["--port=1"], {"FLOWER_PORT": "2", "FLOWER_ADDRESS": ""}) == {"port": "1"}


def test_a_port_that_is_in_use_is_found_before_flower_starts() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        assert busy_address({"port": port}) == f"127.0.0.1:{port}"
        assert busy_address({"port": port, "unix_socket": "/tmp/flower"}) is None  # noqa: S108
    assert busy_address({"port": port}) is None


@pytest.mark.parametrize("given", [{"port": "0"}, {"port": "many"}, {"port": "99999"}])
def test_an_impossible_port_is_left_to_flower(given: dict[str, str]) -> None:
    assert busy_address(given) is None
