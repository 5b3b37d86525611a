#!/usr/bin/env python3
"""An S3 server for tests, on 127.0.0.1, that misbehaves on demand.

    badserver.py [--bucket NAME]... [--set NAME=VALUE]... [--rule RULE]... [--tls PEM]... [--until-eof]
                 [--port-file FILE]

Prints its two ports (both serve the same) in one line, or writes them to FILE. By itself it is a small correct S3
with objects in memory (badserver_store.py), checking signatures (badserver_auth.py). --until-eof: ends when its
standard input ends. --tls: the second port speaks TLS, with the certificate and key of the PEM file that the setting
`tls` counts (from 0). Settings are the attributes of badserver_store.Settings; key id AKIDTEST, secret
secret/of+the=test.

A rule is a line of NAME=VALUE words, quoted as in a shell. Which requests it is for:
    op=NAME       put get head copy delete delete_many list mp_begin mp_part mp_part_copy mp_complete mp_abort uploads
                  parts make bucket_head ...; or a|b; accept: a connection just made to the second
                  port; default: any but accept
    key=REGEX     that matches the whole key
    header=NAME   that the request has (a lower-case name)
    nth=N         from the Nth such request on (1);  times=M: so many of them (1; 0: all)
    chance=P      by chance, 0 to 1
and what happens (do=, default `edit`), first before the request is performed, then instead, then after:
    reset close   the connection ends when the head was read (how=close: FIN rather than RST)
    reset_body    the same after half of the body
    stall_body    half of the body is read, no more
    stall         seconds=S go by (an hour by default), then the request is served
    never100      no "100 Continue";  expect417: it is refused
    reply         status= code= message= or body= (a file's content: body=@FILE; {n} becomes a number),
                  without performing it;
                  perform=1: although it is performed; early=1: without reading the body, then the connection ends
    html          a page of HTML, status= (200)
    redirect      status= (307) location= (URL, or `other`: the same on the second port, or `self`)
    raw           bytes= (Python escapes) and the end of the connection; keep=1: not the end
    body204       the answer with status 204 and its body all the same
    endless_headers  endless_line  flood100 (count= interim answers, 0: without end)  big_header (size=)
    lost          performed, then reset; how=close, how=stall: likewise
    edit          the answer with status= and any number of set=NAME:VALUE and drop=NAME
    cut reset_answer stall_answer  the answer's body up to at= (bytes; default half), then FIN, RST, silence
    cut_headers reset_headers stall_headers  the same within the head
    pause         the answer's body up to at=, and after seconds= (0.2) the rest
    drip          one byte of the answer's body, from at= on (0), each every= seconds (1)
    long          extra= bytes (default: another answer) after the body;  nolength: no Content-Length, ends with FIN
                  (goodbye: and with TLS's own end)
    chunked       with at=: cut there;  chunked_bad: a size that is none;  endless endless_chunked: a body without end
    corrupt       a byte of the body flipped;  gzip: compressed unasked;  error200: <Error> (code=) with status 200
    close_after   FIN after a whole answer;  reset_next: the next request on the connection meets RST
    list          kind=same_token no_token unordered foreign duplicate repeat empty huge entities deep long_key bad_size
More: GET /_log (one line a request: op method target rule), GET /_creds (a container's credentials), POST /_rules (replaces
all), /_rule (adds), /_set (NAME=VALUE lines), /_fill?bucket=&prefix=&count= (empty objects), /_forget (the log), /_reset
(objects, rules, settings and the log).
"""
import argparse
import json
import random
import re
import shlex
import socket
import ssl
import sys
import threading
import time
from urllib.parse import parse_qs

import badserver_auth as auth
import badserver_store as s3
from badserver_auth import Refused
from badserver_faults import INTERIM, Faults, Gone

