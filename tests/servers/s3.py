#!/usr/bin/env python3
"""A plain S3 client for the tests, with no code of bhfs in it: what upstream, or a person, does to a bucket.

    s3.py mb|rb BUCKET              make a bucket; remove one with everything that is in it
    s3.py put FILE BUCKET/KEY [NAME=VALUE]...       with x-amz-meta-NAME
    s3.py get BUCKET/KEY FILE       the file appears whole or not at all
    s3.py head BUCKET/KEY           its headers, a line each: name: value
    s3.py copy BUCKET/FROM BUCKET/TO
    s3.py rm BUCKET/KEY...
    s3.py ls BUCKET/[PREFIX]        its keys, a line each
    s3.py uploads BUCKET            unfinished multipart uploads: key, tab, upload id
    s3.py buckets

The server is in BHFS_S3: "URL KEY SECRET", the region is us-east-1. The status is 0, 3 if there is no such thing
(404), else 1 with what the server said.
"""
import hashlib, hmac, http.client, os, re, sys, time, urllib.parse

URL, ACCESS, SECRET = os.environ["BHFS_S3"].split()
HOST = URL.split("://")[1].rstrip("/")
EMPTY = hashlib.sha256(b"").hexdigest()


class Refused(Exception):
    pass


def quote(text):
    return urllib.parse.quote(text, safe="-._~")


def request(method, path, query={}, body=None, headers={}, out=None, tries=8):
    """path is /BUCKET/KEY, not encoded. body: bytes or an open file. Returns (headers, body, unless it went to out)."""
    asked = (method, path, query, body, headers, out)
    if body is None:
        sha = EMPTY
    elif isinstance(body, bytes):
        sha = hashlib.sha256(body).hexdigest()
    else:
        digest = hashlib.sha256()
        while block := body.read(1 << 20):
            digest.update(block)
        sha = digest.hexdigest()
        body.seek(0)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = now[:8] + "/us-east-1/s3/aws4_request"
    headers = {"host": HOST, "x-amz-date": now, "x-amz-content-sha256": sha, **headers}
    names = ";".join(sorted(headers))
    path = "/".join(quote(part) for part in path.split("/"))
    line = "&".join(quote(name) + "=" + quote(value) for name, value in sorted(query.items()))
    canonical = "\n".join([method, path, line, *(f"{n}:{headers[n].strip()}" for n in sorted(headers)), "", names, sha])
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + SECRET).encode()
    for word in [*scope.split("/"), text]:
        key = hmac.new(key, word.encode(), "sha256").digest()
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={ACCESS}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
    if body is not None:
        headers["content-length"] = str(len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size)
    connection = http.client.HTTPConnection(HOST, timeout=120)
    connection.request(method, path + ("?" + line if line else ""), body, headers)
    answer = connection.getresponse()
    given = {name.lower(): value for name, value in answer.getheaders()}
    if answer.status == 503 and tries > 1: # a server that is still starting, or a busy machine
        time.sleep(0.5)
        return request(*asked, tries=tries - 1)
    if answer.status == 404:
        sys.exit(3)
    if answer.status >= 300:
        raise Refused(f"{method} {path}: {answer.status} {answer.read(2000).decode(errors='replace')}")
    if out is None:
        return given, answer.read().decode()
    while block := answer.read(1 << 20):
        out.write(block)
    return given, ""


def fields(xml, name):
    """The texts of all elements of that name: enough of XML for what servers answer to encoding-type=url."""
    texts = re.findall(f"<{name}>([^<]*)</{name}>", xml)
    for entity, char in (("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        texts = [text.replace(entity, char) for text in texts]
    return texts


def keys(bucket, prefix=""):
    token = None
    while True:
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
        if token:
            query["continuation-token"] = token
        _, xml = request("GET", "/" + bucket, query)
        yield from (urllib.parse.unquote_plus(key) for key in fields(xml, "Key"))
        token = (fields(xml, "NextContinuationToken") or [None])[0]
        if not token:
            return


def uploads(bucket):
    _, xml = request("GET", "/" + bucket, {"uploads": "", "encoding-type": "url"})
    return list(zip([urllib.parse.unquote_plus(key) for key in fields(xml, "Key")], fields(xml, "UploadId")))


def main(command, *words):
    if command == "mb":
        request("PUT", "/" + words[0])
    elif command == "rb":
        for key, upload in uploads(words[0]):
            request("DELETE", f"/{words[0]}/{key}", {"uploadId": upload})
        for key in list(keys(words[0])):
            request("DELETE", f"/{words[0]}/{key}")
        request("DELETE", "/" + words[0])
    elif command == "put":
        meta = dict(word.split("=", 1) for word in words[2:])
        with open(words[0], "rb") as file:
            request("PUT", "/" + words[1], {}, file, {"x-amz-meta-" + name: meta[name] for name in meta})
    elif command == "get":
        part = words[1] + ".part"
        try:
            with open(part, "wb") as file:
                given, _ = request("GET", "/" + words[0], out=file)
            if os.path.getsize(part) != int(given["content-length"]):
                raise Refused("the body was cut")
            os.replace(part, words[1])
        finally:
            if os.path.exists(part):
                os.unlink(part)
    elif command == "head":
        given, _ = request("HEAD", "/" + words[0])
        print("\n".join(f"{name}: {value}" for name, value in sorted(given.items())))
    elif command == "copy":
        _, xml = request("PUT", "/" + words[1], headers={"x-amz-copy-source": urllib.parse.quote("/" + words[0])})
        if "<Error>" in xml:
            raise Refused(xml)
    elif command == "rm":
        for word in words:
            request("DELETE", "/" + word)
    elif command == "ls":
        bucket, _, prefix = words[0].partition("/")
        for key in keys(bucket, prefix):
            print(key)
    elif command == "uploads":
        for key, upload in uploads(words[0]):
            print(key, upload, sep="\t")
    elif command == "buckets":
        print("\n".join(fields(request("GET", "/")[1], "Name")))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Refused, OSError) as error:
        sys.exit(f"s3.py: {error}")
