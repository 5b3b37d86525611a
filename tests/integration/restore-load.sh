#!/usr/bin/env bash
# Restores and switches of branches under load: four clients that stay connected and keep their statements read and write all
# the while, in a rollback mode and in WAL. Each of them sees whole states only and no error but those of SQLite's own locking; what
# they were told is committed is in the history, and every snapshot of every branch is a whole state.
# level: full
# time: 1200
# buckets: file ceph
. "${BASH_SOURCE%/*}/../lib.sh"

verbs=${BH_VERBS:-${BHFS_LONG:+100}} # of each mode
verbs=${verbs:-10}
seed=${BH_SEED:-$(date +%s)}
echo "seed: $seed (BH_SEED=$seed repeats it)"
for mode in DELETE WAL; do
    live_journal "${mode,,}"
    mount_bh -o snapshot.plain=never -o live.busy_timeout=20s
    python3 "$SRC/tests/helpers/restoreload.py" "$MNT" "$verbs" "$seed" $mode $((60 + verbs * 6)) ||
        fail "journal_mode=$mode, seed $seed"
    assert_eq "$(sql 'PRAGMA integrity_check')" ok "$mode: integrity_check of the live database"
    echo full >"$CTL/verify" || fail "$mode: verify: $(cat "$CTL/verify")"
    ! log_has 'error: clients that have' || fail "$mode: the daemon's log: $(grep 'error: clients' "$CTL/log")"
    umount_bh
    drop_state
    bucket_empty
done
