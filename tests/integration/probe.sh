#!/usr/bin/env bash
# bhfs status --probe: whether the bucket answers, what it can do, and what is in it, as lines "key: value", without a mount;
# it leaves nothing behind, with -o ro it writes nothing at all, and what is wrong is said in one sentence with status 1.
# level: quick
# time: 90
# server: ceph
. "${BASH_SOURCE%/*}/../lib.sh"

# probe WORD...: must succeed; the lines are in $OUT
probe() {
    STATUS=0
    OUT=$("$BHFS" status --probe "$@" 2>"$T/said" </dev/null) || STATUS=$?
    [ $STATUS -eq 0 ] || fail_at_caller "status $STATUS: $(cat "$T/said")"
    ! [ -s "$T/said" ] || fail_at_caller "on stderr: $(cat "$T/said")"
    ! grep -vE '^[a-z0-9_]+: ?' <<<"$OUT" || fail_at_caller "a line that is no \"key: value\""
}

# probe_fails REGEX WORD...: status 1, and one sentence on stderr; the lines so far are in $OUT
probe_fails() {
    local regex=$1
    shift
    STATUS=0
    OUT=$("$BHFS" status --probe "$@" 2>"$T/said" </dev/null) || STATUS=$?
    assert_eq "$STATUS" 1 'the status'
    assert_eq "$(wc -l <"$T/said")" 1 "lines on stderr: $(cat "$T/said")"
    assert_match "$(cat "$T/said")" "^bhfs: .*$regex" 'the sentence'
    ! grep -qF -e "$AWS_SECRET_ACCESS_KEY" "$T/said" - <<<"$OUT" || fail_at_caller 'the secret is shown'
}

# line KEY WANTED: a line of $OUT
line() {
    assert_eq "$(sed -n "s/^$1: //p" <<<"$OUT")" "$2" "$1"
}

# --- a directory -----------------------------------------------------------------------------------------------

probe "$URL"
line bucket "$URL"
line answers yes
line key "$SNAP"
line snapshot none
line branches main
line can_write yes
line can_put_if_unchanged yes
line can_sign_links no
[ -z "$(bucket_ls)" ] || fail "left behind: $(bucket_ls)"
probe_fails "$T/no-such-directory .*does not exist" "file://$T/no-such-directory"
[ ! -e "$T/no-such-directory" ] || fail 'made'
BUCKETHEAD_BUCKET__URL=$URL probe
line bucket "$URL"
must_fail "$BHFS" status --probe "$URL" "$URL"
assert_eq "$STATUS" 2 'two URLs'

# --- a server --------------------------------------------------------------------------------------------------

# The relay tells what was asked.
mkdir "$T/relay"
python3 "$SRC/tests/helpers/relay.py" "$T/relay" "${SERVER##*:}" &
RELAY=$!
wait_for 10 test -s "$T/relay/port"
HERE=http://127.0.0.1:$(<"$T/relay/port")
name=$(s3_bucket probe)
buckets+=("$name")
U="s3://$name/some?endpoint=$HERE"

# asked REGEX: the methods of all requests since the last call match
asked() {
    assert_match "$(cut -d' ' -f1 "$T/relay/log" | tr '\n' ' ')" "^(($1) )+$" 'the requests'
    : >"$T/relay/log"
}

# untouched: nothing of the probe's is in the bucket, unfinished uploads included
untouched() {
    assert_eq "$(s3 ls "$name/")$(s3 uploads "$name")" "${1-}" 'what is in the bucket'
}

