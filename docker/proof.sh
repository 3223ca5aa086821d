#!/bin/sh
# What make docker-up and docker-test do, without a Docker engine: as root, with Debian's tools alone. Checks
# compose.yaml, builds the image, starts its sshd as compose.yaml would, and sends the integration tests there.
# What it makes is in build/docker; the base image there is used again.
#     docker/proof.sh [pytest's arguments]
set -eu

cd "$(dirname "$0")/.."
work=$PWD/build/docker
base=debian:bookworm-slim
image=sshtiming-machine
pytest=${PYTEST:-.venv/bin/pytest}
container='' machine=''

main() {
    require buildah debootstrap docker-compose ssh-keygen unshare
    mkdir -p "$work"
    check_compose
    buildah inspect --type image "$base" >/dev/null 2>&1 || make_base
    build_image
    trap stop EXIT
    trap "exit 1" INT TERM HUP
    container=$(buildah from --pull=never "$image")
    root=$(buildah mount "$container")
    check_image
    start
    check_login
    say "The integration tests go to it"
    SSHTIMING_TEST_HOST=ada@$listen SSHTIMING_TEST_KEY=$work/key "$pytest" -m integration "$@"
}

say() {
    echo "== $1"
}

fail() {
    echo "$1" >&2
    exit 1
}

require() {
    test "$(id -u)" = 0 || fail "Only root can make and enter a root file system."
    for tool; do
        command -v "$tool" >/dev/null || fail "$tool is missing. On Debian: apt-get install buildah debootstrap docker-compose"
    done
}

buildah() {
    command buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"
}

check_compose() {
    say "docker-compose config accepts compose.yaml"
    docker-compose --file docker/compose.yaml config --quiet
    docker-compose --file docker/compose.yaml config --services | xargs
}

# The official image is such a root file system too.
make_base() {
    say "$base, by debootstrap"
    made=$(buildah from scratch)
    debootstrap --variant=minbase bookworm "$(buildah mount "$made")" >"$work/debootstrap.log" 2>&1 ||
        fail "$(tail -n 20 "$work/debootstrap.log")"
    buildah commit --quiet --rm "$made" "$base" >/dev/null
}

build_image() {
    say "buildah builds the Dockerfile"
    buildah bud --format docker --isolation chroot --pull=never --tag "$image" --file docker/Dockerfile . \
        >"$work/build.log" 2>&1 || fail "$(tail -n 20 "$work/build.log")"
    buildah rmi --prune >/dev/null # the one before
    buildah images --format '{{.Name}} {{.Size}}' "$image"
}

# Nothing of ours, no pip, no key of anybody's; the settings are the tests' own.
check_image() {
    say "What is in it"
    cmp covalent_sshtiming/demo/sshd_config "$root/etc/ssh/sshtiming_config"
    test ! -s "$root/etc/ssh/authorized_keys" || fail "somebody's public key is in the image"
    keys=$(find "$root/etc" "$root/home" "$root/root" -name '*host*key*' -o -name 'id_*' -o -name '*.pem')
    test -z "$keys" || fail "keys are in the image: $keys"
    chroot "$root" python3 -c '
import importlib.util as found, sys
there = [name for name in ("covalent", "covalent_sshtiming", "cloudpickle", "pip") if found.find_spec(name)]
sys.exit("it has %s" % there if there else print("Python", sys.version.split()[0], "and none of ours, no pip"))
'
}

# As compose.yaml has it: the image's own user and entry point, no privilege, all but the home read-only.
start() {
    say "Its sshd starts"
    user=$(buildah inspect --format '{{.Docker.Config.User}}' "$container")
    entry=$(buildah inspect --format '{{index .Docker.Config.Entrypoint 0}}' "$container")
    listen=127.0.0.1:$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
    test -f "$work/key" || ssh-keygen -q -t ed25519 -N '' -C proof -f "$work/key"
    unshare --mount --pid --fork --kill-child sh -c "$INSIDE" sh \
        "$root" "$work/key.pub" "$user" "$listen" "$entry" >"$work/sshd.log" 2>&1 &
    machine=$!
    for _ in $(seq 100); do
        grep -q 'Server listening' "$work/sshd.log" && break
        kill -0 "$machine" 2>/dev/null || break
        sleep 0.1
    done
    grep 'Server listening' "$work/sshd.log" || fail "$(cat "$work/sshd.log")"
    LISTEN=$listen chroot "$root" start check && echo "The health check finds it healthy"
}

# By the key alone, and then to a machine on which nothing can be changed but the home.
# shellcheck disable=SC2016 # expanded over there
check_login() {
    say "Who gets in, and what can be written"
    rm -f "$work/known_hosts"
    enter 'touch ~/ok; for at in / /etc /tmp /var/tmp; do ! touch $at/no 2>/dev/null || exit 3; done; id'
    ! enter -o PubkeyAuthentication=no true 2>"$work/refused" || fail "somebody is let in without the key"
    grep 'Permission denied (publickey)' "$work/refused"
}

enter() {
    ssh -F none -p "${listen#*:}" -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=accept-new \
        -o UserKnownHostsFile="$work/known_hosts" ada@127.0.0.1 "$@"
}

# shellcheck disable=SC2016 # expanded in there
INSIDE='
set -eu
root=$1 key=$2 user=$3 listen=$4 entry=$5
mount --bind "$root" "$root"
mount --bind "$root/home" "$root/home"
mount --bind "$key" "$root/etc/ssh/authorized_keys"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all \
    env -i HOME="/home/$user" PATH=/usr/local/bin:/usr/bin:/bin LISTEN="$listen" $entry
'

stop() {
    test -z "$machine" || kill -KILL "$machine" 2>/dev/null || true
    test -z "$machine" || wait "$machine" 2>/dev/null || true
    test -z "$container" || buildah rm "$container" >/dev/null
}

main "$@"
