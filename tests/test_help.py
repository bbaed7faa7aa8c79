"""Every option of every command says what it is and what it is when not given."""

import argparse
import re

import pytest

from gpu_lstm.cli import parser_of_all


def parsers(parser, name="gpu-lstm"):
    """All parsers, by what one types."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from parsers(inner, f"{name} {word}")


ALL = dict(parsers(parser_of_all()))


OPTED = {"--resume", "--init"}
"""Options that ask for something more, which doesn't happen without them."""


def test_all_commands_are_looked_at():
    assert {"gpu-lstm train text", "gpu-lstm sample", "gpu-lstm bench", "gpu-lstm info"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_option_has_help_and_its_default(name):
    parser = ALL[name]
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        what = " ".join(action.option_strings) or action.dest
        assert action.help, f"{name} {what} has no help"
        shown = parser._get_formatter()._expand_help(action) if action.help else ""
        if isinstance(action, argparse._StoreTrueAction | argparse._VersionAction):
            continue
        default = action.default
        if default is None or default is argparse.SUPPRESS or default in ([], ""):
            group = next(group for group in parser._action_groups if action in group._group_actions)
            told = re.search(r"not given|otherwise|\([^()]+\)$", f"{group.description or ''} {shown}")
            assert told or what in OPTED or action.required, f"{name} {what} doesn't say what happens without: {shown}"
        else:
            assert f"(default: {default})" in shown, f"{name} {what} doesn't show its default: {shown}"


@pytest.mark.parametrize("name", ALL)
def test_help_is_printed(name, capsys):
    ALL[name].print_help()
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {name}")
    assert "(default: None)" not in printed
    assert "(default: [])" not in printed
    assert "(default: )" not in printed
