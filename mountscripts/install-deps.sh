#!/usr/bin/env bash
# Installs what bhfs is built from and runs with, as far as it is missing: mountscripts/install-deps.sh [--tests] [--fuzz]
# With --tests also what tests/run needs, with --fuzz what its fuzzers need. Installs nothing, and asks for no rights, when everything is there.
set -euo pipefail

packages=(gcc libc6-dev meson ninja-build pkg-config
    libfuse3-dev libsqlite3-dev libssl-dev libinih-dev
    fuse3 sqlite3)
tests=(libcmocka-dev python3 dash procps util-linux mount)
fuzz=(clang libclang-rt-dev)

for option; do
    case "$option" in
    --tests) packages+=("${tests[@]}") ;;
    --fuzz) packages+=("${fuzz[@]}") ;;
    *)
        echo "usage: install-deps.sh [--tests] [--fuzz]" >&2
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
install() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
}
# The package lists of a fresh machine are empty, those of an old one name versions that are gone.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! install >"$log" 2>&1; then
    "${root[@]}" apt-get update -q >"$log" 2>&1 || true
    install >"$log" 2>&1 || {
        cat "$log" >&2
        echo "install-deps.sh: apt-get could not install: ${missing[*]}" >&2
        exit 1
    }
fi
