#!/usr/bin/env bash
# The commands of [hooks] run before a flush, after one that succeeded and after one that failed; a hook that fails or hangs
# does no harm to the flush, and no credential is in its environment.
# level: quick
# time: 60
# buckets: file ceph
# level@ceph: long
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
: >"$rules"
cat >"$BUCKETHEAD_CONFIG" <<END
[snapshot]
interval = 0
[hooks]
on_flush_start = echo start >>$T/said
on_flush_complete = echo complete >>$T/said
on_flush_error = echo error >>$T/said
END
# said WORD...: what the hooks have said, in order, by and by
said() {
    local wanted=$*
    [ "$(xargs <"$T/said")" = "$wanted" ]
}
# From two sources; the second is the one in use.
export AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-AKIDEXAMPLE} AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-THE-SECRET} AWS_SESSION_TOKEN=THE-TOKEN
export BUCKETHEAD_BUCKET__ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY
unset BHFS_CEPH BHFS_SWIFT # the test itself has them there, too
secrets=(-e "$AWS_SECRET_ACCESS_KEY" -e "$AWS_SESSION_TOKEN")
mount_bh -o bucket.fault="@$rules" -o bucket.attempts=1
sql 'CREATE TABLE t(i)'
flush
wait_for 5 said start complete
sql 'INSERT INTO t VALUES(1)'
echo 'put:eio' >"$rules"
must_fail touch "$CTL/flush"
wait_for 5 said start complete start error
: >"$rules"
flush
wait_for 5 said start complete start error start complete

# Changed while running. A hook that fails is said in the log; one that hangs holds nothing up.
sed -i "s|^on_flush_start = .*|on_flush_start = env >$T/environment|; s|^on_flush_complete = .*|on_flush_complete = exit 7|" "$BUCKETHEAD_CONFIG"
kill -HUP "$DAEMON"
wait_for 10 grep -q 'hooks.on_flush_complete = exit 7' "$CTL/config"
sql 'INSERT INTO t VALUES(2)'
flush
wait_for 5 test -s "$T/environment"
wait_for 5 log_has 'on_flush_complete'
if grep -F "${secrets[@]}" "$T/environment"; then
    fail "a credential is in the environment of a hook"
fi
if grep -F "${secrets[@]}" "$CTL/config" "$CTL/log" "$CTL/status"; then
    fail "a credential is shown"
fi
sed -i "s|^on_flush_start = .*|on_flush_start = sleep 300|" "$BUCKETHEAD_CONFIG"
kill -HUP "$DAEMON"
wait_for 10 grep -q 'hooks.on_flush_start = sleep 300' "$CTL/config"
sql 'INSERT INTO t VALUES(3)'
timeout 40 touch "$CTL/flush" || fail "a hook that hangs held the flush up"
assert_eq "$(snapshot_value 'SELECT count(*) FROM t')" 3
umount_bh
