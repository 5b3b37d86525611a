#!/usr/bin/env bash
# A Node program with better-sqlite3 on live.db: another SQLite than the system's, in every process, with its own defaults.
# A migration while it is being read, then four processes at once, one of two threads; transactions that read twice see
# one state. In the rollback mode that it finds, and in WAL mode, as better-sqlite3's manual recommends. Nobody sees "database
# is locked", no increment is lost, and the rows are in the bucket.
# The package is installed once, and where it cannot be downloaded as a program compiled (a minute), into
# /var/cache/bhfs-tests, or below $XDG_CACHE_HOME if that is set, or ~/.cache.
# level: long
# time: 600
# plain: the libraries wait 5 s for a lock, whatever slows the daemon down
# buckets: file
home=$HOME
. "$(dirname "${BASH_SOURCE[0]}")/orm/common.sh" || exit 1

command -v node >/dev/null || skip "there is no node here"
command -v npm >/dev/null || skip "there is no npm here"
major=$(node -p 'process.versions.node.split(".")[0]')
if [ "$major" -ge 20 ]; then version=12.11.1; else version=11.10.0; fi # the last one for Node 18

# install_package: sets NODE_PATH to where better-sqlite3 of that version is, for this Node.
install_package() {
    local cache name
    for cache in "${XDG_CACHE_HOME:-/var/cache}" "$home/.cache"; do
        cache=$cache/bhfs-tests
        { mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null && break
    done
    name=better-sqlite3-$version-node-$(node -p 'process.versions.modules + "-" + process.arch')
    export NODE_PATH=$cache/$name/node_modules
    exec 9>>"$cache/lock"
    flock 9
    package_works 2>/dev/null || get_package
    exec 9>&-
}

package_works() {
    node -e 'new (require("better-sqlite3"))(":memory:")'
}

get_package() {
    local made headers why
    rm -rf "$cache"/new.* # of somebody who was killed
    made=$(mktemp -d "$cache/new.XXXXXX")
    chmod 755 "$made"
    # Newer versions of npm run only the install scripts that are named.
    echo '{"private": true, "allowScripts": {"better-sqlite3": true}}' >"$made/package.json"
    # Where this node's headers are beside it, it is compiled with those.
    headers=$(realpath "$(command -v node)")
    headers=${headers%/bin/*}
    [ ! -e "$headers/include/node/node.h" ] || export npm_config_nodedir=$headers
    attempt env HOME="$home" CXXFLAGS=-w timeout 450 npm install --prefix "$made" --no-audit --no-fund --loglevel=error \
        --fetch-retries=1 --fetch-timeout=60000 "better-sqlite3@$version"
    if ! why=$(NODE_PATH=$made/node_modules package_works 2>&1); then
        rm -rf "$made"
        printf '%s\n' "$OUT" "$why"
        skip "better-sqlite3@$version cannot be installed for Node $major: npm's status is $STATUS"
    fi
    rm -rf "$made"/node_modules/better-sqlite3/{deps,build/Release/obj*} "${cache:?}/$name"
    mv "$made" "$cache/$name"
}

load() {
    node "$ORM/better_sqlite3_load.js" "$DB" "$mode" "$@"
}

install_package
echo "Node $(node -p process.versions.node), better-sqlite3 $version with SQLite $(node -p \
    'new (require("better-sqlite3"))(":memory:").prepare("SELECT sqlite_version()").pluck().get()'), the system's $(sqlite3 -version | cut -d' ' -f1)"

whole='SELECT coalesce(sum(a.n <> (SELECT count(*) FROM entry WHERE account_id = a.id)), 0) FROM account a'
for mode in delete wal; do
    echo "$mode"
    pace $mode
    mount_bh
    must load migrate 1
    mode_is $mode
    must load add 0 $((COUNT / 10)) "$PAUSE" 1
    watching load watch "$T/enough"
    sleep 1
    must load migrate 2
    must load migrate 2
    assert_match "$(sql "SELECT sql FROM sqlite_schema WHERE name = 'entry'")" 'CONSTRAINT once UNIQUE' 'the altered table'
    watching flushing "$whole"
    for ((client = 1; client <= CLIENTS; client++)); do
        beside load add $client "$COUNT" "$PAUSE" $((client == CLIENTS ? 2 : 1))
    done
    together
    assert_eq "$(sql "$whole")" 0 'accounts whose n is not the number of their entries'
    assert_eq "$(sql 'SELECT sum(n) FROM account')" $((CLIENTS * COUNT + COUNT / 10)) 'what all accounts say'
    assert_eq "$(sql "SELECT count(DISTINCT account_id || '/' || n) FROM entry")" $((CLIENTS * COUNT + COUNT / 10)) \
        'different numbers that the transactions saw'
    must load backup "$T/backup.db"
    assert_eq "$(digest "$T/backup.db")" "$(digest)" 'the content of a backup'
    rm "$T/backup.db"
    same_elsewhere $mode 'SELECT name, n FROM account ORDER BY id; SELECT count(*), sum(seq), min(seq) FROM entry;
        PRAGMA user_version'
done
