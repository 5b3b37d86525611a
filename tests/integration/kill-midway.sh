#!/usr/bin/env bash
# kill -9, and the power cut, while the daemon swaps the whole content: in the middle of a restore at mount, and of an
# import, into a database in a rollback mode, in WAL, and in WAL with a client connected. The next mount finds the old
# content or the new one, whole, and the bucket's snapshot where nothing else is.
# level: full
# time: 300
# buckets: file ceph
# level@ceph: long
. "$(dirname "${BASH_SOURCE[0]}")/../load.sh" || exit 1

rounds=${BH_ROUNDS:-${BHFS_LONG:+40}}
rounds=${rounds:-8}
say_seed
live_journal delete
mount_bh -o snapshot.interval=0
helper txnbench -C -m 40 "$DB"
sql 'CREATE TABLE which(name TEXT); INSERT INTO which VALUES ("one")'
"$BHFS" export "$MNT" "$T/one.db"
sql 'UPDATE which SET name = "two"; UPDATE big SET x = zeroblob(990) WHERE id % 3 = 0; CREATE TABLE extra(i); VACUUM'
"$BHFS" export "$MNT" "$T/two.db"
umount_bh
declare -A wanted=([one]=$(digest "$T/one.db") [two]=$(digest "$T/two.db"))
assert_eq "$(digest "$(snap_file)")" "${wanted[two]}" 'the snapshot'

# after_cut: what a power cut leaves takes the state directory's place, every other time.
after_cut() {
    [ $(($1 % 2)) = 0 ] || return 0
    rm -rf "$STATE"
    cp -a "$T/shadow" "$STATE"
}

# mount_power: with the power cut's shadow of what was synced.
power=(-o snapshot.interval=0 -o live.powercut_dir="$T/shadow")

for ((round = 1; round <= rounds; round++)); do
    drop_state
    rm -rf "$T/shadow"
    random ms 1 250
    "$BHFS" -f -o live.dir="$STATE" "${power[@]}" "$URL" "$MNT" 2>"$T/mount.err" &
    pid=$!
    sleep_ms "$ms"
    kill -KILL "$pid" || fail "the daemon ended by itself: $(cat "$T/mount.err")"
    wait "$pid" || true
    unmount_dead "$MNT"
    [ -d "$STATE" ] && [ -d "$T/shadow" ] && after_cut "$round"
    mount_bh "${power[@]}"
    assert_eq "$(digest)" "${wanted[two]}" "round $round, killed $ms ms after the restore began (seed $SEED)"
    umount_bh
done
echo "$rounds restores interrupted"

seen=
for ((round = 1; round <= rounds; round++)); do
    mount_bh "${power[@]}"
    if [ $((round % 4)) -ge 2 ]; then file_mode=wal; else file_mode=delete; fi
    assert_eq "$(sql "PRAGMA journal_mode=$file_mode")" $file_mode "the change of mode with nobody else there"
    before=$(sql 'SELECT name FROM which')
    if [ $((round % 4)) = 3 ]; then
        session beside
        assert_eq "$(ask beside 'SELECT name FROM which')" "$before" 'what the client that stays sees'
    fi
    if [ "$before" = one ]; then other=two; else other=one; fi
    random ms 1 700
    "$BHFS" import "$T/$other.db" "$MNT" >"$T/import.out" 2>&1 &
    importer=$!
    sleep_ms "$ms"
    kill_daemon
    [ $((round % 4)) != 3 ] || kill_session beside
    status=0
    wait "$importer" || status=$?
    after_cut "$round"
    mount_bh "${power[@]}"
    after=$(sql 'SELECT name FROM which')
    assert_eq "$(digest)" "${wanted[$after]}" "round $round, killed $ms ms after the import began: content $after (seed $SEED)"
    integrity
    [ "$status" -ne 0 ] || assert_eq "$after" "$other" "round $round: the import said that it was done (seed $SEED)"
    [ "$after" = "$before" ] && seen+=o || seen+=n
    flush
    assert_eq "$(digest "$(snap_file)")" "${wanted[$after]}" "round $round: the snapshot after an interrupted import"
    umount_bh
done
echo "$rounds imports interrupted (o: the old content, n: the new): $seen"
