#!/usr/bin/env bash
# bhfs flush while files are uploaded: on a terminal a line that is written over, with files and bytes, and gone at the end; nothing
# where there is no terminal, but lines with -v. The numbers are those of .ctl/status.
# level: full
# time: 90
. "${BASH_SOURCE%/*}/../lib.sh"

rules=$T/rules
echo 'put:delay=1s:key=files/*' >"$rules"
mount_bh -o bucket.fault="@$rules" -o bucket.connections=8
write_files() { for n in $(seq 40); do echo "$1 content of $n" >"$MNT/files/$n"; done; }

write_files first
script -qec "'$BHFS' flush '$MNT'" /dev/null >"$T/terminal" </dev/null || fail "the flush failed: $(cat "$T/terminal")"
tr '\r' '\n' <"$T/terminal" | sed -n 's/.*flush: uploading files: \([0-9]*\) of \([0-9]*\), \([0-9.]*\) of \([0-9.]*\) \(k\?B\).*/\1 \2 \3 \4 \5/p' >"$T/shown"
[ "$(wc -l <"$T/shown")" -ge 5 ] || fail "hardly shown: $(tr '\r' '\n' <"$T/terminal")"
awk '$1 < a || $2 < 30 || $2 > 40 || $1 > $2 || $3 > $4 || $3 < b { exit 1 } { a = $1; b = $3 } END { exit a < 10 || b == 0 }' "$T/shown" ||
    fail "the numbers: $(cat "$T/shown")"
assert_eq "$(tail -c 4 "$T/terminal" | od -An -tx1 | tr -d ' ')" 0d1b5b4b "the end, at which the line is gone"
assert_eq "$(tr -d '\r' <"$T/terminal" | wc -l)" 0 "lines that stay on the terminal"

write_files second
"$BHFS" flush "$MNT" >"$T/out" 2>&1 </dev/null &
flusher=$!
under_way() { [ "$(status_of flush_under_way)" = "uploading files" ] && [ "$(status_of flush_files_done)" -gt 0 ]; }
wait_for 20 under_way
assert_between "$(status_of flush_files_total)" 30 40 flush_files_total
assert_between "$(status_of flush_bytes_total)" 600 900 flush_bytes_total
python3 -c "import json; s = json.load(open('$CTL/status.json')); assert 0 <= s['flush_bytes_done'] <= s['flush_bytes_total'], s"
wait "$flusher" || fail "the flush failed: $(cat "$T/out")"
assert_eq "$(cat "$T/out")" "" "what is said where nobody looks"
assert_eq "$(status_of flush_under_way)" none
assert_eq "$(status_of flush_files_total)" "" "flush_files_total without a flush"

write_files third
"$BHFS" flush -v "$MNT" >"$T/out" 2>"$T/lines" </dev/null
assert_eq "$(cat "$T/out")" "" "standard output"
[ "$(grep -cE '^flush: uploading files: [0-9]+ of [0-9]+, [0-9.]+ of [0-9.]+ kB$' "$T/lines")" -ge 2 ] || fail "-v: $(cat "$T/lines")"
if grep -q $'[\r\033]' "$T/lines"; then fail "-v writes over its lines, without a terminal"; fi
assert_eq "$(sort "$T/lines" | uniq -d)" "" "lines that say nothing new"

must_fail "$BHFS" flush -x "$MNT"
assert_eq "$STATUS" 2
: >"$rules"
umount_bh
