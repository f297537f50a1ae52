# shellcheck shell=bash
# Sourced by the other scripts: what a machine needs, and how it is brought there. Installs only what is missing, so the
# second time is quick and needs no network. Python packages come from the lock files with their hashes, nothing else.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

venv=$root/.venv

say() { printf '%s\n' "$*" >&2; }
die() {
    say "${0##*/}: $*"
    exit 1
}

require_root() {
    [[ $EUID -eq 0 ]] || die "be root: packages, volumes and sandboxes need it (sudo $0)"
}

require_system() {
    [[ $(uname -s) == Linux ]] || die "Cloister runs on Linux, and this is $(uname -s)"
    case $(uname -m) in
    x86_64 | aarch64) ;;
    *) die "no PostgreSQL engine is built for $(uname -m): x86_64 and aarch64 only" ;;
    esac
    command -v apt-get >/dev/null ||
        say "${0##*/}: no apt-get here: if something is missing, you will have to install it yourself"
}

# packages_for COMMAND:PACKAGE… prints the packages whose command is missing.
packages_for() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || printf '%s\n' "${pair#*:}"
    done
}

# install_packages PACKAGE… with apt-get; the lists are fetched once, and only when something must be installed.
install_packages() {
    [[ $# -gt 0 ]] || return 0
    command -v apt-get >/dev/null || die "please install: $*"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say "${0##*/}: apt-get update failed; trying with the lists that are here"
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null || die "apt-get could not install: $*"
}

# The programs that a platform starts, and the Debian package of each.
platform_packages() {
    packages_for bwrap:bubblewrap cryptsetup:cryptsetup-bin mkfs.xfs:xfsprogs qemu-storage-daemon:qemu-system-common \
        losetup:mount useradd:passwd setpriv:util-linux ip:iproute2 psql:postgresql-client pgbouncer:pgbouncer
    # For guard.so, which is built here (build_guard).
    command -v "${CC:-gcc}" >/dev/null || printf 'gcc\n'
    [[ -e /usr/include/stdio.h ]] || printf 'libc6-dev\n'
    ldconfig -p | grep -F libseccomp.so.2 >/dev/null || printf 'libseccomp2\n'
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || printf 'ca-certificates\n'
    # With it every *.db.localhost is this machine, for every program.
    getent hosts ep-check.db.localhost >/dev/null || printf 'libnss-myhostname\n'
}

# find_python prints a Python of at least 3.11 that can make virtual environments, or nothing.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if candidate=$(command -v "$candidate") &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

ensure_platform_packages() {
    local missing
    mapfile -t missing < <(platform_packages)
    if [[ -z $(find_python) ]]; then
        if command -v apt-cache >/dev/null && [[ $(apt-cache policy python3.11 2>/dev/null) == *Candidate:\ 3.11* ]]; then
            missing+=(python3.11 python3.11-venv)
        else
            missing+=(python3 python3-venv)
        fi
    fi
    install_packages "${missing[@]}"
    # Its package starts a service on port 6432, which nobody asked for: the platform runs its own, beside computes.
    if [[ " ${missing[*]} " == *' pgbouncer '* && -d /run/systemd/system ]]; then
        systemctl disable --quiet --now pgbouncer || say "${0##*/}: the service pgbouncer could not be stopped"
    fi
    # Some releases keep it with the other disk tools.
    command -v qemu-storage-daemon >/dev/null || install_packages qemu-utils
    mapfile -t missing < <(platform_packages)
    [[ ${#missing[@]} -eq 0 ]] || die "still missing after the installation: ${missing[*]}"
}

# What tests and benchmarks need beside the platform: peers to compare with, and clients.
ensure_test_packages() {
    local missing
    mapfile -t missing < <(packages_for openssl:openssl npm:npm chromium:chromium softhsm2-util:softhsm2)
    # pgbench comes with the distribution's server, whose package would start one on port 5432 unless told otherwise first.
    if ! pgbench --version >/dev/null 2>&1; then
        if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
            mkdir -p /etc/postgresql-common
            printf 'create_main_cluster = false\n' >/etc/postgresql-common/createcluster.conf
        fi
        missing+=(postgresql)
    fi
    # JDBC's journey needs a JDK, which is a quarter of a gigabyte: it runs where there is one, and the driver is small.
    if command -v javac >/dev/null && [[ ! -e /usr/share/java/postgresql.jar ]]; then
        missing+=(libpostgresql-jdbc-java)
    fi
    # A receiver of our audit log. Whoever has another system logger keeps it: the packages exclude each other.
    local logs=0
    if command -v rsyslogd >/dev/null; then
        compgen -G '/usr/lib/*/rsyslog/lmnsd_gtls.so' >/dev/null || missing+=(rsyslog-gnutls)
    elif ! dpkg-query -W -f='${Status} ${Provides}\n' 2>/dev/null | grep -q '^install ok installed .*system-log-daemon'; then
        missing+=(rsyslog rsyslog-gnutls)
        logs=1
    fi
    install_packages "${missing[@]}"
    # Tests start their own, and nobody asked for a second log of this machine.
    if [[ $logs -eq 1 && -d /run/systemd/system ]]; then
        systemctl disable --quiet --now syslog.socket rsyslog || say "${0##*/}: the service rsyslog could not be stopped"
    fi
}

# ensure_venv LOCKFILE: the virtual environment with exactly what the lock file names. A stamp of its hash says that this
# was done, so that nothing is asked again.
ensure_venv() {
    local lock=$1 python stamp wanted log
    stamp=$venv/.installed-${lock%.lock}
    if [[ ! -x $venv/bin/python ]]; then
        python=$(find_python)
        [[ -n $python ]] || die "needs Python 3.11 or newer with venv: install python3.11 and python3.11-venv"
        say "making $venv"
        "$python" -m venv --clear "$venv"
    fi
    wanted=$(sha256sum <"$root/$lock")
    if [[ ! -e $stamp || $(<"$stamp") != "$wanted" ]]; then
        say "installing the Python packages of $lock"
        log=$(mktemp)
        if ! {
            { "$venv/bin/python" -m pip --version || "$venv/bin/python" -m ensurepip --default-pip; } &&
                "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --require-hashes -r "$root/$lock"
        } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            rm -f "$log"
            die "pip could not install $lock"
        fi
        rm -f "$log"
        printf '%s\n' "$wanted" >"$stamp"
    fi
    link_package
    compile_package
    build_guard
}

# Other people's clients for Node, which tests use as they are: the versions and digests of tests/clients/package-lock.json.
# Neon's command line wants Node 20.19, which is newer than Debian 12's.
ensure_clients() {
    local stamp wanted log clients=$root/tests/clients
    node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' \
        2>/dev/null && command -v npm >/dev/null ||
        die "the tests of clients need Node 20.19 or newer, with npm; here is $(node --version 2>/dev/null || echo none)"
    stamp=$clients/node_modules/.installed
    wanted=$(cat "$clients/package.json" "$clients/package-lock.json" | sha256sum)
    [[ ! -e $stamp || $(<"$stamp") != "$wanted" ]] || return 0
    say "installing the clients of tests/clients"
    log=$(mktemp)
    if ! (cd "$clients" && npm ci) >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "npm could not install the clients of tests/clients"
    fi
    rm -f "$log"
    printf '%s\n' "$wanted" >"$stamp"
}

# The module that computes preload, for each PostgreSQL whose headers are here: those of the engine come with it. A second
# of the compiler's time, and nothing at all when nothing changed.
build_guard() {
    "$venv/bin/python" -P "$root/guard/build.py" >/dev/null || die "guard.so could not be built"
}

# Cloister itself is used from this checkout. A .pth file and a two-line command do that without a build, which would
# fetch a build backend that no lock file vouches for. -P: a command run as root must not import from where it stands.
link_package() {
    local site
    if ! "$venv/bin/python" -P -c "import cloister, sys; sys.exit(cloister.__path__[0] != sys.argv[1])" \
        "$root/src/cloister" 2>/dev/null; then
        site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        printf '%s\n' "$root/src" >"$site/cloister-checkout.pth"
    fi
    link_program cloister cloister
    link_program terraform-provider-cloister cloister.cli.terraform.command
}

# The services run as users who may not write here: what is not compiled now, each of them compiles again at every start.
compile_package() {
    "$venv/bin/python" -P -m compileall -q "$root/src/cloister" || die "a file of Cloister cannot be compiled"
}

# link_program NAME MODULE
link_program() {
    [[ ! -x $venv/bin/$1 ]] || return 0
    printf '#!/bin/sh\nexec "%s" -P -m %s "$@"\n' "$venv/bin/python" "$2" >"$venv/bin/$1"
    chmod 755 "$venv/bin/$1"
}