REASONS = {200: 'OK', 204: 'No Content', 206: 'Partial Content', 301: 'Moved Permanently', 304: 'Not Modified',
           307: 'Temporary Redirect', 400: 'Bad Request', 403: 'Forbidden', 404: 'Not Found', 409: 'Conflict',
           412: 'Precondition Failed', 500: 'Internal Server Error', 503: 'Service Unavailable'}


class Rule:
    def __init__(self, line):
        self.set, self.drop, self.seen, self.fired, self.given = [], [], 0, 0, {}
        for word in shlex.split(line):
            name, equals, value = word.partition('=')
            if not equals:
                raise ValueError('no NAME=VALUE: ' + word)
            if name in ('set', 'drop'):
                getattr(self, name).append(value)
            else:
                self.given[name] = value
        self.do = self.given.get('do', 'edit')
        if not any(hasattr(Faults, phase + self.do) for phase in ('before_', 'instead_', 'after_')):
            raise ValueError('there is no do=' + self.do)

    def __getitem__(self, name):
        return self.given.get(name)

    def number(self, name, default):
        return type(default)(self.given.get(name, default))

    def is_for(self, op, req):
        if op == 'accept' or self['op'] == 'accept':
            return op == self['op']
        return ((not self['op'] or op in self['op'].split('|'))
                and (not self['key'] or re.fullmatch(self['key'], req.key.decode('utf-8', 'replace')))
                and (not self['header'] or req.header(self['header']) is not None))

    def fires(self):
        self.seen += 1
        times = self.number('times', 1)
        if self.seen < self.number('nth', 1) or (times and self.fired >= times):
            return False
        if self['chance'] and random.random() >= float(self['chance']):
            return False
        self.fired += 1
        return True


class Request:
    def __init__(self, head):
        lines = head.decode('latin-1').split('\r\n')
        self.method, self.target, self.version = lines[0].split(' ')
        self.headers = [(n.lower(), v.strip()) for n, _, v in (line.partition(':') for line in lines[1:])]
        self.raw_path, _, self.raw_query = self.target.partition('?')
        self.query = auth.parse_query(self.raw_query)
        self.params = {n.decode('latin-1'): v for n, v in self.query}
        name, _, key = auth.decode(self.raw_path).lstrip(b'/').partition(b'/')
        if not self.raw_path.startswith('//'):
            key = auth.decode(self.raw_path)[len(name) + 2:]
        self.bucket, self.key, self.op = name.decode('latin-1'), key, None
        self.op = self.classify()

    def header(self, name):
        values = [v for n, v in self.headers if n == name]
        return values[-1] if values else None

    def raw_param(self, name):
        return self.params.get(name)

    def param(self, name):
        value = self.params.get(name)
        return None if value is None else value.decode('latin-1')

    def classify(self):
        copies = self.header('x-amz-copy-source') is not None
        has = self.params.__contains__
        if not self.bucket:
            return 'buckets'
        if not self.key:
            if self.method == 'GET':
                return 'uploads' if has('uploads') else 'bucket_location' if has('location') else 'list'
            return {'PUT': 'make', 'HEAD': 'bucket_head', 'POST': 'delete_many'}.get(self.method, 'nothing')
        if has('uploadId'):
            part = 'mp_part_copy' if copies else 'mp_part'
            return {'PUT': part, 'POST': 'mp_complete', 'DELETE': 'mp_abort', 'GET': 'parts'}.get(self.method, 'nothing')
        if self.method == 'POST':
            return 'mp_begin' if has('uploads') else 'nothing'
        if self.method == 'PUT':
            return 'copy' if copies else 'put'
        return {'GET': 'get', 'HEAD': 'head', 'DELETE': 'delete'}.get(self.method, 'nothing')


