"""A small correct S3 in memory, path style; settings.quirks makes it deviate the way stores in the wild do."""
import base64
import bisect
import hashlib
import re
import threading
import time
import zlib
from urllib.parse import quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from badserver_auth import UNSIGNED, Refused, decode

XMLNS = 'http://s3.amazonaws.com/doc/2006-03-01/'
PART_MIN = 5 << 20


class Settings:
    """What /_set changes."""

    def __init__(self):
        self.access_key, self.secret, self.token = 'AKIDTEST', 'secret/of+the=test', ''
        self.region = 'us-east-1'
        self.auth, self.anonymous, self.expired = True, False, False
        self.clock = 0.0  # seconds that this server's clock is ahead
        self.page = 1000  # entries of a listing's page
        self.checksum = ''  # kinds that every GET is answered with
        self.tls = 0  # which of the certificates
        self.quirks = set()

    def set(self, name, value):
        old = getattr(self, name)
        if isinstance(old, set):
            value = set(filter(None, value.split(',')))
        elif isinstance(old, bool):
            value = value not in ('', '0')
        else:
            value = type(old)(value)
        setattr(self, name, value)


class Reply:
    def __init__(self, status=200, body=b'', headers=()):
        self.status, self.body, self.headers = status, body, list(headers)

    def set(self, name, value):
        self.drop(name)
        self.headers.append((name, value))

    def drop(self, name):
        self.headers = [(n, v) for n, v in self.headers if n.lower() != name.lower()]


class Object:
    def __init__(self, body, etag, headers, mtime):
        self.body, self.etag, self.headers, self.mtime = body, etag, headers, mtime


class Upload:
    def __init__(self, key, headers, started):
        self.key, self.headers, self.started, self.parts = key, headers, started, {}


class Bucket:
    def __init__(self):
        self.objects, self.uploads, self.sorted = {}, {}, None

    def keys(self):
        if self.sorted is None:
            self.sorted = sorted(self.objects)
        return self.sorted

    def put(self, key, obj):
        if key not in self.objects:
            self.sorted = None
        self.objects[key] = obj

    def remove(self, key):
        if self.objects.pop(key, None):
            self.sorted = None


def xml(root, inner):
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<%s xmlns="%s">%s</%s>' % (root, XMLNS, inner, root)).encode()


def el(name, value):
    return '<%s>%s</%s>' % (name, value, name)


def text_of(raw):
    """Bytes as XML text; control characters the way AWS writes them."""
    text = escape(raw.decode('utf-8', 'replace'))
    return re.sub(r'[\x00-\x08\x0b-\x1f]', lambda m: '&#x%X;' % ord(m[0]), text)


def iso(when):
    return time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when)) + '.%03dZ' % (when % 1 * 1000)


def http_date(when):
    return time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(when))


def error(status, code, message='', resource='', request_id='', headers=(), **elements):
    inner = el('Code', escape(code)) + el('Message', escape(message or code))
    inner += ''.join(el(n, escape(v)) for n, v in elements.items())
    inner += el('Resource', escape(resource)) + el('RequestId', request_id) + el('HostId', 'badserver')
    body = ('<?xml version="1.0" encoding="UTF-8"?>\n<Error>%s</Error>' % inner).encode()
    return Reply(status, body, [('Content-Type', 'application/xml'), *headers])


def checksum_of(kind, body):
    if kind == 'crc32':
        return base64.b64encode(zlib.crc32(body).to_bytes(4, 'big')).decode()
    if kind in ('sha1', 'sha256', 'md5'):
        return base64.b64encode(hashlib.new(kind, body).digest()).decode()
    return None


def children(element, name):
    return [e for e in element.iter() if e.tag.rpartition('}')[2] == name]


def child(element, name):
    found = children(element, name)
    return (found[0].text or '') if found else None


def after_of(req):
    """The key that a listing goes on after."""
    token = req.param('continuation-token')
    if token is None:
        return req.raw_param('start-after') or b''
    try:
        return base64.urlsafe_b64decode(token)
    except ValueError:
        raise Refused(400, 'InvalidArgument', 'The continuation token provided is incorrect') from None


