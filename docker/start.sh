#!/bin/sh
# Starts sshd as the user that it lets in; with `check`, asks whether it answers. Writes to HOME alone.
set -eu

listen=${LISTEN:-0.0.0.0:2222}

if [ "${1-}" = check ]; then
    exec python3 -c "
import socket
with socket.create_connection(('127.0.0.1', ${listen##*:}), timeout=2) as connection:
    assert connection.recv(4) == b'SSH-'
"
fi

# Made here and not with the image, so that no two machines share one, and none is published.
umask 077
mkdir -p "$HOME/.sshd" "$HOME/tmp"
test -f "$HOME/.sshd/host_key" || ssh-keygen -q -t ed25519 -N '' -C "$(hostname)" -f "$HOME/.sshd/host_key"

# Who may log in is mounted. TMPDIR, because all but HOME is read-only.
umask 022
exec /usr/sbin/sshd -D -e -f /etc/ssh/sshtiming_config \
    -o "ListenAddress=$listen" \
    -o "HostKey=$HOME/.sshd/host_key" \
    -o "AuthorizedKeysFile=/etc/ssh/authorized_keys" \
    -o "SetEnv=TMPDIR=$HOME/tmp"
