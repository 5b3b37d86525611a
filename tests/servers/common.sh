# What the scripts of the S3 servers share. Each of them is
#
#   NAME start DIR     starts the server with everything it has in DIR (made, or empty, or from a start before) and prints
#                      one line, when it answers: URL ACCESS-KEY SECRET-KEY
#   NAME stop DIR      ends it; also what a start that failed has left. DIR stays, with the logs in DIR/log
#
# and defines, before it calls run_server: ports (how many in a row it takes from $PORT on), fixed (which of them it surely
# binds, as offsets), prepare (writes the configuration into $DIR), launch (starts the daemons; each has its pid in
# $DIR/run/NAME.pid), perhaps new_key and new_secret. Loopback only.
# shellcheck shell=bash disable=SC2154
set -Eeuo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
servers=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# port_taken NUMBER: somebody listens there.
port_taken() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# pick_ports: sets PORT to the first of $ports free ones, below those that the kernel gives to clients. Another start may
# choose the same at the same time: then one of them fails to bind, and tries again (run_server).
pick_ports() {
    local offset tries
    for ((tries = 0; tries < 100; tries++)); do
        PORT=$((12000 + RANDOM % (20000 / ports) * ports))
        for offset in "${fixed[@]}"; do
            ! port_taken $((PORT + offset)) || continue 2
        done
        return 0
    done
    echo "no free ports between 12000 and 32000" >&2
    return 1
}

# spawn NAME COMMAND...: a daemon that does not go into the background by itself.
spawn() {
    local name=$1
    shift
    setsid "$@" >"$DIR/log/$name" 2>&1 &
    echo $! >"$DIR/run/$name.pid"
}

# Pids of the server's processes, workers of its daemons included: run_server puts DIR into their environment.
daemons() {
    grep -lzFx "BHFS_SERVER_DIR=$DIR" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}

# At once: there is nothing that a server of the tests would have to save.
stop_server() {
    local tries pids
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        pids=$(daemons || true)
        [ -n "$pids" ] || break
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    rm -rf "${DIR:?}"/run
}

all_alive() {
    local file
    for file in "$DIR"/run/*.pid; do
        kill -0 "$(cat "$file")" 2>/dev/null || {
            echo "${file##*/} has ended"
            return 1
        }
    done
}

# answers: the server lists its buckets to somebody with our keys, which are new with every start: it is no other server.
answers() {
    BHFS_S3="$URL $KEY $SECRET" timeout 20 python3 "$servers/s3.py" buckets >/dev/null
}

# wait_until SECONDS COMMAND...
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@" 2>"$DIR/log/probe"; do
        if [ $SECONDS -ge $end ] || ! all_alive; then
            echo "no answer: $(cat "$DIR/log/probe")"
            return 1
        fi
        sleep 0.1
    done
}

# Like AWS's: the secret is 40 characters, '/' and '+' among them.
new_key() { echo "AK$(head -c 32 /dev/urandom | base64 -w 0 | tr -dc 'A-Z0-9' | head -c 10)"; }
new_secret() { head -c 30 /dev/urandom | base64 -w 0; }

run_server() {
    local action=${1-} tries attempt=
    if [ $# -ne 2 ] || [[ ! "$action" =~ ^(start|stop)$ ]]; then
        echo "usage: ${0##*/} start|stop DIR" >&2
        exit 2
    fi
    mkdir -p "$2"
    DIR=$(cd "$2" && pwd -P)
    if [ -n "$(ls -A "$DIR")" ] && [ ! -d "$DIR/log" ]; then
        echo "${0##*/}: $DIR is not empty and no server's directory" >&2
        exit 1
    fi
    stop_server
    [ "$action" = start ] || exit 0

    # The daemons get nothing from the caller: no configuration, no open files but their log.
    export BHFS_SERVER_DIR=$DIR LC_ALL=C.UTF-8
    unset CEPH_CONF CEPH_ARGS PYTHONPATH PYTHONHOME http_proxy https_proxy all_proxy
    trap 'kill "$attempt" 2>/dev/null; stop_server; exit 1' INT TERM HUP
    for tries in 1 2 3; do
        rm -rf "${DIR:?}"/*
        mkdir -p "$DIR/log" "$DIR/run"
        pick_ports
        URL=http://127.0.0.1:$PORT KEY=$(new_key) SECRET=$(new_secret)
        {
            trap 'echo "status $? from: $BASH_COMMAND"' ERR
            prepare
            launch
            wait_until 60 answers
            all_alive # or it was another server that answered
        } >"$DIR/log/start" 2>&1 </dev/null 3>&- &
        attempt=$!
        if wait $attempt; then
            echo "$URL $KEY $SECRET"
            exit 0
        fi
        stop_server
        echo "${0##*/}: start number $tries in $DIR failed:" >&2
        { tail -n 4 "$DIR"/log/*; tail -n 10 "$DIR/log/start"; } | cut -c1-300 >&2
    done
    exit 1
}
