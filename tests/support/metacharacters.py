"""Two hundred texts that somebody's parser takes for more than text, and the canary that sings if one does.

Most run the program `canary`, which is on the PATH of both sides and leaves a file, if a shell sees them. One
makes the file `made` where it stands; others open a path, expand, or steer a format or a terminal.
"""

from __future__ import annotations

import itertools
from pathlib import Path

_RUNS = [
    "$(canary)", "`canary`", ";canary", "|canary", "&canary", "&&canary", "||canary", ">made", "<(canary)",
    ">(canary)", "$(<canary)", "${IFS}canary", ";canary;", "|canary|", "\tcanary", " canary ", "(canary)",
    "{canary,}", "$((`canary`))", "!canary", "=canary", "=(canary)", "${x:-`canary`}", "@(canary)",
]  # fmt: skip
# What a text may have to get out of first.
_AROUND = [
    ("", ""),
    ("a", "b"),
    ("'", "'"),
    ('"', '"'),
    ("a'", " #"),
    ('a"', " #"),
    ("\\", ""),
    ("a\\'", "'"),
]
_OTHER = [
    '-oProxyCommand=canary', '-c', '--', '-', '-e canary', '~canary', '~canary/x', '*', '?', '[a-z]*',
    '$HOME', '${HOME}', '$0', '$@', '%h', '%d/%u', '%%', '%s%n', '%(x)s', '{0}', '{x.__class__}', '{', '}',
    '{{}}', '${x', "$'\\x63anary'", '\\x63anary', '\\', '\\\\', "'", '"', '`', "'''", '"""', 'a b', ' a',
    'a ', '#a', 'a#', '# canary', '//', 'a=b', 'a,b', 'a:b', '@a', 'a@b', 'a%20b', '\x1b]0;x\x07', '\x7f',
    '\x85', '\u2028', '\u202e', 'é', '日本語', '😀', '\udcff', 'a\nb', '\ncanary\n', 'a\rcanary', '\x00',
    'a\x00canary', "__import__('os')", "');canary('", '");canary("',
    "'+__import__('os').system('canary')+'", 'eval canary', 'exec canary', 'import canary', '[executors]',
    'x = 1', "x" * 200, 'null', 'none', 'true', '0', '1e999', 'NaN', 'ssh://canary', 'file:canary',
    '-J canary', '\tProxyCommand canary', 'Match exec canary', 'Include canary',
]  # fmt: skip

TEXTS = [
    *_OTHER,
    *dict.fromkeys(left + text + right for (left, right), text in itertools.product(_AROUND, _RUNS)),
]
TEXTS = [*dict.fromkeys(TEXTS)]


def make_canary(directory: Path) -> Path:
    """Make the program `canary` in a directory for a PATH; return the file that it leaves when it runs."""
    directory.mkdir(parents=True)
    sung = directory / "sung"
    program = directory / "canary"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {sung}\n')
    program.chmod(0o755)
    return sung


def made_by_a_shell(*directories: Path) -> list[Path]:
    """Return the files that `>made` would have made."""
    return [path for directory in directories for path in directory.rglob("made")]


def plain(text: str) -> bool:
    """Tell whether a text can be the name of one file: what our own settings refuse apart."""
    return not set(text) & set("/\0\r\n") and text.isprintable() and text not in (".", "..")
