#!/usr/bin/env bash
# Credentials from STS (web identity, assumed roles), from a container's and an instance's metadata service: asked as AWS
# documents it, renewed before they expire, and, where a service is away, refuses or talks nonsense, a sentence that says so
# and that holds no secret.
# level: quick
# waits
# time: 60
. "${BASH_SOURCE%/*}/../lib.sh"

M=$T/metadata
mkdir "$M" "$HOME/.aws"
: >"$M/rules"
python3 "$SRC/tests/helpers/metadata-server.py" "$M" 2>"$M/errors" &
SERVER=$!
wait_for 10 test -s "$M/port"
HERE=http://127.0.0.1:$(<"$M/port")
export AWS_ENDPOINT_URL_STS=$HERE AWS_EC2_METADATA_SERVICE_ENDPOINT=$HERE/ AWS_EC2_METADATA_DISABLED=true
export http_proxy=http://127.0.0.1:1 # metadata services are never asked through a proxy
ROLE=arn:aws:iam::123456789012:role/backup

# rules NAME=VALUE...: what the server does from now on; its log begins anew
rules() {
    printf '%s\n' "$@" >"$M/rules"
    : >"$M/log"
}

# asked LINE...: exactly these requests came, in order
asked() {
    assert_eq "$(cat "$M/log")" "$(printf '%s\n' "$@")" "the requests"
}

# creds WORD...: what creds-say says is in $OUT, its log in $T/said
creds() {
    OUT=$("$BHFS_BUILD/tests/helpers/creds-say" "$@" 2>"$T/said") || fail "creds-say: $(cat "$T/said")"
    ! grep -q hush "$T/said" || fail "a secret in the log: $(cat "$T/said")"
}

# refused ERRNO REGEX: no credentials, with a sentence that matches and holds no secret
refused() {
    creds get origin
    case "$OUT" in *hush*) fail "a secret in: $OUT" ;; esac
    assert_match "${OUT%%$'\n'*}" "^error $1 .*$2" "the answer"
    assert_eq "${OUT##*$'\n'}" 'not looked up yet'
}

# --- a web identity --------------------------------------------------------------------------------------------

export no_proxy=127.0.0.1 # of STS
export AWS_WEB_IDENTITY_TOKEN_FILE=$T/token AWS_ROLE_ARN=$ROLE AWS_ROLE_SESSION_NAME='one/two three'
printf 'hush.web-token+1\n' >"$T/token"
rules 'web_token=hush.web-token+1'
creds get id origin left
read -r id secret token <<<"${OUT%%$'\n'*}"
assert_eq "$secret $token" "hush-secret-${id#ASIA} hush-token-${id#ASIA}"
assert_eq "$(sed -n 2,3p <<<"$OUT")" "$id
role $ROLE by AWS_WEB_IDENTITY_TOKEN_FILE"
assert_between "$(tail -n 1 <<<"$OUT")" 3590 3601 'its life'
asked "POST AssumeRoleWithWebIdentity RoleArn=$ROLE RoleSessionName=one/two three Version=2011-06-15 200"

# The token is read again for each renewal; a renewal that fails leaves what is still valid.
rules 'web_token=hush.web-token+1' life=5
(
    sleep 1
    printf 'hush-second' >"$T/token"
    printf 'web_token=hush-second\n' >"$M/rules"
) &
creds id id until:"ASIA$((${id#ASIA} + 2))"
assert_eq "$(wc -l <"$M/log") $(grep -c 200$ "$M/log") ${OUT##*$'\n'}" '2 2 ok'

rules fault=echo
refused EACCES "AssumeRoleWithWebIdentity of $ROLE at $HERE/ is answered with status 403 \(AccessDenied\): sent was .*\*\*\*"
rules web_token=other
refused EACCES 'status 400 \(InvalidIdentityToken\): no such token'
rules fault=garbage
refused EIO "the answer of $HERE/ to AssumeRoleWithWebIdentity is no XML"
rules fault=big
refused EIO 'more than 65536 bytes'
rules fault=500
refused EIO 'status 500'
assert_eq "$(wc -l <"$M/log")" 3 'tries of a server error'
rules web_token=hush-second fault=partial
refused EACCES 'no secret access key is there'
rules web_token=hush-second fault=expired
refused EACCES "had expired at .*is this machine's clock right"
rules web_token=hush-second fault=503 times=1
creds id
assert_match "$OUT" '^ASIA[0-9]+$' 'after one server error'
unset AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN AWS_ROLE_SESSION_NAME

