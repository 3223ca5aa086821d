#!/bin/sh
# The machines of compose.yaml: `up` builds and starts them, `running` asks whether they run, `down` removes them;
# `engine` only asks whether there is what runs them.
#     docker/machines.sh up [3.X]    with that Python instead of Debian's own
# Leaves in keys/ what a user has in HOME: .ssh with a key, the machines' host keys, and a config that names them.
set -eu

cd "$(dirname "$0")"
ssh=$PWD/keys/.ssh
machines="node1:2201 node2:2202 slow:2203"

main() {
    find_compose
    case "${1-}" in
    engine) ;;
    up) up "${2-}" ;;
    running) running ;;
    down) compose down --volumes --remove-orphans ;;
    *) fail "Write docker/machines.sh engine, up, running or down." ;;
    esac
}

fail() {
    echo "$1" >&2
    exit 1
}

find_compose() {
    command -v docker >/dev/null ||
        fail "Docker is not installed. On Debian, root can do without: make docker-proof."
    docker info >/dev/null 2>&1 ||
        fail "No Docker engine answers. Is it running, and may you use it? On Debian, root can do without: make docker-proof."
    if docker compose version >/dev/null 2>&1; then
        compose="docker compose"
    elif command -v docker-compose >/dev/null; then
        compose=docker-compose
    else
        fail "Docker is here without Compose. Install docker-compose-plugin, or on Debian docker-compose."
    fi
}

compose() {
    $compose --project-name sshtiming --file compose.yaml "$@"
}

up() {
    make_key
    export SSHTIMING_PYTHON="$1"
    compose build node1
    compose up --detach
    rm -f "$ssh/known_hosts" "$ssh/config"
    for machine in $machines; do
        name=${machine%:*} port=${machine#*:}
        wait_for "$name"
        echo "[127.0.0.1]:$port $(host_key "$name")" >>"$ssh/known_hosts"
        describe "$name" "$port" >>"$ssh/config"
    done
    echo "node1, node2 and slow are running. To log in: ssh -F docker/keys/.ssh/config node1"
}

make_key() {
    mkdir -p "$ssh"
    chmod 700 "$ssh"
    test -f "$ssh/id_ed25519" || ssh-keygen -q -t ed25519 -N '' -C 'throwaway' -f "$ssh/id_ed25519"
    chmod 644 "$ssh/id_ed25519.pub" # the machines' sshd reads it as another user
}

answers() {
    compose exec -T "$1" start check >/dev/null 2>&1
}

wait_for() {
    for _ in $(seq 60); do
        if answers "$1"; then return; fi
        sleep 0.5
    done
    compose logs --tail 20 "$1" >&2
    fail "$1 does not answer; above are its last words."
}

# Asked for through the engine, so that nobody else can answer. The slow link leads to node2.
host_key() {
    test "$1" != slow || set -- node2
    compose exec -T "$1" cut -d ' ' -f 1,2 .sshd/host_key.pub
}

describe() {
    cat <<END
Host $1
    HostName 127.0.0.1
    Port $2
    User ada
    IdentityFile "$ssh/id_ed25519"
    IdentitiesOnly yes
    UserKnownHostsFile "$ssh/known_hosts"
END
}

running() {
    for machine in $machines; do
        answers "${machine%:*}" || fail "${machine%:*} does not run. First: make docker-up."
    done
}

main "$@"
