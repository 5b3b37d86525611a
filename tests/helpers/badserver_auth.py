"""SigV4 as a server checks it: written from AWS's documents, not from the code under test."""
import calendar
import hashlib
import hmac
import re
import time
from urllib.parse import quote, unquote_to_bytes

UNSIGNED = 'UNSIGNED-PAYLOAD'


class Refused(Exception):
    """A request that is answered with an S3 error."""

    def __init__(self, status, code, message='', headers=(), **elements):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code
        self.headers, self.elements = list(headers), elements


def decode(text):
    """As S3 does it: a '+' that is not encoded is a space, in the path, too."""
    return unquote_to_bytes(text.replace('+', ' '))


def encode(raw, safe=''):
    return quote(raw, safe=safe + '-._~')


def parse_query(text):
    """'a=1&b' -> [(b'a', b'1'), (b'b', b'')]"""
    pairs = []
    for item in text.split('&') if text else []:
        name, _, value = item.partition('=')
        pairs.append((decode(name), decode(value)))
    return pairs


def parse_amz_date(text):
    if not re.fullmatch(r'\d{8}T\d{6}Z', text or ''):
        raise Refused(403, 'AccessDenied', 'X-Amz-Date is missing or malformed')
    return calendar.timegm(time.strptime(text, '%Y%m%dT%H%M%SZ'))


def hmac256(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature(secret, date, region, service, amz_date, canonical):
    key = ('AWS4' + secret).encode()
    for step in (date, region, service, 'aws4_request'):
        key = hmac256(key, step)
    scope = '/'.join((date, region, service, 'aws4_request'))
    to_sign = '\n'.join(('AWS4-HMAC-SHA256', amz_date, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    return hmac256(key, to_sign).hex()


def canonical_request(req, query, signed, payload_hash):
    lines = [req.method, encode(decode(req.raw_path), '/')]
    lines.append('&'.join(sorted(encode(n) + '=' + encode(v) for n, v in query)))
    for name in signed:
        values = [v for n, v in req.headers if n == name]
        if not values:
            raise Refused(400, 'AuthorizationHeaderMalformed', 'the signed header %s is not there' % name)
        lines.append(name + ':' + ','.join(' '.join(v.split()) for v in values))
    lines += ['', ';'.join(signed), payload_hash]
    return '\n'.join(lines)


def check_signed_headers(req, signed):
    """Every x-amz-* header and the host must be among them, in order."""
    need = {n for n, _ in req.headers if n == 'host' or n.startswith('x-amz-')}
    if signed != sorted(signed) or need - set(signed):
        raise Refused(403, 'AccessDenied', 'There were headers present in the request which were not signed: '
                      + ', '.join(sorted(need - set(signed))))


def check_scope(settings, scope, amz_date, presigned):
    malformed = 'AuthorizationQueryParametersError' if presigned else 'AuthorizationHeaderMalformed'
    if len(scope) != 5 or scope[4] != 'aws4_request':
        raise Refused(400, malformed, 'the credential is malformed')
    key, date, region, service, _ = scope
    if key != settings.access_key:
        raise Refused(403, 'InvalidAccessKeyId',
                      'The AWS Access Key Id you provided does not exist in our records.', AWSAccessKeyId=key)
    if date != amz_date[:8] or service != 's3':
        raise Refused(400, malformed, 'the credential has another date or service')
    if region != settings.region:
        raise Refused(400, malformed, "The authorization header is malformed; the region '%s' is wrong; expecting '%s'"
                      % (region, settings.region), [('x-amz-bucket-region', settings.region)], Region=settings.region)


def check_time(settings, when, now):
    if abs(when - now) > 900:
        form = '%Y-%m-%dT%H:%M:%SZ'
        raise Refused(403, 'RequestTimeTooSkewed',
                      'The difference between the request time and the current time is too large.',
                      RequestTime=time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(when)),
                      ServerTime=time.strftime(form, time.gmtime(now)), MaxAllowedSkewMilliseconds='900000')


def check_token(settings, token):
    if settings.expired:
        raise Refused(400, 'ExpiredToken', 'The provided token has expired.')
    if settings.token and token != settings.token:
        raise Refused(400 if token else 403, 'InvalidToken' if token else 'InvalidAccessKeyId',
                      'The provided token is malformed or otherwise invalid.')


def compare(settings, claimed, computed, canonical):
    if not hmac.compare_digest(claimed, computed):
        raise Refused(403, 'SignatureDoesNotMatch', 'The request signature we calculated does not match the signature'
                      ' you provided. Check your key and signing method.', CanonicalRequest=canonical)


def check_header(settings, req, now):
    match = re.fullmatch(r'AWS4-HMAC-SHA256 +Credential=([^, ]+), *SignedHeaders=([^, ]+), *Signature=([0-9a-f]{64})',
                         req.header('authorization') or '')
    if not match:
        raise Refused(400, 'InvalidArgument', 'Unsupported Authorization Type')
    scope, signed = match[1].split('/'), match[2].split(';')
    amz_date = req.header('x-amz-date')
    when = parse_amz_date(amz_date)
    payload = req.header('x-amz-content-sha256')
    if not payload:
        raise Refused(400, 'InvalidRequest', 'Missing required header for this request: x-amz-content-sha256')
    check_scope(settings, scope, amz_date, False)
    check_token(settings, req.header('x-amz-security-token'))
    check_time(settings, when, now)
    check_signed_headers(req, signed)
    canonical = canonical_request(req, req.query, signed, payload)
    compare(settings, match[3], signature(settings.secret, scope[1], scope[2], scope[3], amz_date, canonical), canonical)
    return payload


def check_presigned(settings, req, now):
    value = {n.decode('latin-1'): v.decode('latin-1') for n, v in req.query}
    scope = value.get('X-Amz-Credential', '').split('/')
    amz_date = value.get('X-Amz-Date', '')
    when = parse_amz_date(amz_date)
    seconds = value.get('X-Amz-Expires', '')
    if value.get('X-Amz-Algorithm') != 'AWS4-HMAC-SHA256' or not re.fullmatch(r'\d{1,6}', seconds) \
            or not 1 <= int(seconds) <= 604800:
        raise Refused(400, 'AuthorizationQueryParametersError', 'X-Amz-Algorithm or X-Amz-Expires is wrong')
    check_scope(settings, scope, amz_date, True)
    check_token(settings, value.get('X-Amz-Security-Token'))
    if when - 900 > now or now > when + int(seconds):
        raise Refused(403, 'AccessDenied', 'Request has expired')
    signed = value.get('X-Amz-SignedHeaders', '').split(';')
    check_signed_headers(req, signed)
    query = [(n, v) for n, v in req.query if n != b'X-Amz-Signature']
    canonical = canonical_request(req, query, signed, UNSIGNED)
    compare(settings, value.get('X-Amz-Signature', ''),
            signature(settings.secret, scope[1], scope[2], scope[3], amz_date, canonical), canonical)
    return UNSIGNED


def check(settings, req, now):
    """The payload's hash as it was signed; raises Refused."""
    if not settings.auth:
        return UNSIGNED
    if req.header('authorization'):
        return check_header(settings, req, now)
    if any(n == b'X-Amz-Signature' for n, _ in req.query):
        return check_presigned(settings, req, now)
    if settings.anonymous:
        return UNSIGNED
    raise Refused(403, 'AccessDenied', 'Access Denied')