class Server:
    def __init__(self):
        self.settings = s3.Settings()
        self.store = s3.Store(self.settings)
        self.rules, self.log, self.lock, self.serial, self.tls = [], [], threading.Lock(), 0, []
        self.listeners = [socket.create_server(('127.0.0.1', 0), backlog=128) for _ in range(2)]
        self.ports = [listener.getsockname()[1] for listener in self.listeners]

    def rule_for(self, op, req=None):
        with self.lock:
            return next((r for r in self.rules if r.is_for(op, req) and r.fires()), None)

    def note(self, req, rule):
        with self.lock:
            self.log.append('%s %s %s %s' % (req.op, req.method, req.target, rule.do if rule else '-'))

    def request_id(self):
        with self.lock:
            self.serial += 1
            return 'BADSERVER%07d' % self.serial

    def serve(self, listener):
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=Connection(self, conn).run, daemon=True).start()

    def administer(self, req, body):
        """The answer's text."""
        what = req.raw_path[2:]
        with self.lock:
            if what == 'rules':
                self.rules = [Rule(line) for line in body.splitlines() if line.strip()]
            elif what == 'rule':
                self.rules += [Rule(line) for line in body.splitlines() if line.strip()]
            elif what == 'set':
                for line in body.splitlines():
                    name, _, value = line.partition('=')
                    self.settings.set(name, value)
            elif what == 'log':
                return ''.join(line + '\n' for line in self.log)
            elif what == 'forget':
                self.log = []
            elif what == 'reset':
                self.rules, self.log = [], []
                self.settings.__init__()
                self.store.buckets = {name: s3.Bucket() for name in self.store.buckets}
            elif what == 'fill':
                self.fill({n: v[0] for n, v in parse_qs(req.raw_query).items()})
            elif what == 'creds':
                return json.dumps({'AccessKeyId': self.settings.access_key, 'SecretAccessKey': self.settings.secret,
                                   'Token': self.settings.token, 'Expiration': s3.iso(time.time() + 3600)})
            else:
                raise ValueError('there is no /_' + what)
        return ''

    def fill(self, args):
        bucket = self.store.buckets[args['bucket']]
        for i in range(int(args['count'])):
            key = (args.get('prefix', '') + args.get('form', '%07d') % i).encode()
            bucket.put(key, s3.Object(b'', 'd41d8cd98f00b204e9800998ecf8427e', [], time.time()))


