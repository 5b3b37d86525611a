#!/usr/bin/env bash
# A mount on a server that misbehaves: what is flushed through resets, lost answers, 503s and pages of HTML is in the bucket
# as it was in the mount; a server that does not answer leaves the mount usable and lets a flush fail in its time; what is
# no S3 server is not mounted, and no damaged byte of a snapshot is taken for one.
# level: full
# time: 180
. "${BASH_SOURCE%/*}/../lib.sh"

bad_server

# rules [LINE...]: what the server does wrong from now on, and its log begins anew
rules() {
    printf '%s\n' "$@" | curl -sS --fail --data-binary @- "$SERVER/_rules"
    curl -sS --fail --data-binary '' "$SERVER/_forget"
}

server_log() {
    curl -sS --fail "$SERVER/_log"
}

was_lost() {
    server_log | grep -q ' lost$'
}

quick=(-o bucket.retry_base=5ms -o bucket.timeout=2s -o bucket.connect_timeout=2s -o bucket.retry_time=10s
    -o bucket.part_size=5MiB)

# --- what is no store of ours is not mounted -------------------------------------------------------------------

# not_mounted SECONDS REGEX
not_mounted() {
    local start
    start=$(now_ms)
    mount_fails "${quick[@]}" -o bucket.retry_time=3s
    assert_between $(($(now_ms) - start)) 0 $(($1 * 1000)) 'ms until the refusal'
    assert_match "$OUT" "$2" 'the refusal'
    case "$OUT" in *secret/of*) fail "a secret in: $OUT" ;; esac
    rm -rf "$STATE"
}
rules 'times=0 do=html'
not_mounted 20 "127\.0\.0\.1|endpoint_url"
rules 'times=0 do=html status=404'
not_mounted 20 '404'
rules 'times=0 do=reply status=404 code=NoSuchBucket'
not_mounted 5 'the bucket b .*does not exist.*bucket\.create'
rules 'times=0 do=reply status=403 code=AccessDenied'
not_mounted 5 'AccessDenied'
rules 'times=0 do=reply status=200 body=""'
not_mounted 20 .
rules 'times=0 do=raw bytes="220 mail.example.org ESMTP\r\n"'
not_mounted 20 'HTTP'
rules 'times=0 do=stall'
not_mounted 30 '127\.0\.0\.1|in time'
AWS_SECRET_ACCESS_KEY=wrong rules
AWS_SECRET_ACCESS_KEY=wrong not_mounted 5 'SignatureDoesNotMatch'

# --- flushes through trouble -----------------------------------------------------------------------------------

rules
mount_bh "${quick[@]}" -o bucket.attempts=9 # as many of its answers are bad by chance
sql 'CREATE TABLE t(i INTEGER PRIMARY KEY, fault); CREATE TABLE big(b)'
flush
count=0

# survives WHAT RULE...: a change and its flush, with the server doing that; the bucket then has what the mount has
survives() {
    local name=$1
    shift
    rules "$@"
    sql "INSERT INTO t(fault) VALUES('$name')"
    count=$((count + 1))
    flush
    server_log | grep -qv -- ' -$' || fail "$name: the server did nothing wrong: $(server_log)"
    rules
    assert_eq "$(snapshot_value 'SELECT max(i), fault FROM t')" "$count|$name" "in the bucket after $name"
    assert_eq "$(digest "$(snap_file)")" "$(digest)" "the snapshot after $name"
    assert_eq "$(status_of unflushed)" no "unflushed after $name"
}
small() {
    survives "reset $1" 'op=put times=2 do=reset' 'op=head do=reset'
    survives "half $1" 'op=put times=2 do=reset_body'
    survives "lost $1" 'op=put do=lost'
    survives "lost for long $1" 'op=put do=lost how=stall'
    survives "slow down $1" 'op=put times=2 do=reply set=retry-after:1'
    survives "failed and done $1" 'op=put do=reply status=500 code=InternalError perform=1'
    survives "page $1" 'op=put times=2 do=html'
    survives "error inside $1" 'op=put do=error200'
    survives "no etag $1" 'op=put drop=etag'
    survives "conflict $1" 'op=put do=reply status=409 code=ConditionalRequestConflict'
    survives "redirect $1" 'do=redirect' 'times=0 do=redirect chance=0.2'
    survives "redirects $1" 'op=put times=6 do=redirect'
    survives "clock $1" 'do=reply status=403 code=RequestTimeTooSkewed'
    survives "copies $1" 'op=copy do=lost' 'op=put do=cut_headers'
    survives "chance $1" 'chance=0.15 times=0 do=reset' 'chance=0.15 times=0 do=lost' \
        'chance=0.15 times=0 do=reply' 'op=put do=lost'
}
small small
curl -sS --fail --data-binary 'clock=86400' "$SERVER/_set"
rules
sql "INSERT INTO t(fault) VALUES('another clock')"
count=$((count + 1))
flush
curl -sS --fail --data-binary 'clock=0' "$SERVER/_set"
assert_eq "$(digest "$(snap_file)")" "$(digest)" 'the snapshot after the clock'

# The same in parts.
sql "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 17)
    INSERT INTO big SELECT randomblob(1000000) FROM c"
