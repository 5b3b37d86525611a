#!/usr/bin/env bash
# A mount of a bucket on an S3 server, from the bucket's making to its loading elsewhere: what is in the bucket, which requests
# that took, what status, metrics and profile files tell of them, and what happens while the server hangs, is away or refuses.
# level: full
# time: 150
# buckets: ceph swift
. "${BASH_SOURCE%/*}/../lib.sh"

# The plain layer alone; what a history asks for is in history-costs.sh.
export BUCKETHEAD_SNAPSHOT__HISTORY=false

# The relay can be stopped and killed without harm to other tests.
relay() {
    mkdir -p "$T/relay"
    rm -f "$T/relay/port"
    python3 "$SRC/tests/helpers/relay.py" "$T/relay" "${SERVER##*:}" "${1-0}" &
    RELAY=$!
    wait_for 10 test -s "$T/relay/port"
    RELAY_PORT=$(<"$T/relay/port")
}

# away: nobody listens any more
away() {
    kill -KILL "$RELAY"
    wait "$RELAY" 2>/dev/null || true
}

# header_of KEY NAME: a header of an object
header_of() {
    s3 head "$name/$1" | sed -n "s/^$2: //p"
}

# requests OP: how many there were since the last call of `mark`
requests() {
    echo $(($(metric "bhfs_bucket_requests_total{op=\"$1\"}") - $(awk -v op="op=\"$1\"" 'index($1, op) { print $2 }' "$T/marked")))
}
mark() {
    grep '^bhfs_bucket_requests_total' "$CTL/metrics" >"$T/marked"
}
all_requests() {
    metric bhfs_bucket_requests_total
}
failures() {
    metric "bhfs_bucket_failures_total{kind=\"$1\"}"
}

relay
HERE=http://127.0.0.1:$RELAY_PORT
name=made-$$-$RANDOM$RANDOM
U="s3://$name/some/where?endpoint=$HERE"
K=some/where/$SNAP
part=$((5 << 20))
cat >"$BUCKETHEAD_CONFIG" <<END
[bucket]
url = $U
part_size = 5MiB
connections = 3
attempts = 2
retry_base = 10ms
timeout = 1s
connect_timeout = 1s
[snapshot]
interval = 0
stop_timeout = 3s
[profiling]
enabled = true
dir = $T/profile
END
mount_it() {
    mount_at "$MNT" "$STATE" "$U" "$@"
}

# --- the bucket is made ----------------------------------------------------------------------------------------

URL=$U mount_fails
assert_match "$OUT" "$name at $HERE does not exist.*bucket.create" 'without bucket.create'
URL=$U mount_fails -o ro -o bucket.create=true
assert_match "$OUT" "$name at $HERE does not exist" 'bucket.create for those who only read'
mount_it -o bucket.create=true
buckets+=("$name")
assert_eq "$(s3 buckets | grep -cxF "$name")" 1 'buckets of that name'
assert_eq "$(status_of bucket)" "s3://$name/some/where/?endpoint=$HERE"
assert_eq "$(status_of key)" "$K"
assert_eq "$(status_of bucket_endpoint)" "$HERE"
assert_eq "$(status_of bucket_region)" us-east-1
assert_eq "$(status_of bucket_addressing)" path
assert_match "$(status_of bucket_credentials)" . 'where the credentials are from'
assert_eq "$(status_of bucket_errors) $(status_of bucket_retries)" '1 0' 'errors (there was no bucket) and retries'
case "$ON" in
ceph) assert_eq "$(status_of bucket_store_can)" 'if-none-match if-match part-copy' ;;
swift)
    assert_eq "$(status_of bucket_store_can)" part-copy
    log_has 'warning: this store cannot write on condition' || fail 'no warning that there are no conditional writes'
    ;;
esac
assert_eq "$(s3 ls "$name/")$(s3 uploads "$name")" '' 'what a mount leaves in an empty bucket'

# --- flushes ---------------------------------------------------------------------------------------------------