probe -o ro "$U"
line answers yes
line snapshot none
line branches main
asked 'GET|HEAD'
probe "$U"
line bucket "s3://$name/some/?endpoint=$HERE"
line endpoint "$HERE"
line region us-east-1
line addressing path
line key "some/$SNAP"
line snapshot none
line can_write yes
line can_put_if_absent yes
line can_put_if_unchanged yes
line can_copy_if_unchanged no # as this server takes the condition and ignores it
line can_copy_parts yes
line can_copy_parts_if_unchanged no
line can_sign_links yes
assert_between "$(sed -n 's/^clock_difference_seconds: //p' <<<"$OUT")" -2 2 'the difference of the clocks'
assert_between "$(($(date -u -d "$(sed -n 's/^server_time: //p' <<<"$OUT")" +%s) - $(date +%s)))" -2 2 "the server's time"
grep -q '^PUT' "$T/relay/log" || fail 'writing was not tried'
asked 'GET|HEAD|PUT|POST|DELETE'
untouched

# The newest snapshot, the branch, and those that there are.
mount_at "$MNT" "$STATE" "$U"
sql 'CREATE TABLE t(x); INSERT INTO t VALUES(randomblob(100000))'
flush
id=$(status_of snapshot) bytes=$(status_of live_bytes) flushed=$(status_of last_flush)
umount_bh
mount_at "$MNT" "$T/side" "$U" -o snapshot.branch=side
sql 'CREATE TABLE u(x)'
flush
side=$(status_of snapshot)
before=$(s3 ls "$name/")
probe "$U" # beside a mount
umount_bh
line snapshot "$id"
line snapshot_bytes "$bytes"
line snapshot_etag "$(s3 head "$name/some/$SNAP" | sed -n 's/^etag: "\(.*\)"$/\1/p')"
line branches 'main side'
assert_between "$(($(date -u -d "$(sed -n 's/^snapshot_time: //p' <<<"$OUT")" +%s) - $(date -u -d "$flushed" +%s)))" -2 2 'the time of the snapshot'
untouched "$before"
probe -o ro -o snapshot.branch=side "$U"
line key "some/$SNAP.branch.side"
line snapshot "$side"
s3_curl "$name/some/other.db" -T "$STATE/last_exit"
probe -o ro -o snapshot.key=other.db "$U"
line snapshot 'of another program'
line branches main

# --- what can be wrong -----------------------------------------------------------------------------------------

probe_fails 'no-such-bucket.*does not exist' "s3://no-such-bucket?endpoint=$HERE"
line answers yes
assert_eq "$(s3 buckets | grep -cx no-such-bucket || true)" 0 'the bucket'
AWS_ACCESS_KEY_ID=AKIDNOBODY probe_fails "some/$SNAP.* 403 InvalidAccessKeyId.*check .*access_key_id" "$U"
(
    AWS_SECRET_ACCESS_KEY=hush-not-the-one
    probe_fails ' 403 SignatureDoesNotMatch.*the secret is wrong' "$U"
)
(
    export AWS_EC2_METADATA_DISABLED=true BUCKETHEAD_BUCKET__ACCESS_KEY_ID='' BUCKETHEAD_BUCKET__SECRET_ACCESS_KEY=''
    probe_fails 'no credentials for the bucket: set bucket.access_key_id .*Looked at: ' "$U"
)
probe_fails '403 .*anonymous' -o bucket.credentials=anonymous "$U"
probe_fails 'part_size = 1MiB: out of range; allowed: 5 MiB to 5 GiB' -o bucket.part_size=1MiB "$U"

# It may be read, but not written: said, and not an error.
printf '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::%s/*"]}]}' \
    "$name" >"$T/policy"
s3_curl "$name?policy=" -T "$T/policy"
probe "$U"
line snapshot "$id"
assert_match "$(sed -n 's/^can_write: //p' <<<"$OUT")" '^no: .*403 AccessDenied' can_write
s3_curl "$name?policy=" -X DELETE