class Connection(Faults):
    def __init__(self, server, conn):
        self.server, self.conn, self.buffer, self.open = server, conn, b'', True
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # --- the wire ---

    def fill(self):
        data = self.conn.recv(1 << 16)
        if not data:
            raise Gone
        self.buffer += data

    def read_head(self):
        while b'\r\n\r\n' not in self.buffer:
            if len(self.buffer) > 1 << 17:
                raise Gone
            self.fill()
        head, _, self.buffer = self.buffer.partition(b'\r\n\r\n')
        return head

    def read_exactly(self, size):
        parts, have = [self.buffer], len(self.buffer)
        while have < size:
            data = self.conn.recv(1 << 20)
            if not data:
                raise Gone
            parts.append(data)
            have += len(data)
        whole = b''.join(parts)
        self.buffer = whole[size:]
        return whole[:size]

    def send(self, data):
        self.conn.sendall(data)

    def run(self):
        try:
            second = self.conn.getsockname()[1] == self.server.ports[1]
            rule = self.server.rule_for('accept') if second else None
            if rule and rule.do == 'stall':
                self.stall(rule)
            elif rule:
                self.end(rule)
            if second and self.server.tls:
                context = self.server.tls[self.server.settings.tls]
                self.conn = context.wrap_socket(self.conn, server_side=True)
            while self.open:
                self.one()
        except (Gone, OSError):
            pass
        finally:
            self.conn.close()

    # --- a request ---

    def one(self):
        req = Request(self.read_head())
        size = int(req.header('content-length') or 0)
        self.open = (req.header('connection') or '').lower() != 'close'
        if req.raw_path.startswith('/_'):
            return self.administrative(req, self.read_exactly(size).decode('latin-1'))
        rule = self.server.rule_for(req.op, req)
        self.server.note(req, rule)
        if rule and hasattr(self, 'before_' + rule.do):
            getattr(self, 'before_' + rule.do)(rule, req, size)
        if req.header('expect') and size and not (rule and rule.do == 'never100'):
            self.send(INTERIM)
        body = b'' if rule and rule['early'] else self.read_exactly(size)
        if rule and hasattr(self, 'instead_' + rule.do):
            if rule['perform']:
                self.perform(req, body)
            reply = getattr(self, 'instead_' + rule.do)(rule, req)
            if reply is None:
                return
            self.date(reply)
        else:
            reply = self.perform(req, body)
        if rule and rule['early']:
            self.send(self.head(req, reply) + reply.body)
            self.reset()
        if rule:
            for header in rule.drop:
                reply.drop(header)
            for header in rule.set:
                reply.set(*header.split(':', 1))
        if rule and hasattr(self, 'after_' + rule.do):
            return getattr(self, 'after_' + rule.do)(rule, req, reply)
        self.send(self.head(req, reply) + self.body_of(req, reply))

    def administrative(self, req, body):
        try:
            status, text = '200 OK', self.server.administer(req, body)
        except (ValueError, KeyError, AttributeError) as problem:
            status, text = '400 Bad', str(problem) + '\n'
        data = text.encode()
        self.send(('HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n' % (status, len(data))).encode() + data)

    def perform(self, req, body):
        request_id = self.server.request_id()
        store = self.server.store
        try:
            if req.header('transfer-encoding') or (req.method in ('PUT', 'POST') and not req.header('content-length')):
                self.open = False
                raise Refused(411, 'MissingContentLength', 'You must provide the Content-Length HTTP header.')
            auth.check(self.server.settings, req, store.now())
            if req.op == 'nothing':
                raise Refused(405, 'MethodNotAllowed', 'The specified method is not allowed against this resource.')
            reply = store.perform(req, body)
        except Refused as r:
            reply = s3.error(r.status, r.code, r.message, req.raw_path, request_id, r.headers, **r.elements)
        self.date(reply)
        reply.headers.append(('x-amz-request-id', request_id))
        return reply

    def date(self, reply):
        if 'no_date' not in self.server.settings.quirks:
            reply.headers.append(('Date', s3.http_date(self.server.store.now())))

    def head(self, req, reply, length=None):
        reason = REASONS.get(reply.status, 'Status')
        lines = ['HTTP/1.1 %d %s' % (reply.status, reason)]
        names = [n.lower() for n, _ in reply.headers]
        if length is None and 'content-length' not in names and reply.status not in (204, 304):
            length = len(reply.body)
        if length is not None and length >= 0:
            reply.headers.append(('Content-Length', str(length)))
        lines += ['%s: %s' % header for header in reply.headers]
        return '\r\n'.join(lines + ['', '']).encode('latin-1')

    def body_of(self, req, reply):
        return b'' if req.method == 'HEAD' or reply.status in (204, 304) else reply.body


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bucket', action='append', default=[])
    parser.add_argument('--set', action='append', default=[])
    parser.add_argument('--rule', action='append', default=[])
    parser.add_argument('--tls', action='append', default=[])
    parser.add_argument('--until-eof', action='store_true')
    parser.add_argument('--port-file')
    args = parser.parse_args()
    server = Server()
    server.store.buckets = {name: s3.Bucket() for name in args.bucket or ['b']}
    server.rules = [Rule(line) for line in args.rule]
    for pem in args.tls:
        server.tls.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        server.tls[-1].load_cert_chain(pem)
    for setting in args.set:
        name, _, value = setting.partition('=')
        server.settings.set(name, value)
    for listener in server.listeners:
        threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
    text = '%d %d\n' % tuple(server.ports)
    if args.port_file:
        with open(args.port_file, 'w', encoding='ascii') as f:
            f.write(text)
    else:
        print(text, end='', flush=True)
    if args.until_eof:
        while sys.stdin.buffer.read1(4096):
            pass
    else:
        threading.Event().wait()


if __name__ == '__main__':
    main()
