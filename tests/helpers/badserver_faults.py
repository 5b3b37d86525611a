"""What badserver.py's rules do: before_NAME when the head of the request was read, instead_NAME to make up an answer,
after_NAME to send the right one wrongly; list_KIND for pages of a listing."""
import gzip
import re
import socket
import struct
import time

import badserver_store as s3

HTML = b'<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n'
INTERIM = b'HTTP/1.1 100 Continue\r\n\r\n'


class Gone(Exception):
    """The connection is over."""


def unescape(text):
    return text.encode('latin-1').decode('unicode_escape').encode('latin-1')


class Faults:
    """Of a connection: it has conn, server, send(), read_exactly(), head(), body_of() and one()."""

    def reset(self):
        self.conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        raise Gone

    def end(self, rule):
        """As how= says; RST by default."""
        if rule['how'] == 'stall':
            self.stall(rule)
        if rule['how'] != 'close':
            self.reset()
        raise Gone

    def stall(self, rule):
        time.sleep(rule.number('seconds', 3600.0))

    # --- before the body was read ---

    def before_reset(self, rule, req, size):
        self.end(rule)

    def before_close(self, rule, req, size):
        raise Gone

    def before_reset_body(self, rule, req, size):
        self.continue_for(req)
        self.read_exactly(size // 2)
        self.end(rule)

    def before_stall_body(self, rule, req, size):
        self.continue_for(req)
        self.read_exactly(size // 2)
        self.stall(rule)
        raise Gone

    def continue_for(self, req):
        if req.header('expect'):
            self.send(INTERIM)

    def before_never100(self, rule, req, size):
        pass  # what the rule leaves out is in one()

    def before_stall(self, rule, req, size):
        self.stall(rule)

    def before_expect417(self, rule, req, size):
        if req.header('expect'):
            self.send(b'HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
            raise Gone

    # --- instead of performing it ---

    def instead_reply(self, rule, req):
        status = rule.number('status', 503)
        if rule['body'] is None:
            return s3.error(status, rule['code'] or 'SlowDown', rule['message'] or 'Please reduce your request rate.')
        body = rule['body']
        data = open(body[1:], 'rb').read() if body.startswith('@') else unescape(body)
        return s3.Reply(status, data.replace(b'{n}', self.server.request_id().encode()))

    def instead_html(self, rule, req):
        return s3.Reply(rule.number('status', 200), HTML, [('Content-Type', 'text/html')])

    def instead_redirect(self, rule, req):
        ports = self.server.ports
        here = self.conn.getsockname()[1]
        where = rule['location'] or 'other'
        if where in ('other', 'self'):
            port = here if where == 'self' else ports[1 - ports.index(here)]
            where = 'http://127.0.0.1:%d%s' % (port, req.target)
        reply = s3.error(rule.number('status', 307), rule['code'] or 'TemporaryRedirect', 'Please re-send this request',
                         Endpoint=re.sub('^https?://|/.*$', '', where))
        reply.set('Location', where)
        return reply

    def instead_raw(self, rule, req):
        self.send(unescape(rule['bytes']))
        if not rule['keep']:
            raise Gone

    def endless(self, piece):
        while True:
            self.send(piece)

    def instead_endless_headers(self, rule, req):
        self.send(b'HTTP/1.1 200 OK\r\n')
        self.endless(b'X-Another-Header: and-its-value-that-is-not-short\r\n' * 1000)

    def instead_endless_line(self, rule, req):
        self.send(b'HTTP/1.1 200 OK\r\nX-Header: ')
        self.endless(b'x' * 65536)

    # --- after it was performed ---

    def after_lost(self, rule, req, reply):
        self.end(rule)

    def after_edit(self, rule, req, reply):
        reply.status = rule.number('status', reply.status)
        self.send(self.head(req, reply) + self.body_of(req, reply))

    def after_body204(self, rule, req, reply):
        reply.status = 204
        self.send(self.head(req, reply, -1) + (reply.body or b'a body that must not be'))

    def partly(self, rule, data):
        self.send(data[:rule.number('at', len(data) // 2)])

    def after_cut(self, rule, req, reply):
        self.send(self.head(req, reply))
        self.partly(rule, reply.body)
        raise Gone

    def after_reset_answer(self, rule, req, reply):
        self.send(self.head(req, reply))
        self.partly(rule, reply.body)
        time.sleep(0.1)  # a reset makes the other side drop what it has not read
        self.reset()

    def after_stall_answer(self, rule, req, reply):
        self.send(self.head(req, reply))
        self.partly(rule, reply.body)
        self.stall(rule)
        raise Gone

    def after_pause(self, rule, req, reply):
        at = rule.number('at', len(reply.body) // 2)
        self.send(self.head(req, reply) + reply.body[:at])
        time.sleep(rule.number('seconds', 0.2))
        self.send(reply.body[at:])

    def after_cut_headers(self, rule, req, reply):
        self.partly(rule, self.head(req, reply))
        raise Gone

    def after_reset_headers(self, rule, req, reply):
        self.partly(rule, self.head(req, reply))
        time.sleep(0.1)
        self.reset()

    def after_stall_headers(self, rule, req, reply):
        self.partly(rule, self.head(req, reply))
        self.stall(rule)
        raise Gone

    def after_drip(self, rule, req, reply):
        at = rule.number('at', 0)
        self.send(self.head(req, reply) + reply.body[:at])
        for byte in reply.body[at:]:
            time.sleep(rule.number('every', 1.0))
            self.send(bytes([byte]))

    def after_long(self, rule, req, reply):
        smuggled = 'HTTP/1.1 200 OK\r\nETag: "smuggled"\r\nContent-Length: 8\r\n\r\nsmuggled'
        extra = (rule['extra'] or smuggled).encode('latin-1')
        self.send(self.head(req, reply) + reply.body + extra)

    def after_nolength(self, rule, req, reply):
        reply.set('Connection', 'close')
        self.send(self.head(req, reply, -1))
        self.partly(rule, reply.body) if rule['at'] else self.send(reply.body)
        raise Gone

    def after_chunked(self, rule, req, reply):
        reply.drop('Content-Length')
        reply.set('Transfer-Encoding', 'chunked')
        body = reply.body if rule['at'] is None else reply.body[:int(rule['at'])]
        pieces = [body[i:i + 1000] for i in range(0, len(body), 1000)]
        data = b''.join(b'%x\r\n%s\r\n' % (len(p), p) for p in pieces)
        self.send(self.head(req, reply, -1) + data)
        if rule['at'] is not None:
            raise Gone
        self.send(b'0\r\n\r\n')

    def after_chunked_bad(self, rule, req, reply):
        reply.set('Transfer-Encoding', 'chunked')
        self.send(self.head(req, reply, -1) + b'%x\r\n%s\r\nzz\r\n' % (len(reply.body), reply.body))
        raise Gone

    def after_endless(self, rule, req, reply):
        reply.set('Connection', 'close')
        self.send(self.head(req, reply, -1) + reply.body)
        self.endless(b'x' * 65536)

    def after_endless_chunked(self, rule, req, reply):
        reply.set('Transfer-Encoding', 'chunked')
        self.send(self.head(req, reply, -1))
        self.endless(b'10000\r\n' + b'x' * 65536 + b'\r\n')

    def after_flood100(self, rule, req, reply):
        count = rule.number('count', 0)
        if count == 0:
            self.endless(INTERIM * 1000)
        self.send(INTERIM * count + self.head(req, reply) + self.body_of(req, reply))

    def after_big_header(self, rule, req, reply):
        reply.set('x-amz-meta-big', 'x' * rule.number('size', 1 << 20))
        self.send(self.head(req, reply) + self.body_of(req, reply))

    def after_corrupt(self, rule, req, reply):
        middle = len(reply.body) // 2
        data = reply.body[:middle] + bytes([reply.body[middle] ^ 1]) + reply.body[middle + 1:]
        self.send(self.head(req, reply) + data)

    def after_gzip(self, rule, req, reply):
        reply.body = gzip.compress(reply.body)
        reply.set('Content-Encoding', 'gzip')
        self.send(self.head(req, reply) + self.body_of(req, reply))

    def after_error200(self, rule, req, reply):
        body = s3.error(200, rule['code'] or 'InternalError', 'We encountered an internal error. Please try again.')
        self.send(self.head(req, body) + body.body)

    def after_goodbye(self, rule, req, reply):
        """Like nolength, but TLS is ended as it should be."""
        reply.set('Connection', 'close')
        self.send(self.head(req, reply, -1) + reply.body)
        self.conn.unwrap()
        raise Gone

    def after_close_after(self, rule, req, reply):
        self.send(self.head(req, reply) + self.body_of(req, reply))
        raise Gone

    def after_reset_next(self, rule, req, reply):
        self.send(self.head(req, reply) + self.body_of(req, reply))
        self.read_head()
        self.reset()

    def after_list(self, rule, req, reply):
        kind = rule['kind']
        reply.body = getattr(self, 'list_' + kind)(req, reply.body)
        self.send(self.head(req, reply) + reply.body)

    # --- listings ---

    def again(self, req, change, more=True, token=None, after=b''):
        """A page of its own, with the entries changed."""
        store = self.server.store
        bucket = store.buckets[req.bucket]
        prefix, delimiter = req.raw_param('prefix') or b'', req.raw_param('delimiter') or b''
        found, _ = store.select(bucket, prefix, delimiter, after, store.settings.page)
        return store.page(bucket, req, change(found), more, token)

    def changed(self, req, change, more=True, token=None):
        """The page that was asked for, with the entries changed."""
        after = s3.after_of(req)
        return self.again(req, change, more, token, after)

    def list_same_token(self, req, body):
        return self.again(req, lambda f: f, token='for-ever')

    def list_repeat(self, req, body):
        return self.again(req, lambda f: f, token=self.server.request_id())

    def list_empty(self, req, body):
        return self.again(req, lambda f: [], token=self.server.request_id())

    def list_no_token(self, req, body):
        return self.changed(req, lambda f: f, token='')

    def list_unordered(self, req, body):
        return self.changed(req, lambda f: f[::-1], False)

    def list_duplicate(self, req, body):
        return self.changed(req, lambda f: f[:1] + f, False)

    def list_foreign(self, req, body):
        return self.changed(req, lambda f: f + [(b'zzz-outside-the-prefix', False)], False)

    def list_long_key(self, req, body):
        return self.changed(req, lambda f: f + [((req.raw_param('prefix') or b'') + b'z' * 5000, False)], False)

    def list_huge(self, req, body):
        prefix = req.raw_param('prefix') or b''
        return self.changed(req, lambda f: [(prefix + b'%07d' % i, False) for i in range(50000)], False)

    def list_bad_size(self, req, body):
        return re.sub(rb'<Size>\d+</Size>', b'<Size>-99999999999999999999</Size>', body)

    def list_entities(self, req, body):
        levels = b''.join(b'<!ENTITY l%d "%s">' % (i, b'&l%d;' % (i - 1) * 10) for i in range(1, 12))
        declared = b'<?xml version="1.0"?><!DOCTYPE z [<!ENTITY l0 "lol">%s]>' % levels
        return re.sub(rb'<\?xml.*?\?>', lambda m: declared, body).replace(b'<Name>', b'<Name>&l11;', 1)

    def list_deep(self, req, body):
        return b'<ListBucketResult>' + b'<a>' * 200000