flush
# Of parts that are all new, and of some that the bucket has.
survives_anew() {
    sql 'UPDATE big SET b = randomblob(1000000)'
    survives "$@"
}
survives_anew 'parts reset' 'op=mp_part times=3 do=reset_body'
survives_anew 'parts lost' 'op=mp_part nth=2 times=2 do=lost'
survives 'copied parts lost' 'op=mp_part_copy nth=2 times=2 do=lost'
survives 'copied parts failed' 'op=mp_part_copy times=3 do=reply'
survives 'completion lost' 'op=mp_complete do=lost'
survives 'completion failed and done' 'op=mp_complete do=reply status=500 code=InternalError perform=1'
survives 'completion with an error inside' 'op=mp_complete do=error200'
survives_anew 'slow down' 'op=mp_part chance=0.3 times=0 do=reply' 'op=mp_begin do=reply'
assert_eq "$(s3 uploads b)" '' 'unfinished uploads'

# --- a server that does not answer -----------------------------------------------------------------------------

umount_bh
rules
mount_bh "${quick[@]}" -o bucket.timeout=1s -o bucket.retry_time=4s -o snapshot.stop_timeout=3s
sql "INSERT INTO t(fault) VALUES('stalled')"
rules 'times=0 do=stall'
start=$(now_ms)
must_fail_later() {
    attempt timeout 60 "$BHFS" flush "$MNT"
    echo "$STATUS $OUT" >"$T/flushed.new"
    mv "$T/flushed.new" "$T/flushed"
}
must_fail_later &
reads=0 slowest=0
while [ ! -e "$T/flushed" ]; do
    before=$(now_ms)
    sql "INSERT INTO t(fault) VALUES('meanwhile')"
    assert_eq "$(sql "SELECT count(*) > 0 FROM t")" 1
    ls -l "$MNT" >/dev/null
    status_of unflushed >/dev/null
    took=$(($(now_ms) - before))
    [ "$took" -le "$slowest" ] || slowest=$took
    reads=$((reads + 1))
done
assert_between $(($(now_ms) - start)) 1000 30000 'ms until the flush failed'
assert_match "$(cat "$T/flushed")" '^[1-9][0-9]* .*snap\.db.*127\.0\.0\.1' 'what bhfs flush says'
assert_between "$reads" 3 100000 'turns of a client meanwhile'
assert_between "$slowest" 0 3000 'ms of the slowest turn'
assert_eq "$(status_of unflushed)" yes
rules 'times=0 do=reply'
attempt "$BHFS" flush "$MNT"
assert_match "$STATUS $OUT" '^[1-9].*SlowDown' 'a flush to a store that says no'
rules
flush
assert_eq "$(digest "$(snap_file)")" "$(digest)" 'the snapshot, at last'

# It ends, though its server is away; what was not flushed is kept.
sql "INSERT INTO t(fault) VALUES('the last')"
wanted=$(digest)
rules 'times=0 do=stall'
start=$(now_ms)
attempt timeout 100 "$BHFS" umount "$MNT"
assert_between $(($(now_ms) - start)) 1000 20000 'ms until the end'
assert_match "$OUT" 'snap\.db|unflushed' 'what bhfs umount says'
if mounted "$MNT"; then
    kill_daemon
else
    ended
fi
rules
mount_bh "${quick[@]}"
assert_eq "$(digest)" "$wanted" 'after the end without a server'
flush
assert_eq "$(digest "$(snap_file)")" "$wanted" 'and in the bucket'
umount_bh

# The answer to an upload is lost, and the daemon is killed before it can look: the next one knows its own.
for size in small large; do
    mount_bh "${quick[@]}"
    [ $size = small ] || sql 'INSERT INTO big SELECT randomblob(6000000)'
    sql "INSERT INTO t(fault) VALUES('killed $size')"
    wanted=$(digest)
    rules 'op=put|mp_complete do=lost how=stall'
    "$BHFS" flush "$MNT" >/dev/null 2>&1 &
    wait_for 10 was_lost
    kill_daemon
    rules
    mount_bh "${quick[@]}"
    assert_eq "$(digest)" "$wanted" "what is mounted after the end in the middle of a flush ($size)"
    sql "INSERT INTO t(fault) VALUES('after $size')"
    flush
    wanted=$(digest)
    assert_eq "$(digest "$(snap_file)")" "$wanted" "the snapshot after it ($size)"
    umount_bh
done

# --- a start through trouble -----------------------------------------------------------------------------------

# starts RULE...: on a new machine, with the server doing that
starts() {
    drop_state
    rules "$@"
    mount_bh "${quick[@]}"
    assert_eq "$(digest)" "$wanted" "what is mounted with $*"
    rules
    umount_bh
}
starts 'op=get times=4 do=cut'
starts 'op=get times=4 do=reset_answer'
starts 'op=get nth=2 times=2 do=stall_answer at=100000'
starts 'op=get times=2 do=html' 'op=head do=html'
starts 'op=get times=2 do=reply'

# Damage that only the snapshot's own checksum shows, and a server that sends the whole for each part: the plain snapshot, as
# each part of a history has a checksum.
export BUCKETHEAD_SNAPSHOT__HISTORY=false
drop_state
rules 'op=get times=0 do=corrupt'
mount_fails "${quick[@]}"
assert_match "$OUT" 'snap\.db is damaged: its SHA-256' 'the refusal of a damaged snapshot'
rules 'op=get header=range times=0 status=200 drop=content-range'
mount_fails "${quick[@]}"
assert_match "$OUT" 'snap\.db' 'the refusal of a part in place of the whole'
rules
curl -sS --fail --data-binary 'quirks=range_ignored' "$SERVER/_set"
mount_fails "${quick[@]}"
assert_match "$OUT" 'asked for a part of bucketsqlite/snap\.db' 'the refusal of the whole in place of a part'
curl -sS --fail --data-binary 'quirks=' "$SERVER/_set"
rules
starts 'op=get do=reset'
[ ! -s "$T/badserver.err" ] || fail "the server failed: $(cat "$T/badserver.err")"
