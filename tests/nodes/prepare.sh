# shellcheck shell=bash
# tests/run and tests/soak source this. It gets what the node tests need, and removes
# what they leave. The working directory must be the project's directory.

# Each command that the tests need, and the package that has it.
TOOLS=(
    docker:docker.io dockerd:docker.io mmdebstrap:mmdebstrap apt-ftparchive:apt-utils
    dpkg-deb:dpkg gpg:gnupg gpgconf:gnupg shellcheck:shellcheck cc:gcc nsenter:util-linux
    docker-registry:docker-registry ip:iproute2 lintian:lintian java:default-jre-headless
    packer:packer node:nodejs npm:npm python3:python3
    qemu-system-x86_64:qemu-system-x86 socat:socat mke2fs:e2fsprogs debugfs:e2fsprogs setpriv:util-linux
    strip:binutils strace:strace zsh:zsh fish:fish
)

# The compiler of rust-toolchain.toml; if rustup cannot get that one, the installed one.
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
if command -v rustup > /dev/null && [ -z "${RUSTUP_TOOLCHAIN-}" ] &&
    ! RUSTUP_TOOLCHAIN=stable rustup toolchain list | grep "^$channel" > /dev/null &&
    ! RUSTUP_TOOLCHAIN=stable timeout 300 rustup toolchain install "$channel" --profile minimal \
        --component clippy,rustfmt > /dev/null 2>&1; then
    echo "Rust $channel is not installed, and cannot be got: the tests use the default toolchain" >&2
    RUSTUP_TOOLCHAIN=$(RUSTUP_TOOLCHAIN=stable rustup toolchain list | sed -n 's/ (.*default.*//p')
    export RUSTUP_TOOLCHAIN
fi

# shellcheck disable=SC2034 # For the scripts that source this.
# Where cargo puts what it builds for this machine; without Rust, need_tools says so.
BUILT=target/$(rustc --print host-tuple 2> /dev/null || true)

need_tools() {
    local tool missing=()
    for tool in "${TOOLS[@]}"; do
        command -v "${tool%%:*}" > /dev/null || missing+=("${tool##*:}")
    done
    # The key that signs the nodes' Debian, which an Ubuntu may lack.
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    # Without it `python3 -m venv` makes an environment without pip.
    python3 -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
    # A browser for the pictures of docs/img; Ubuntu's apt has none, and nodes::pictures reports that.
    if ! command -v chromium > /dev/null && grep -q '^ID=debian' /etc/os-release; then
        missing+=(chromium fonts-dejavu-core)
    fi
    command -v cargo > /dev/null || { echo "cargo is missing: install Rust first" >&2; return 1; }
    if [ "$(id -u)" != 0 ]; then
        echo "The node tests need root.${missing[*]:+ Missing packages: ${missing[*]}}" >&2
        return 1
    fi
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null || { echo "missing, and no apt-get: ${missing[*]}" >&2; return 1; }
    apt-get update
    # Since Debian 13 the docker command is in a separate package.
    case " ${missing[*]} " in
    *" docker.io "*) if apt-cache show docker-cli > /dev/null 2>&1; then missing+=(docker-cli); fi ;;
    esac
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
}

# An EC2 API from a third party, in its own folder: harness/moto.rs.
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

# A Docker Engine that answers: the machine's own, or one for the tests of this directory, which ends with
# the last run or node that uses it.
need_engine() {
    local state=target/nodes/engine
    docker version > /dev/null 2>&1 && return
    mkdir -p "$state" target/nodes/docker
    # Each user holds this lock, and so does what it starts, until it ends.
    exec 7> "$state/users"
    flock --shared 7
    exec 8> "$state/lock"
    flock 8
    DOCKER_HOST=unix://$(cat "$state/directory" 2> /dev/null || true)/docker.sock
    export DOCKER_HOST
    docker version > /dev/null 2>&1 || start_engine
    exec 8>&-
}

start_engine() {
    local directory pid
    # Not below target: the path of a socket must be short.
    directory=$(mktemp -d)
    echo "$directory" > "$state/directory"
    DOCKER_HOST=unix://$directory/docker.sock
    # Nodes have no network but their own, so the engine needs none.
    setsid dockerd --host "$DOCKER_HOST" --data-root "$PWD/target/nodes/docker" --exec-root "$directory/exec" \
        --pidfile "$directory/pid" --bridge none --iptables=false > target/nodes/dockerd.log 2>&1 7>&- 8>&- &
    pid=$!
    until docker version > /dev/null 2>&1; do
        kill -0 "$pid" 2> /dev/null || { tail -n 20 target/nodes/dockerd.log >&2; return 1; }
        sleep 0.2
    done
}

# Removes what ended test processes left, and ends our engine if no other run uses it.
put_away() {
    local id owner directory
    docker version > /dev/null 2>&1 || return 0
    docker ps --all --filter label=titus-bootstrap-test --format '{{.ID}} {{.Label "titus-bootstrap-test"}}' |
        while read -r id owner; do
            [ -e "/proc/$owner" ] || docker rm --force --volumes "$id" > /dev/null
        done
    docker images --filter label=titus-bootstrap-test --format '{{.Repository}}:{{.Tag}}' |
        while read -r id; do
            # A tag begins with the process's id, and a name may follow.
            owner=${id##*:}
            owner=${owner%%-*}
            case $id in
            titus-bootstrap-converged:* | titus-bootstrap-builder:* | titus-bootstrap-baked:*) [ -e "/proc/$owner" ] || docker rmi "$id" > /dev/null ;;
            esac
        done
    [ -e target/nodes/engine/directory ] || return 0
    exec 7>&- 8> target/nodes/engine/lock
    flock 8
    if flock --nonblock target/nodes/engine/users true; then
        directory=$(cat target/nodes/engine/directory)
        kill "$(cat "$directory/pid")" 2> /dev/null || true
        while [ -e "$directory/pid" ]; do sleep 0.1; done
        rm -rf "$directory" target/nodes/engine/directory
    fi
    exec 8>&-
}

# Builds the test executables with node cases, with these arguments of cargo. Prints their paths, one on each line.
build_tests() {
    local log=target/nodes/build.log
    mkdir -p target/nodes
    cargo test --no-run "$@" 2> "$log" || { cat "$log" >&2; return 1; }
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$log"
}