# --- roles of profiles -----------------------------------------------------------------------------------------

cat >"$HOME/.aws/credentials" <<END
[base]
aws_access_key_id = AKIDBASE
aws_secret_access_key = hush-base/+
aws_session_token = hush-base-token
END
cat >"$HOME/.aws/config" <<END
[profile backup]
role_arn = $ROLE
source_profile = base
role_session_name = nightly
external_id = x&y=z
duration_seconds = 900
region = eu-central-1
[profile web]
role_arn = $ROLE
web_identity_token_file = ~/../token
[profile onward]
role_arn = $ROLE-2
source_profile = web
[profile own]
role_arn = $ROLE
source_profile = own
aws_access_key_id = AKIDBASE
aws_secret_access_key = hush-base/+
aws_session_token = hush-base-token
[profile twice]
role_arn = $ROLE-3
source_profile = own
END
chmod 600 "$HOME/.aws/credentials"
export AWS_PROFILE=backup
base='source=AKIDBASE:hush-base/+:hush-base-token'
rules "$base"
creds get origin region
assert_match "$OUT" "^ASIA[0-9]+ hush-secret-[0-9]+ hush-token-[0-9]+
role $ROLE by profile backup of $HOME/.aws/config
eu-central-1$"
asked "POST AssumeRole DurationSeconds=900 ExternalId=x&y=z RoleArn=$ROLE RoleSessionName=nightly Version=2011-06-15 Region=eu-central-1 200"

creds -o bucket.profile=own id
assert_match "$OUT" '^ASIA'
# the keys of a source stand over its role
rules "$base"
creds -o bucket.profile=twice id
asked "POST AssumeRole RoleArn=$ROLE-3 RoleSessionName=bhfs Version=2011-06-15 Region=us-east-1 200"
# a role by a role: what the first gave signs the second
rules web_token=hush-second
creds -o bucket.profile=web id
rules web_token=hush-second "source=ASIA$((${OUT#ASIA} + 1)):hush-secret-$((${OUT#ASIA} + 1)):hush-token-$((${OUT#ASIA} + 1))"
creds -o bucket.profile=onward get
assert_match "$OUT" '^ASIA'
asked "POST AssumeRoleWithWebIdentity RoleArn=$ROLE RoleSessionName=bhfs Version=2011-06-15 200" \
    "POST AssumeRole RoleArn=$ROLE-2 RoleSessionName=bhfs Version=2011-06-15 Region=us-east-1 200"

# Two hours of difference of the clocks: signed by the server's, expiring by ours.
rules "$base" ahead=7200
creds left
assert_between "$OUT" 3590 3601 'its life'
assert_eq "$(grep -c 200$ "$M/log") $(grep -c 403$ "$M/log")" '1 1'

rules 'source=AKIDBASE:hush-other'
refused EACCES 'AssumeRole of .* is answered with status 403 \(InvalidClientTokenId\): another session token'
rules 'source=AKIDBASE:hush-other:hush-base-token' # STS's sentence quotes what was to be signed, the token too
refused EACCES 'SignatureDoesNotMatch\): The request signature we calculated does not match\.$'
rules "$base" fault=echo
refused EACCES 'status 403'
rules "$base" fault=partial
refused EACCES 'no secret access key'
unset AWS_ENDPOINT_URL_STS
export AWS_ENDPOINT_URL=http://127.0.0.1:1/
refused ETIMEDOUT "AssumeRole of $ROLE: no answer from http://127.0.0.1:1"
unset AWS_ENDPOINT_URL
export AWS_ENDPOINT_URL_STS=$HERE
rm -r "$HOME/.aws"
unset AWS_PROFILE

# --- a container -----------------------------------------------------------------------------------------------

unset no_proxy
export AWS_CONTAINER_CREDENTIALS_FULL_URI="$HERE/container?x=1"
printf 'Bearer hush-container\r\n' >"$T/container-token"
export AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=$T/container-token AWS_CONTAINER_AUTHORIZATION_TOKEN=hush-unused
rules 'container_token=Bearer hush-container' life=4
creds origin id sleep:3.5 id sleep:3.5 id origin
assert_eq "$(sed -n '2,4p' <<<"$OUT" | grep ^ASIA | sort -u | wc -l)" 3 'credentials that live for 4 s'
assert_eq "$(sed -n '1p; 5p' <<<"$OUT")" "not looked up yet
the container's metadata service"
assert_eq "$(wc -l <"$M/log")" 3 requests
! grep -v '^GET /container?x=1 200$' "$M/log" || fail 'another request'
rules container_token=other
refused EACCES "the container's metadata service answers with status 401 Unauthorized: no such token"
rules fault=echo
refused EACCES 'status 403 AccessDenied: sent was .*\*\*\*'
rules 'container_token=Bearer hush-container' fault=garbage
refused EIO "the container's metadata service answers with what is no JSON"
rules fault=500 times=2 'container_token=Bearer hush-container'
creds id
assert_match "$OUT" ^ASIA
export AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/
refused ETIMEDOUT "the container's metadata service: no answer from http://127.0.0.1:1"
unset "${!AWS_CONTAINER_@}"