class Store:
    def __init__(self, settings):
        self.settings, self.lock, self.buckets, self.serial = settings, threading.RLock(), {}, 0

    def now(self):
        return time.time() + self.settings.clock

    def quirk(self, name):
        return name in self.settings.quirks

    def perform(self, req, body):
        """The answer to an authenticated request; raises Refused."""
        with self.lock:
            bucket = self.buckets.get(req.bucket)
            if req.op == 'make':
                return self.make(req)
            if bucket is None and req.bucket:
                raise Refused(404, 'NoSuchBucket', 'The specified bucket does not exist', BucketName=req.bucket)
            return getattr(self, 'do_' + req.op)(bucket, req, body)

    def make(self, req):
        if req.bucket == 'taken':
            raise Refused(409, 'BucketAlreadyExists', 'The requested bucket name is not available.')
        if req.bucket in self.buckets:
            raise Refused(409, 'BucketAlreadyOwnedByYou', 'Your previous request to create the bucket succeeded.')
        self.buckets[req.bucket] = Bucket()
        return Reply(200, b'', [('Location', '/' + req.bucket)])

    # --- objects ---

    def find(self, bucket, key):
        if key not in bucket.objects:
            raise Refused(404, 'NoSuchKey', 'The specified key does not exist.', Key=key.decode('utf-8', 'replace'))
        return bucket.objects[key]

    def matches(self, given, obj):
        if given == '*':
            return obj is not None
        if obj is None:
            return False
        if self.quirk('unquoted_etag'):
            return given == obj.etag
        return given == '"%s"' % obj.etag

    def check_conditions(self, bucket, key, req):
        """Of a PUT or a completion."""
        which = 'complete_' if req.op == 'mp_complete' else ''
        if_match, if_none = req.header('if-match'), req.header('if-none-match')
        if (if_match is None and if_none is None) or self.quirk(which + 'cond_ignored'):
            return
        if self.quirk(which + 'cond501'):
            raise Refused(501, 'NotImplemented', 'A header you provided implies functionality that is not implemented.')
        obj = bucket.objects.get(key)
        status = 304 if self.quirk('cond304') else 412
        failed = Refused(status, 'PreconditionFailed', 'At least one of the pre-conditions you specified did not hold')
        if if_match is not None and not self.quirk('if_match_ignored'):
            if obj is None and not self.quirk('absent412'):
                raise Refused(404, 'NoSuchKey', 'The specified key does not exist.')
            if not self.matches(if_match, obj):
                raise failed
        if if_none is not None and not self.quirk('if_none_match_ignored'):
            if if_none != '*':
                raise Refused(501, 'NotImplemented', 'If-None-Match takes * only')
            if obj is not None:
                raise failed

    def check_body(self, req, body):
        payload = req.header('x-amz-content-sha256')
        if payload and payload != UNSIGNED and payload != hashlib.sha256(body).hexdigest():
            raise Refused(400, 'XAmzContentSHA256Mismatch', "The provided 'x-amz-content-sha256' header does not match"
                          ' what was computed.')
        md5 = req.header('content-md5')
        if md5 is not None and md5 != checksum_of('md5', body):
            raise Refused(400, 'BadDigest', 'The Content-MD5 you specified did not match what we received.')
        for name, value in req.headers:
            wanted = name.startswith('x-amz-checksum-') and checksum_of(name[15:], body)
            if wanted and value != wanted:
                raise Refused(400, 'BadDigest', 'The %s you specified did not match.' % name)

    def kept_headers(self, req):
        names = ('content-type', 'content-encoding', 'cache-control', 'x-amz-storage-class',
                 'x-amz-server-side-encryption', 'x-amz-server-side-encryption-aws-kms-key-id')
        return [(n, v) for n, v in req.headers if n.startswith('x-amz-meta-') or n in names]

    def etag_header(self, obj):
        if self.quirk('weak_etag'):
            return 'W/"%s"' % obj.etag
        return obj.etag if self.quirk('bare_etag') else '"%s"' % obj.etag

    def do_put(self, bucket, req, body):
        self.check_body(req, body)
        self.check_conditions(bucket, req.key, req)
        obj = Object(body, hashlib.md5(body).hexdigest(), self.kept_headers(req), self.now())
        bucket.put(req.key, obj)
        return Reply(200, b'', [('ETag', self.etag_header(obj))])

    def do_head(self, bucket, req, body):
        return self.do_get(bucket, req, body)

    def do_get(self, bucket, req, body):
        obj = self.find(bucket, req.key)
        if_match, if_none = req.header('if-match'), req.header('if-none-match')
        if if_match and not self.matches(if_match, obj):
            raise Refused(412, 'PreconditionFailed', 'At least one of the pre-conditions you specified did not hold')
        if if_none and self.matches(if_none, obj):
            return Reply(304, b'', [('ETag', self.etag_header(obj))])
        headers = [('ETag', self.etag_header(obj)), ('Last-Modified', http_date(obj.mtime)), ('Accept-Ranges', 'bytes')]
        headers += [h for h in obj.headers if h[0] != 'x-amz-storage-class']
        part = self.range_of(req, obj)
        for kind in filter(None, self.settings.checksum.split(',')):
            headers.append(('x-amz-checksum-' + kind, checksum_of(kind, obj.body)))
        if part is None:
            return Reply(200, obj.body, headers)
        first, last = part
        headers.append(('Content-Range', 'bytes %d-%d/%d' % (first, last, len(obj.body))))
        return Reply(206, obj.body[first:last + 1], headers)

    def range_of(self, req, obj):
        match = re.fullmatch(r'bytes=(\d*)-(\d*)', req.header('range') or '')
        if not match or not (match[1] or match[2]) or self.quirk('range_ignored'):
            return None
        size = len(obj.body)
        first = int(match[1]) if match[1] else max(0, size - int(match[2]))
        last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
        if first >= size or last < first:
            raise Refused(416, 'InvalidRange', 'The requested range is not satisfiable',
                          [('Content-Range', 'bytes */%d' % size)], ActualObjectSize=str(size))
        return first, last

    def do_delete(self, bucket, req, body):
        bucket.remove(req.key)
        return Reply(204)

    def do_delete_many(self, bucket, req, body):
        if self.quirk('no_delete_many'):
            raise Refused(501, 'NotImplemented', 'A header you provided implies functionality that is not implemented.')
        if not any(n == 'content-md5' or n.startswith('x-amz-checksum-') for n, _ in req.headers):
            raise Refused(400, 'InvalidRequest', 'Missing required header for this request: Content-MD5')
        self.check_body(req, body)
        root = self.parse(body)
        keys = [child(o, 'Key') for o in children(root, 'Object')]
        if not 1 <= len(keys) <= 1000:
            raise Refused(400, 'MalformedXML', 'The XML you provided was not well-formed')
        quiet, inner = child(root, 'Quiet') == 'true', ''
        for key in keys:
            if 'denied' in key and self.quirk('deny_deletes'):
                inner += el('Error', el('Key', escape(key)) + el('Code', 'AccessDenied') + el('Message', 'Access Denied'))
                continue
            bucket.remove(key.encode())
            if not quiet:
                inner += el('Deleted', el('Key', text_of(key.encode())))
        return Reply(200, xml('DeleteResult', inner))

    def parse(self, body):
        try:
            return ElementTree.fromstring(body)
        except ElementTree.ParseError:
            raise Refused(400, 'MalformedXML', 'The XML you provided was not well-formed') from None

    # --- copies ---

    def source(self, req, ignored=False):
        """Of a copy: its bucket's object, with the conditions checked, unless they are ignored."""
        path = decode(req.header('x-amz-copy-source')).lstrip(b'/')
        name, _, key = path.partition(b'/')
        if name.decode() not in self.buckets:
            raise Refused(404, 'NoSuchBucket', 'The specified bucket does not exist')
        obj = self.find(self.buckets[name.decode()], key)
        if_match = req.header('x-amz-copy-source-if-match')
        if if_match and not ignored and not self.quirk('copy_cond_ignored') and not self.matches(if_match, obj):
            raise Refused(412, 'PreconditionFailed', 'At least one of the pre-conditions you specified did not hold')
        return obj

    def do_copy(self, bucket, req, body):
        obj = self.source(req)
        replace = (req.header('x-amz-metadata-directive') or 'COPY').upper() == 'REPLACE'
        copy = Object(obj.body, hashlib.md5(obj.body).hexdigest(),
                      self.kept_headers(req) if replace else obj.headers, self.now())
        bucket.put(req.key, copy)
        return Reply(200, xml('CopyObjectResult', el('LastModified', iso(copy.mtime)) + el('ETag', '"%s"' % copy.etag)))

    # --- multipart ---

    def upload(self, bucket, req):
        upload = bucket.uploads.get(req.param('uploadId'))
        if upload is None or upload.key != req.key:
            raise Refused(404, 'NoSuchUpload', 'The specified upload does not exist.')
        return upload

    def do_mp_begin(self, bucket, req, body):
        self.serial += 1
        upload_id = 'up/load+%06d' % self.serial  # characters that must be encoded in a query
        bucket.uploads[upload_id] = Upload(req.key, self.kept_headers(req), self.now())
        inner = el('Bucket', req.bucket) + el('Key', text_of(req.key)) + el('UploadId', upload_id)
        return Reply(200, xml('InitiateMultipartUploadResult', inner))

    def add_part(self, bucket, req, body):
        upload, number = self.upload(bucket, req), int(req.param('partNumber') or 0)
        if not 1 <= number <= 10000:
            raise Refused(400, 'InvalidArgument', 'Part number must be an integer between 1 and 10000, inclusive')
        part = Object(body, hashlib.md5(body).hexdigest(), [], self.now())
        upload.parts[number] = part
        return part

    def do_mp_part(self, bucket, req, body):
        self.check_body(req, body)
        return Reply(200, b'', [('ETag', self.etag_header(self.add_part(bucket, req, body)))])

    def do_mp_part_copy(self, bucket, req, body):
        if self.quirk('no_part_copy'):
            raise Refused(501, 'NotImplemented', 'A header you provided implies functionality that is not implemented.')
        data = self.source(req, self.quirk('part_copy_cond_ignored')).body
        given = req.header('x-amz-copy-source-range')
        match = re.fullmatch(r'bytes=(\d+)-(\d+)', given or '')
        if given and (not match or int(match[2]) >= len(data) or int(match[1]) > int(match[2])):
            raise Refused(400, 'InvalidArgument', 'The x-amz-copy-source-range value is not valid for the source')
        if match and not self.quirk('part_copy_range_ignored'):
            data = data[int(match[1]):int(match[2]) + 1]
        part = self.add_part(bucket, req, data)
        return Reply(200, xml('CopyPartResult', el('LastModified', iso(part.mtime)) + el('ETag', '"%s"' % part.etag)))

    def do_mp_complete(self, bucket, req, body):
        known = req.param('uploadId') in bucket.uploads
        if self.quirk('complete_repeats') and not known and req.key in bucket.objects:
            return self.completed(bucket, req)
        upload = self.upload(bucket, req)
        named = [(int(child(p, 'PartNumber')), child(p, 'ETag').strip('"')) for p in children(self.parse(body), 'Part')]
        if not named or [n for n, _ in named] != sorted({n for n, _ in named}):
            raise Refused(400, 'InvalidPartOrder', 'The list of parts was not in ascending order.')
        for i, (number, etag) in enumerate(named):
            part = upload.parts.get(number)
            if part is None or part.etag != etag:
                raise Refused(400, 'InvalidPart', 'One or more of the specified parts could not be found.')
            if i + 1 < len(named) and len(part.body) < PART_MIN and not self.quirk('small_parts'):
                raise Refused(400, 'EntityTooSmall', 'Your proposed upload is smaller than the minimum allowed size')
        self.check_conditions(bucket, req.key, req)
        parts = [upload.parts[n] for n, _ in named]
        digest = hashlib.md5(b''.join(bytes.fromhex(p.etag) for p in parts)).hexdigest()
        obj = Object(b''.join(p.body for p in parts), '%s-%d' % (digest, len(parts)), upload.headers, self.now())
        bucket.put(req.key, obj)
        del bucket.uploads[req.param('uploadId')]
        return self.completed(bucket, req)

    def completed(self, bucket, req):
        etag = '' if self.quirk('complete_empty_etag') else '"%s"' % bucket.objects[req.key].etag
        inner = el('Location', 'http://localhost/') + el('Bucket', req.bucket) + el('Key', text_of(req.key))
        return Reply(200, xml('CompleteMultipartUploadResult', inner + el('ETag', etag)))

    def do_mp_abort(self, bucket, req, body):
        self.upload(bucket, req)
        del bucket.uploads[req.param('uploadId')]
        return Reply(204)

    def do_parts(self, bucket, req, body):
        upload, after = self.upload(bucket, req), int(req.param('part-number-marker') or 0)
        most = min(int(req.param('max-parts') or 1000), self.settings.page)
        numbers = [n for n in sorted(upload.parts) if n > after]
        page = numbers[:most]
        inner = el('UploadId', escape(req.param('uploadId'))) + el('IsTruncated', str(len(numbers) > most).lower())
        inner += el('NextPartNumberMarker', page[-1] if page else 0)
        for n in page:
            part = upload.parts[n]
            inner += el('Part', el('PartNumber', n) + el('LastModified', iso(part.mtime))
                        + el('ETag', '"%s"' % part.etag) + el('Size', len(part.body)))
        return Reply(200, xml('ListPartsResult', inner))

    def do_uploads(self, bucket, req, body):
        prefix = req.raw_param('prefix') or b''
        after = (req.raw_param('key-marker') or b'', req.param('upload-id-marker') or '')
        most = min(int(req.param('max-uploads') or 1000), self.settings.page)
        found = sorted((u.key, i, u) for i, u in bucket.uploads.items() if u.key.startswith(prefix))
        if after[0]:
            found = [f for f in found if (f[0], f[1]) > after and (after[1] or f[0] > after[0])]
        page, coded = found[:most], self.coding(req)
        inner = el('IsTruncated', str(len(found) > most).lower())
        if len(found) > most:
            inner += el('NextKeyMarker', coded(page[-1][0])) + el('NextUploadIdMarker', escape(page[-1][1]))
        for key, upload_id, upload in page:
            inner += el('Upload', el('Key', coded(key)) + el('UploadId', upload_id)
                        + el('Initiated', iso(upload.started)))
        return Reply(200, xml('ListMultipartUploadsResult', inner))

    # --- listings ---

    def coding(self, req):
        if req.param('encoding-type') == 'url' and not self.quirk('list_plain'):
            return lambda raw: quote_plus(raw, safe='/')
        return text_of

    def select(self, bucket, prefix, delimiter, after, most):
        """Up to most (key, is_prefix) after `after`, and whether there are more."""
        keys, out = bucket.keys(), []
        i = bisect.bisect_left(keys, prefix)
        if after:
            i = max(i, bisect.bisect_right(keys, after))
        while i < len(keys) and keys[i].startswith(prefix):
            cut = keys[i].find(delimiter, len(prefix)) if delimiter else -1
            rolled = keys[i][:cut + len(delimiter)] if cut >= 0 else None
            if rolled is not None and after and rolled <= after:
                i = bisect.bisect_left(keys, rolled + b'\xff')
                continue
            if len(out) == most:
                return out, True
            out.append((rolled or keys[i], rolled is not None))
            i = bisect.bisect_left(keys, rolled + b'\xff') if rolled else i + 1
        return out, False

    def do_list(self, bucket, req, body):
        prefix, delimiter = req.raw_param('prefix') or b'', req.raw_param('delimiter') or b''
        after = after_of(req)
        most = min(int(req.param('max-keys') or 1000), self.settings.page)
        found, more = self.select(bucket, prefix, delimiter, after, most)
        if most == 0:
            more = False
        return Reply(200, self.page(bucket, req, found, more))

    def page(self, bucket, req, found, more, token=None):
        """The XML of one page; token: '' leaves it out."""
        coded = self.coding(req)
        inner = el('Name', req.bucket) + el('Prefix', coded(req.raw_param('prefix') or b''))
        inner += el('KeyCount', len(found)) + el('MaxKeys', 1000) + el('IsTruncated', str(more).lower())
        if req.param('encoding-type') and not self.quirk('list_plain'):
            inner += el('EncodingType', 'url')
        if more and token != '':
            inner += el('NextContinuationToken', token or base64.urlsafe_b64encode(found[-1][0]).decode())
        chunks = [inner]
        for key, is_prefix in found:
            if is_prefix:
                chunks.append(el('CommonPrefixes', el('Prefix', coded(key))))
                continue
            obj = bucket.objects.get(key) or Object(b'', 'd41d8cd98f00b204e9800998ecf8427e', [], self.now())
            chunks.append('<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>&quot;%s&quot;</ETag>'
                          '<Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>'
                          % (coded(key), iso(obj.mtime), obj.etag, len(obj.body)))
        return xml('ListBucketResult', ''.join(chunks))

    def do_bucket_head(self, bucket, req, body):
        return Reply(200, b'', [('x-amz-bucket-region', self.settings.region)])

    def do_bucket_location(self, bucket, req, body):
        return Reply(200, xml('LocationConstraint', self.settings.region))

    def do_buckets(self, bucket, req, body):
        named = ''.join(el('Bucket', el('Name', name)) for name in self.buckets)
        return Reply(200, xml('ListAllMyBucketsResult', el('Buckets', named)))
