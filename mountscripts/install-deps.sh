#!/usr/bin/env bash
# Installs what bhfs is built from and runs with, as far as it is missing:
#   mountscripts/install-deps.sh [--tests] [--swift] [--fuzz]
# With --tests also what tests/run needs (a Ceph object store among it: about 270 MB), with --swift what it needs where it
# is not --quick (Swift, and clients: Django, SQLAlchemy, Node), with --fuzz what its fuzzers need. Starts no service.
# Installs nothing, and asks for no rights, when everything is there.
set -euo pipefail

packages=(gcc libc6-dev meson ninja-build pkg-config
    libfuse3-dev libsqlite3-dev libssl-dev libinih-dev libcurl4-openssl-dev libexpat1-dev libzstd-dev
    fuse3 sqlite3 ca-certificates)
tests=(libcmocka-dev python3 dash procps util-linux mount curl
    git rsync make # what people do in files/
    radosgw ceph-mon ceph-osd) # these need ceph-common (ceph, ceph-authtool, radosgw-admin) and ceph-base (monmaptool)
swift=(python3-swift memcached) # the servers are started by tests/servers/swift, without their packages of services
clients=(python3-django python3-sqlalchemy python3-alembic # other people's programs for the tests orm-*
    nodejs npm make g++) # which compile a package of npm's
fuzz=(clang libclang-rt-dev)

for option; do
    case "$option" in
    --tests) packages+=("${tests[@]}") ;;
    --swift) packages+=("${swift[@]}" "${clients[@]}") ;;
    --fuzz) packages+=("${fuzz[@]}") ;;
    *)
        echo "usage: install-deps.sh [--tests] [--swift] [--fuzz]" >&2
        exit 2
        ;;
    esac
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    # Not a Debian: what counts is there or the build says what is not.
    missing=()
    for tool in cc meson ninja pkg-config fusermount3 sqlite3; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] && exit 0
    echo "install-deps.sh: this is no Debian system; install these first: ${missing[*]}" \
        "(Debian's names of all that is needed: ${packages[*]})" >&2
    exit 1
fi

# A package counts as there when it, or one that provides it (pkgconf for pkg-config), is installed.
installed=$(dpkg-query -W -f='${db:Status-Status}\t${Package}, ${Provides}\n' |
    sed -n 's/^installed\t//p' | tr ',' '\n' | sed 's/^ *//; s/ .*//')
missing=()
for package in "${packages[@]}"; do
    grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps.sh: run this as root first: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    root=(sudo)
fi
echo "installing: ${missing[*]}"
install_missing() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# Some of the packages bring services (Ceph's, memcached) and would start them: nobody asked for those. A policy-rc.d that
# says no, Debian's way to that, is there while this installs; what would start at the next boot is disabled.
policy=/usr/sbin/policy-rc.d ours=
log=$(mktemp)
enabled() {
    find /etc/systemd/system -name '*.service' -type l -printf '%f\n' 2>/dev/null | sort -u
}
clean_up() {
    [ -z "$ours" ] || "${root[@]}" rm -f "$policy"
    rm -f "$log"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
before=$(enabled)
if [ ! -e "$policy" ]; then
    ours=1
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" install -m 755 /dev/stdin "$policy"
fi

# The package lists of a fresh machine are empty, those of an old one name versions that are gone.
if ! install_missing >"$log" 2>&1; then
    "${root[@]}" apt-get update -q >"$log" 2>&1 || true
    install_missing >"$log" 2>&1 || {
        cat "$log" >&2
        echo "install-deps.sh: apt-get could not install: ${missing[*]}" >&2
        exit 1
    }
fi
while read -r service; do
    "${root[@]}" systemctl disable -q "$service" >/dev/null 2>&1 || true # no systemd: nothing starts by it
done < <(comm -13 <(echo "$before") <(enabled))