# --- an instance -----------------------------------------------------------------------------------------------

unset AWS_EC2_METADATA_DISABLED
at=/latest/meta-data/iam/security-credentials
rules role=the-role
creds get origin left
assert_match "$OUT" "^ASIA[0-9]+ hush-secret-[0-9]+ hush-token-[0-9]+
the instance's metadata service
3[56]"
asked 'PUT /latest/api/token 200' "GET $at/ 200" "GET $at/the-role 200"
rules stale=1
creds id
asked 'PUT /latest/api/token 200' "GET $at/ 401" 'PUT /latest/api/token 200' "GET $at/ 200" "GET $at/test-role 200"
rules ahead=-7200
creds left
assert_between "$OUT" 3590 3601 'its life by the clock of this machine'

# Rejected by the bucket: asked again, and not twice for the same.
rules life=3600
creds id reject id reject id
read -r -d '' a yes b yes2 c <<<"$OUT" || true
assert_eq "$yes $yes2 $((${a#ASIA} + 1)) $((${b#ASIA} + 1))" "yes yes ${b#ASIA} ${c#ASIA}"

# The source of a role.
mkdir "$HOME/.aws"
printf '[profile i]\nrole_arn=%s\ncredential_source=Ec2InstanceMetadata\n' "$ROLE" >"$HOME/.aws/config"
next=$((${c#ASIA} + 1))
rules "source=ASIA$next:hush-secret-$next:hush-token-$next"
no_proxy=127.0.0.1 creds -o bucket.profile=i id
assert_eq "$OUT" "ASIA$((next + 1))"
rm -r "$HOME/.aws"

# A renewal that fails is a warning while there is something valid, and then an error of this source alone.
rules life=6
(
    sleep 2
    printf 'fault=404\n' >"$M/rules"
) &
creds id sleep:5 id sleep:1.5 id
assert_match "$OUT" "^(ASIA[0-9]+)
ASIA[0-9]+
error EACCES the instance's metadata service $HERE gives no token \(status 404\)$"
assert_eq "$(sed -n 1p <<<"$OUT")" "$(sed -n 2p <<<"$OUT")" 'the id while the renewal fails'
grep -q 'warning: the credentials could not be renewed' "$T/said" || fail "no warning: $(cat "$T/said")"

list='no credentials for the bucket: set bucket.access_key_id and .*Looked at: .*'
rules fault=403 on=/latest/api
refused EACCES "$list metadata service $HERE gives no token \(status 403\)"
rules role=
refused EACCES "$list $HERE: the instance has no role"
rules role=../../x
refused EACCES "$list names a role that cannot be one"
rules fault=garbage on=$at/test-role
refused EACCES "$list answers with what is no JSON"
rules fault=500
refused EACCES "$list $HERE gives no token \(status 500\)"
assert_eq "$(wc -l <"$M/log")" 2 'tries'

# --- no instance -----------------------------------------------------------------------------------------------

# silent SECONDS: it takes no longer than this to say so
silent() {
    local start
    start=$(now_ms)
    refused EACCES "$list AWS_ACCESS_KEY_ID .*AWS_WEB_IDENTITY_TOKEN_FILE.*$HOME/.aws/credentials.*CONTAINER.* does not answer"
    assert_between $(($(now_ms) - start)) 0 "$1" milliseconds
}
rules fault=silent
silent 4000
# Connections that nobody accepts, as where there is no such host.
python3 -c '
import socket, sys, time
s = socket.create_server(("127.0.0.1", 0), backlog=0)
c = [socket.socket() for i in range(3)]
for x in c:
    x.setblocking(False)
    x.connect_ex(s.getsockname())
open(sys.argv[1], "w").write(str(s.getsockname()[1]))
time.sleep(60)' "$T/full" &
wait_for 10 test -s "$T/full"
AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:$(<"$T/full") silent 4000
kill "$SERVER"
wait "$SERVER" || true
silent 2000
! grep . "$M/errors" || fail "the server failed"