sql 'CREATE TABLE t(x); INSERT INTO t VALUES(1)'
flush
assert_eq "$(header_of "$K" x-amz-meta-bh-snapshot)" "$(status_of snapshot)" 'the id at the object'
assert_eq "$(header_of "$K" content-length)" "$(status_of live_bytes)" 'its size'
s3 get "$name/$K" "$T/first.db"
assert_eq "$(header_of "$K" x-amz-meta-bh-sha256)" "$(sha256sum <"$T/first.db" | cut -d' ' -f1)" 'its SHA-256'
assert_eq "$(sql 'SELECT x FROM t' "$T/first.db")" 1
assert_eq "$(s3 ls "$name/")" "$K" 'the keys after a flush'

sql 'INSERT INTO t VALUES(2)'
mark
flush
s3 get "$name/$K.prev" "$T/prev.db"
cmp "$T/first.db" "$T/prev.db" || fail 'KEY.prev is not the snapshot before'
s3 get "$name/$K" "$T/second.db"
assert_eq "$(sql 'SELECT group_concat(x) FROM t' "$T/second.db")" 1,2
assert_eq "$(requests copy) $(requests put)" '1 1' 'copies and puts of a flush'
case "$ON" in # where nothing is conditional, looks before and after
ceph) assert_eq "$(requests head)" 0 'looks of a flush' ;;
swift) assert_between "$(requests head)" 2 3 'looks of a flush' ;;
esac

before=$(all_requests)
flush
"$BHFS" flush "$MNT"
sleep 0.5
assert_eq "$(all_requests)" "$before" 'requests of flushes without changes, and of an idle mount'

# --- larger than a part ----------------------------------------------------------------------------------------

sql "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 23)
     INSERT INTO t SELECT randomblob(1000000) FROM n"
size=$(status_of live_bytes)
parts=$(((size + part - 1) / part))
assert_between "$parts" 4 10 parts
up=$(status_of bucket_bytes_up)
mark
flush
assert_between $(($(status_of bucket_bytes_up) - up)) "$size" $((size + 4096)) 'bytes sent'
etag=$(header_of "$K" etag)
case "$ON" in
ceph) # a completion is not conditional there: one put, which is
    assert_eq "$(requests put) $(requests multipart)" '1 0' 'puts and multipart requests'
    assert_match "$etag" '^"[0-9a-f]{32}"$' 'the ETag'
    ;;
swift)
    assert_eq "$(requests put) $(requests multipart)" "0 $((parts + 2))" 'puts and multipart requests'
    assert_match "$etag" "^\"[0-9a-f]{32}-$parts\"$" 'the ETag'
    ;;
esac
assert_eq "$(s3 uploads "$name")" '' 'unfinished uploads'
assert_eq "$(header_of "$K" content-length)" "$size"
assert_between "$(metric bhfs_bucket_connects_total)" 1 6 'connections opened'
written=$(digest)
before=$(wc -l <"$T/relay/log")
umount_bh
assert_eq "$(wc -l <"$T/relay/log")" "$before" 'requests of an unmount without changes'

# --- profile files ---------------------------------------------------------------------------------------------

# profiled FILE EXPRESSION: Python's, of x, the list of the lines of FILE
profiled() {
    python3 -c 'import json, sys
x = [json.loads(line) for line in open(sys.argv[1])]
print(eval(sys.argv[2]))' "$T/profile/$1" "$2"
}
assert_eq "$(profiled flushes.jsonl '[f["outcome"] for f in x].count("uploaded")')" 3 'flushes that uploaded'
assert_eq "$(profiled flushes.jsonl 'max(f["bytes"] for f in x)')" "$size" 'bytes in flushes.jsonl'
assert_eq "$(profiled flushes.jsonl '[f for f in x if "error" in f]')" '[]'
assert_between "$(profiled summary.json 'x[0]["bytes_up"]')" "$size" $((size + 100000)) 'bytes_up in summary.json'
assert_between "$(profiled summary.json 'x[0]["operations"]["put"]["count"]')" 2 20 'puts in summary.json'
assert_eq "$(profiled summary.json 'sum(x[0]["errors"].values())')" 1 'errors in summary.json (there was no bucket)'

# --- elsewhere -------------------------------------------------------------------------------------------------

drop_state
mount_it -o ro
assert_eq "$(digest)" "$written" 'the content elsewhere'
assert_eq "$(metric 'bhfs_bucket_requests_total{op="get"}')" "$parts" 'ranges loaded'
assert_eq "$(status_of bucket_bytes_down)" "$size" 'bytes loaded'
assert_between "$(metric bhfs_bucket_connects_total)" 2 4 'connections at once'
assert_eq "$(metric 'bhfs_bucket_requests_total{op="put"}')" 0 'puts of a read-only mount'
umount_bh
drop_state
mount_it
assert_eq "$(digest)" "$written" 'the content elsewhere'
assert_eq "$(status_of bucket_errors) $(status_of bucket_retries)" '0 0' 'errors and retries of a mount'

