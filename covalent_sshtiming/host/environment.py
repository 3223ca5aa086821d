"""Environment: what a shell does there before Python starts, by `setup_commands` and `conda_env`.

Owns the script, the choice of the shell that runs it, and the marks on stderr that tell how far it is. A
set-up command is shell because that is what it is for; all else in the script is constant or quoted.
"""

from __future__ import annotations

import re
import shlex

from covalent_sshtiming.host.target import Target

MARK = b"\nSSHTIMING-step "
CONDA, CONDA_BY, NO_CONDA, NO_PYTHON, DONE = "conda", "conda-by ", "no-conda", "no-python", "done"
SAID_MAX = 64 * 1024
_STEP_MAX = 300  # bytes of a mark

# zsh where that is the user's own shell; else bash, which knows `source`; else sh. Whatever it and the
# commands print goes to stderr, and they read nothing: 8 and 9 are our stream, for Python.
_SHELL = (
    'case ${SHELL##*/} in bash|zsh) s=$SHELL;; *) s=bash;; esac; for s in "$s" bash sh; do '
    'command -v "$s" >/dev/null 2>&1 && break; done; '
    'exec "$s" -l -c "$(printf %b "$1")" 8<&0 9>&1 </dev/null >&2'
)
# We send nothing before Python speaks, so an end of our stream is that we have gone: then nothing goes on.
# Who waits for that is no child of the shell, for whose own `wait` that would be one too many.
_BEGIN = """\
_sst() { printf '\\nSSHTIMING-step %s\\n' "$1" >&2; }
_sst_watch=$(
  (while read -r _sst_line; do :; done <&8; kill -s TERM -- "-$$" "$$") >/dev/null 2>&1 9>&- &
  echo "$!"
)
"""
_COMMAND = "_sst {number}; eval {command} || exit"
_END = """\
_sst done; kill "$_sst_watch" || :
unset _sst_watch _sst_env _sst_seen _sst_code _sst_tool _sst_path; unset -f _sst
"""
# conda says what to do in the form of a script, and so do mamba and micromamba by another name. Whoever has
# that environment is the right one, so they are all asked.
_ACTIVATE = """\
_sst conda; _sst_env={name}; _sst_seen=:; _sst_code=
case $_sst_env in '~/'*) _sst_env=$HOME/${{_sst_env#'~/'}};; esac
for _sst_tool in conda "${{CONDA_EXE-}}" mamba micromamba "${{MAMBA_EXE-}}" {places}; do
  _sst_path=$(command -v "${{_sst_tool:-none of ours}}") || continue
  case $_sst_seen in *":$_sst_path:"*) continue;; esac
  _sst_seen=$_sst_seen$_sst_path:
  printf '%s: ' "$_sst_path" >&2
  case ${{_sst_path##*/}} in
    conda) _sst_code=$("$_sst_tool" shell.posix activate "$_sst_env") && break;;
    *) _sst_code=$("$_sst_tool" shell activate --shell posix "$_sst_env") && break;;
  esac
  _sst_code=
done
if [ "$_sst_seen" = : ]; then _sst no-conda; exit 1; fi
if [ -z "$_sst_code" ]; then exit 1; fi
_sst "conda-by $_sst_path"
eval "$_sst_code"
"""
_PYTHON = 'if [ ! -x "$CONDA_PREFIX/bin/python" ]; then _sst no-python; exit 1; fi'
_ROOTS = ('"$HOME"', "/opt", "/usr/local")
_NAMES = ("miniforge3", "miniconda3", "mambaforge", "anaconda3", "miniconda", "conda")
_PLACES = [f"{root}/{name}/bin/conda" for root in _ROOTS for name in _NAMES] + [
    f"{place}/micromamba"
    for place in ('"$HOME"/.local/bin', '"$HOME"/bin', '"$HOME"/micromamba/bin', "/usr/local/bin")
]


def prepared(target: Target, command: str) -> str:
    """Return the exec command that makes the environment and then does `command`, itself an exec command."""
    if not target.prepares:
        return command
    lines = [_BEGIN]
    for number, line in enumerate(target.setup):
        lines.append(_COMMAND.format(number=number, command=shlex.quote(line)))
    if target.conda_env:
        lines.append(_ACTIVATE.format(name=shlex.quote(target.conda_env), places=" ".join(_PLACES)))
        lines += [] if target.python_path else [_PYTHON]
    lines += [_END, f"{command} <&8 >&9 8<&- 9>&-"]
    words = ["exec", "sh", "-c", _SHELL, "sh", _on_one_line("\n".join(lines))]
    return " ".join(shlex.quote(word) for word in words)


def _on_one_line(script: str) -> str:
    """Return a script for `printf %b`, without what single quotes do not keep from every login shell."""
    return re.sub(rb"[^ -~]|['\\!]", lambda sign: b"\\0%03o" % sign[0][0], script.encode()).decode()


class Said:
    """The far side's stderr: how far the preparation is, and the last 64 KiB of what came since.

    Attributes:
        step: the number of a set-up command, or one of the constants above; "" before the first.
        tool: the program that activated the conda environment; "" before.
        size: bytes in all.
    """

    def __init__(self) -> None:
        self.step = self.tool = ""
        self.size = 0
        self._text = bytearray()

    @property
    def text(self) -> bytes:
        """What was said in this step."""
        return bytes(self._text)

    def hear(self, data: bytes) -> None:
        """Take what came; marks only until the preparation is done, after which they are not ours."""
        self.size += len(data)
        self._text += data
        while self.step != DONE and self._pass_mark():
            pass
        del self._text[:-SAID_MAX]

    def _pass_mark(self) -> bool:
        """Go on to the next step if its mark is there, and forget what was said before."""
        start = self._text.find(MARK)
        end = self._text.find(b"\n", start + len(MARK), start + len(MARK) + _STEP_MAX)
        if start < 0 or end < 0:
            return False
        self.step = self._text[start + len(MARK) : end].decode("utf-8", "replace")
        if self.step.startswith(CONDA_BY):
            self.tool = self.step[len(CONDA_BY) :]
        del self._text[:end]  # its line's end may be the next mark's beginning
        return True