# What answers is something else, nobody, or somebody who says nothing.
mkdir "$T/www"
(cd "$T/www" && exec python3 -u -m http.server --bind 127.0.0.1 0 >"$T/www.log" 2>&1) &
wait_for 10 grep -q port "$T/www.log"
port=$(sed -n 's/.* port \([0-9]*\).*/\1/p' "$T/www.log")
probe_fails "127.0.0.1:$port.*bucket.endpoint_url" "s3://$name?endpoint=http://127.0.0.1:$port"
quick=(-o bucket.attempts=2 -o bucket.retry_base=10ms -o bucket.timeout=1s -o bucket.connect_timeout=1s)
probe_fails 'no answer from https://127.0.0.1:.*SSL.*bucket.endpoint_url' "${quick[@]}" "s3://$name?endpoint=https://127.0.0.1:${HERE##*:}"
kill -STOP "$RELAY"
start=$(now_ms)
probe_fails "no byte from or to $HERE for 1.0 s" "${quick[@]}" "$U"
line answers no
assert_between $(($(now_ms) - start)) 1900 10000 milliseconds
"$BHFS" status --probe "$U" >/dev/null 2>"$T/said" &
pid=$!
sleep 0.5
start=$(now_ms)
kill -TERM "$pid"
STATUS=0
wait "$pid" || STATUS=$?
assert_eq "$STATUS" 1 'the status of one that was interrupted'
assert_between $(($(now_ms) - start)) 0 2000 'milliseconds to its end'
kill -KILL "$RELAY"
wait "$RELAY" 2>/dev/null || true
probe_fails "no answer from $HERE: .*[Cc]onnect.*bucket.endpoint_url" "${quick[@]}" "$U"
line answers no

# --- TLS, with a certificate of its own ------------------------------------------------------------------------

openssl req -x509 -newkey rsa:2048 -nodes -keyout "$T/key.pem" -out "$T/cert.pem" -days 2 -subj /CN=test \
    -addext subjectAltName=IP:127.0.0.1 2>/dev/null
mkdir "$T/tls"
python3 "$SRC/tests/helpers/relay.py" "$T/tls" "${SERVER##*:}" 0 "$T/cert.pem" "$T/key.pem" &
wait_for 10 test -s "$T/tls/port"
port=$(<"$T/tls/port")
U="s3://$name/some?endpoint=https://127.0.0.1:$port"
unset AWS_CA_BUNDLE
probe_fails "certificate of https://127.0.0.1:$port cannot be trusted .*bucket.ca_file" "$U"
probe_fails 'bucket.ca_file' -o bucket.ca_file="$T/key.pem" "$U"
probe_fails "$T/no-such.pem cannot be read" -o bucket.ca_file="$T/no-such.pem" "$U"
probe_fails "localhost.*certificate" -o bucket.ca_file="$T/cert.pem" "s3://$name/some?endpoint=https://localhost:$port"
[ ! -s "$T/tls/log" ] || fail 'a request to somebody who is not trusted'
for payload in auto signed unsigned; do
    probe -o bucket.ca_file="$T/cert.pem" -o bucket.payload=$payload "$U"
    line endpoint "https://127.0.0.1:$port"
    line snapshot "$id"
    line can_write yes
    line can_put_if_unchanged yes
done
AWS_CA_BUNDLE=$T/cert.pem probe -o ro "$U"
line snapshot "$id"

# --- proxies ---------------------------------------------------------------------------------------------------

unset "${!no_proxy@}" "${!NO_PROXY@}"
U="s3://$name/some?endpoint=$SERVER"
http_proxy=http://127.0.0.1:1 probe_fails 'no answer from .*127.0.0.1 port 1' "${quick[@]}" "$U"
printf 'http://user:hush@127.0.0.1:1\n' >"$T/proxy"
chmod 600 "$T/proxy"
probe_fails 'no answer from .*proxy' "${quick[@]}" -o bucket.proxy_file="$T/proxy" "$U"
! grep -q hush "$T/said" || fail "the proxy's password: $(cat "$T/said")"
printf 'none\n' >"$T/proxy"
http_proxy=http://127.0.0.1:1 probe -o bucket.proxy_file="$T/proxy" "$U"
line snapshot "$id"