# --- the server hangs ------------------------------------------------------------------------------------------

sql 'DELETE FROM t WHERE x > 2; VACUUM'
kill -STOP "$RELAY"
sql 'INSERT INTO t VALUES(3)'
must_fail "$BHFS" flush "$MNT"
assert_match "$OUT" "$K.*no byte from or to $HERE for 1.0 s \(bucket.timeout\)" 'the sentence'
assert_eq "$(failures timeout) $(status_of bucket_retries)" "2 1" 'time-outs and retries'
assert_eq "$(status_of unflushed)" yes
assert_match "$(status_of last_error)" "no byte from or to $HERE" last_error
sql 'INSERT INTO t VALUES(4)'
must_fail "$BHFS" umount "$MNT"
mounted "$MNT" || fail 'unmounted with unflushed changes'
kill -CONT "$RELAY"
wait_for 20 "$BHFS" flush "$MNT"
assert_eq "$(status_of unflushed) $(status_of last_error)" 'no none'
s3 get "$name/$K" "$T/third.db"
assert_eq "$(sql 'SELECT group_concat(x) FROM t' "$T/third.db")" 1,2,3,4
s3 get "$name/$K.prev" "$T/prev.db"
assert_eq "$(digest "$T/prev.db")" "$written" 'KEY.prev after the hang'
assert_match "$(profiled flushes.jsonl '[f["error"] for f in x if f["outcome"] == "failed"]')" "no byte from or to $HERE" \
    'the failures in flushes.jsonl'

# --- the server is away ----------------------------------------------------------------------------------------

away
sql 'INSERT INTO t VALUES(5)'
start=$(now_ms)
must_fail "$BHFS" umount --force "$MNT"
assert_match "$OUT" "no answer from $HERE: .*unflushed changes stay in $STATE"
assert_between $(($(now_ms) - start)) 0 15000 'milliseconds of a forced unmount'
ended
"$BHFS" -o live.dir="$STATE" -o log.file="$T/daemon.log" "$U" "$MNT" 2>"$T/said"
daemons[$MNT]=$(status_of pid)
assert_match "$(cat "$T/said")" "unflushed changes of the last mount .* are in $STATE and go on from there"
assert_eq "$(status_of recovered)" "$(sed 's/^bhfs: //' "$T/said")"
assert_eq "$(sql 'SELECT group_concat(x) FROM t')" 1,2,3,4,5
relay "$RELAY_PORT"
flush
umount_bh
mount_at "$MNT" "$T/other" "$U"
assert_eq "$(sql 'SELECT group_concat(x) FROM t')" 1,2,3,4,5
umount_bh
URL="s3://$name/empty?endpoint=http://127.0.0.1:1" mount_fails -o live.dir="$T/none" # no state to go on with
assert_match "$OUT" 'no answer from http://127.0.0.1:1: .*check bucket.endpoint_url'

# --- it refuses ------------------------------------------------------------------------------------------------

if [ "$ON" = ceph ]; then
    mount_at "$MNT" "$T/other" "$U"
    printf '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::%s/*"]}]}' \
        "$name" >"$T/policy"
    s3_curl "$name?policy=" -T "$T/policy"
    sql 'INSERT INTO t VALUES(6)'
    must_fail "$BHFS" flush "$MNT"
    assert_match "$OUT" "$name at $HERE.* 403 AccessDenied.*right"
    assert_between "$(failures refused)" 1 2 'refusals'
    assert_eq "$(failures timeout) $(status_of bucket_retries)" '0 0' 'a refusal is not repeated'
    mkdir "$T/beside"
    MNT=$T/beside URL=$U mount_fails -o live.dir="$T/none"
    assert_match "$OUT" "can be read, but not written \(mount with -o ro to read it\): .* 403 AccessDenied"
    s3_curl "$name?policy=" -X DELETE
    umount_bh
    assert_eq "$(s3 ls "$name/")" "$K
$K.prev" 'the keys at the end'
fi
