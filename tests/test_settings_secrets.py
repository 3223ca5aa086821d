"""What whoever sends a workflow does not choose: secrets, where they go, and variables of the server's."""

from __future__ import annotations

from typing import Any

import pytest
from support.settings import refusal

from covalent_sshtiming import settings
from covalent_sshtiming.errors import ConfigError
from covalent_sshtiming.options import ARGUMENT, OPTIONS, SECTION
from covalent_sshtiming.settings import resolve

SECRETS = [name for name, option in OPTIONS.items() if option.server_only and option.kind is str]


def test_the_places_of_secrets_are_four() -> None:
    """No setting is a secret; four of them say where one is."""
    assert SECRETS == ["ssh_key_passphrase_env", "ssh_key_passphrase_file", "password_env", "password_file"]


@pytest.mark.parametrize("name", SECRETS)
def test_who_sends_a_workflow_does_not_choose_a_secret(name: str) -> None:
    """An argument could have any variable or file of the server's sent to any machine; so it is refused."""
    value = "/some/file" if name.endswith("file") else "SOME_VARIABLE"
    assert refusal({"hostname": "m", name: value}) == (
        f"{name} ({ARGUMENT}) is read from the server's covalent.conf only; move it there."
    )
    assert vars(resolve({"hostname": "m"}, {name: value}))[name] == value
    section = {"hostname": "m", name: value}
    assert vars(resolve({**section, "hosts": {}}, section))[name] == value  # as Covalent builds it by name


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ({"known_hosts_file": "/mine"}, "strict"),
        ({"host_key_policy": "accept-new"}, "strict"),
        ({"proxy_jump": "mine"}, "accept-new"),
        ({"port": 2222}, "accept-new"),
    ],
)
def test_who_sends_a_workflow_does_not_choose_where_a_password_goes(
    arguments: dict[str, Any], policy: str
) -> None:
    """An argument by which another machine could pass for the right one is refused beside a password."""
    section = {"hosts": {"m": {"password_file": "/secret", "host_key_policy": policy}}}
    (name,) = arguments
    assert refusal({"hostname": "m", **arguments}, section) == (
        f"{name} ({ARGUMENT}) decides which machine is handed the password of covalent.conf; move it there."
    )
    safe = {"hostname": "m", "host_key_policy": "strict", "proxy_jump": "j", "port": 1}
    assert resolve(safe, section).port == 1
    section["hosts"]["m"].pop("password_file")
    assert resolve({"hostname": "m", **arguments}, section).hostname == "m"


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("secret", ["correct horse", "hunter2!", 42])
def test_a_secret_in_the_place_of_its_name_is_not_shown(name: str, secret: object) -> None:
    """Whoever writes the secret itself into covalent.conf reads what to write, and not the secret."""
    text = refusal({"hostname": "m"}, {name: secret})
    assert text.startswith(f"{name} ({SECTION}) has a value of another form; write ")
    assert str(secret) not in text


def test_variables_are_passed_on_from_the_servers_environment() -> None:
    """`env_from` takes values from the environment as it is; lists add up, and `env` stands above."""
    section = {"env_from": ["A", "B"], "hosts": {"m": {"env_from": ["C", "A"]}}}
    found = resolve({"hostname": "m", "env": {"B": "own"}}, section)
    assert found.env_from == ("C", "A", "B")
    environment = {"A": "a\nb", "B": "near", "C": "$(c)", "D": "d"}
    assert settings.passed_on(found, environment) == {"A": "a\nb", "B": "own", "C": "$(c)"}
    assert "env_from" not in repr(found)
    with pytest.raises(ConfigError) as caught:
        settings.passed_on(found, {"B": "near"})
    assert str(caught.value) == (
        "env_from names C, A, which the Covalent server's environment does not have; set it before the "
        "server starts, or take it out of env_from in covalent.conf."
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("TOKEN", "write a list of texts in quotes"),
        ([1], "write a list of texts in quotes"),
        (["hunter2!"], "write the name of an environment variable of the server's, not the secret itself"),
        ({"hunter2!": "TOKEN"}, "write a list of texts in quotes"),
    ],
)
def test_env_from_is_a_list_of_names(value: object, sentence: str) -> None:
    """What is no list of names is refused, without showing what was written there."""
    text = refusal({"hostname": "m"}, {"env_from": value})
    assert text == f"env_from ({SECTION}) has a value of another form; {sentence}."


def test_who_sends_a_workflow_does_not_choose_variables() -> None:
    """An argument could have any variable of the server's sent to any machine; so it is refused."""
    assert refusal({"hostname": "m", "env_from": ["TOKEN"]}) == (
        f"env_from ({ARGUMENT}) is read from the server's covalent.conf only; move it there."
    )
    section = {"hostname": "m", "env_from": ["TOKEN"]}
    assert resolve({**section, "hosts": {}}, section).env_from == ("TOKEN",)  # as Covalent builds it by name


def test_secrets_are_not_in_the_text_of_settings() -> None:
    """Not even where a secret is appears in a log of settings."""
    assert "VARIABLE" not in repr(resolve({"hostname": "m"}, {"password_env": "VARIABLE"}))


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            {"password_env": "A", "password_file": "/b"},
            "password_env and password_file are both set; remove one of them.",
        ),
        (
            {"password_file": "/b", "host_key_policy": "off"},
            (
                'a password is not sent to a machine that host_key_policy = "off" leaves unchecked; set '
                'host_key_policy to "strict" or "accept-new".'
            ),
        ),
        (
            {"ssh_key_passphrase_env": "A", "transport": "openssh"},
            (
                'ssh_key_passphrase_env cannot be used with transport = "openssh", because ssh takes no '
                "secret from us; load the key into a key agent, or remove transport."
            ),
        ),
        (
            {"host_key_policy": "no"},
            f'host_key_policy ({SECTION}) is \'no\'; write one of "strict", "accept-new", "off".',
        ),
        (
            {"transport": "ssh"},
            f'transport ({SECTION}) is \'ssh\'; write one of "asyncssh", "openssh".',
        ),
    ],
)
def test_ways_in_that_do_not_go_together(section: dict[str, Any], sentence: str) -> None:
    """What contradicts itself, or would be unsafe, is refused before anything is sent."""
    assert refusal({"hostname": "m"}, section) == sentence
