# shellcheck shell=bash
# Sourced by tests/run and tests/soak: gets what the node tests need, and puts away
# what they leave. Expects the project's directory as the working directory.

# Each command that the tests need, and the package that has it.
TOOLS=(
    docker:docker.io dockerd:docker.io mmdebstrap:mmdebstrap apt-ftparchive:apt-utils
    dpkg-deb:dpkg gpg:gnupg gpgconf:gnupg shellcheck:shellcheck cc:gcc nsenter:util-linux
    docker-registry:docker-registry ip:iproute2 lintian:lintian java:default-jre-headless
    packer:packer node:nodejs npm:npm python3:python3
    qemu-system-x86_64:qemu-system-x86 socat:socat mke2fs:e2fsprogs debugfs:e2fsprogs setpriv:util-linux
    strip:binutils
)

need_tools() {
    local tool missing=()
    for tool in "${TOOLS[@]}"; do
        command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
    done
    # The key that signs the nodes' Debian, which an Ubuntu may lack.
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    # Without it `python3 -m venv` makes an environment without pip.
    python3 -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
    command -v cargo > /dev/null || { echo "cargo is missing: install Rust first" >&2; return 1; }
    if [ "$(id -u)" != 0 ]; then
        echo "The node tests need root.${missing[*]:+ Missing packages: ${missing[*]}}" >&2
        return 1
    fi
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null || { echo "missing, and no apt-get: ${missing[*]}" >&2; return 1; }
    apt-get update
    # Since Debian 13 the docker command is in a package of its own.
    case " ${missing[*]} " in
    *" docker.io "*) if apt-cache show docker-cli > /dev/null 2>&1; then missing+=(docker-cli); fi ;;
    esac
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
}

# An EC2 API that nobody here wrote, in a folder of its own: harness/moto.rs.
need_moto() {
    local folder=target/nodes/moto-5.2.5 log=target/nodes/moto.log
    [ ! -e "$folder/done" ] || return 0
    rm -rf "$folder"
    mkdir -p target/nodes
    python3 -m venv "$folder"
    if ! "$folder/bin/pip" install --disable-pip-version-check \
        'moto[ec2,s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5 > "$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "moto is not installed" >&2
        return 1
    fi
    touch "$folder/done"
}

# A Docker Engine that answers: the machine's own, or one for these tests.
need_engine() {
    engine_pid=
    docker version > /dev/null 2>&1 && return
    mkdir -p target/nodes/docker
    # Two engines must not share their data: a second test run waits for the first.
    exec 8> target/nodes/engine.lock
    flock --nonblock 8 || { echo "waiting for another test run to end" >&2; flock 8; }
    engine_run=$(mktemp -d)
    export DOCKER_HOST=unix://$engine_run/docker.sock
    # Nodes have no network but their own, so the engine needs none.
    setsid dockerd --host "$DOCKER_HOST" --data-root "$PWD/target/nodes/docker" --exec-root "$engine_run/exec" \
        --pidfile "$engine_run/pid" --bridge none --iptables=false > target/nodes/dockerd.log 2>&1 8>&- &
    engine_pid=$!
    until docker version > /dev/null 2>&1; do
        kill -0 "$engine_pid" 2> /dev/null || { tail -n 20 target/nodes/dockerd.log >&2; return 1; }
        sleep 0.2
    done
}

# Removes what test processes that are gone have left, and ends our engine.
put_away() {
    local id owner
    docker ps --all --filter label=titus-bootstrap-test --format '{{.ID}} {{.Label "titus-bootstrap-test"}}' |
        while read -r id owner; do
            [ -e "/proc/$owner" ] || docker rm --force --volumes "$id" > /dev/null
        done
    docker images --filter label=titus-bootstrap-test --format '{{.Repository}}:{{.Tag}}' |
        while read -r id; do
            case $id in
            titus-bootstrap-converged:* | titus-bootstrap-engine:* | titus-bootstrap-builder:* | titus-bootstrap-baked:*) [ -e "/proc/${id##*:}" ] || docker rmi "$id" > /dev/null ;;
            esac
        done
    if [ -n "$engine_pid" ]; then
        kill "$engine_pid" 2> /dev/null || true
        wait "$engine_pid" || true
        rm -rf "$engine_run"
    fi
}
