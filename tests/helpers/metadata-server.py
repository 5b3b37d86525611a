#!/usr/bin/env python3
"""STS, a container's and an instance's metadata service for tests, on a port of 127.0.0.1.

    metadata-server.py DIR

DIR/port gets the port when it answers. DIR/log gets a line a request: METHOD PATH STATUS, for STS the action with its
parameters instead of the path. DIR/rules is read before each request, NAME=VALUE lines:

    life=SECONDS         after which what is issued expires (3600); what is issued is ASIA<n>, hush-secret-<n>, hush-token-<n>
    ahead=SECONDS        the server's clock is so much ahead
    fault=NAME           on=PATH-PREFIX or action, times=N (0: always), for the requests that match:
                         STATUS (403, 500, ...), garbage (no JSON, no XML), echo (403, quoting all that was sent), silent,
                         expired (credentials of the past), partial (no secret key), big (an endless answer)
    source=ID:SECRET[:TOKEN]   who may assume roles
    web_token=TEXT       the web identity token
    container_token=TEXT what the container's service wants as Authorization
    role=NAME            of the instance (test-role); empty: it has none
    stale=N              the instance's service forgets the next N session tokens before they are used

STS is under /, the container's service at /container, the instance's at /latest/.
"""
import hashlib
import json
import os
import sys
import time
from datetime import datetime, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from badserver_auth import Refused, parse_amz_date, signature

home = sys.argv[1]
lock = Lock()
issued = 0
hits = {}        # of faults and stale tokens, by the text of the rule
sessions = set()  # tokens of the instance's service


def rules():
    with open(os.path.join(home, 'rules')) as f:
        return dict(line.rstrip('\n').split('=', 1) for line in f if '=' in line)


def once_more(rule, times):
    """Whether a rule that holds for so many requests still holds."""
    with lock:
        hits[rule] = hits.get(rule, 0) + 1
        return times == 0 or hits[rule] <= times


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def date_time_string(self, timestamp=None):
        return formatdate(self.now(), usegmt=True)

    def now(self):
        return time.time() + float(self.rules.get('ahead', 0))

    # --- answers ---

    def answer(self, status, text, kind='text/plain'):
        body = text.encode()
        with open(os.path.join(home, 'log'), 'a') as f:
            f.write('%s %s %d\n' % (self.command, self.name, status))
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', len(body))
        self.end_headers()
        self.wfile.write(body)

    def issue(self):
        global issued
        with lock:
            issued += 1
            n = issued
        life = -60 if self.fault == 'expired' else float(self.rules.get('life', 3600))
        secret = '' if self.fault == 'partial' else 'hush-secret-%d' % n
        until = datetime.fromtimestamp(self.now() + life, timezone.utc).isoformat(timespec='milliseconds')[:23] + 'Z'
        return 'ASIA%d' % n, secret, 'hush-token-%d' % n, until

    def give_json(self, **more):
        key, secret, token, until = self.issue()
        self.answer(200, json.dumps({'AccessKeyId': key, 'SecretAccessKey': secret, 'Token': token,
                                     'Expiration': until, **more}), 'application/json')

    def sts_error(self, status, code, message):
        self.answer(status, '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
                    '<Code>%s</Code><Message>%s</Message></Error><RequestId>r</RequestId></ErrorResponse>'
                    % (code, escape(message)), 'text/xml')

    # --- requests ---

    def matching_fault(self):
        fault, on = self.rules.get('fault', ''), self.rules.get('on', '/')
        wanted = fault and (self.name.startswith(on) or urlsplit(self.path).path.startswith(on))
        times = int(self.rules.get('times', 0))
        return fault if wanted and once_more('fault %s %s %d' % (fault, on, times), times) else ''

    def serve(self):
        length = int(self.headers.get('Content-Length') or 0)
        self.body = self.rfile.read(length)
        self.rules = rules()
        self.name = self.path
        if self.command == 'POST':
            form = parse_qs(self.body.decode())
            self.form = {name: values[0] for name, values in form.items()}
            shown = [n + '=' + v for n, v in sorted(self.form.items()) if n not in ('Action', 'WebIdentityToken')]
            self.name = ' '.join([self.form.get('Action', '?')] + shown)
        self.fault = self.matching_fault()
        if self.fault == 'silent':
            time.sleep(20)
            self.close_connection = True
        elif self.fault.isdigit():
            self.answer(int(self.fault), '')
        elif self.fault == 'garbage':
            self.answer(200, '<hush {"hush')
        elif self.fault == 'big':
            self.answer(200, 'hush ' * 20000)
        elif self.fault == 'echo':
            self.echo()
        elif self.command == 'POST':
            self.sts()
        elif self.path.startswith('/container'):
            self.container()
        else:
            self.instance()

    do_GET = do_PUT = do_POST = serve

    def echo(self):
        """All that was sent, as those who are asked for help quote it."""
        sent = ' '.join([str(self.headers), ' '.join(getattr(self, 'form', {}).values())])
        sent = ' '.join(sent.split())
        if self.command == 'POST':
            self.sts_error(403, 'AccessDenied', 'sent was ' + sent)
        else:
            self.answer(403, json.dumps({'code': 'AccessDenied', 'message': 'sent was ' + sent}))

    # --- STS ---

    def sts(self):
        try:
            if self.form.get('Action') == 'AssumeRole':
                self.check_signature()
            elif self.headers.get('Authorization'):
                raise Refused(403, 'AccessDenied', 'this action is not signed')
            elif self.form.get('WebIdentityToken') != self.rules.get('web_token'):
                raise Refused(400, 'InvalidIdentityToken', 'no such token')
        except Refused as e:
            return self.sts_error(e.status, e.code, e.message)
        action = self.form['Action']
        key, secret, token, until = self.issue()
        self.answer(200, '<%sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%sResult><AssumedRoleUser><Arn>x</Arn>'
                    '</AssumedRoleUser><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey>'
                    '<SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials></%sResult></%sResponse>'
                    % (action, action, key, secret, token, until, action, action), 'text/xml')
        return None

    def check_signature(self):
        key, secret, token = (self.rules['source'] + '::').split(':')[:3]
        fields = dict(f.strip().split('=', 1) for f in
                      self.headers.get('Authorization', '').replace('AWS4-HMAC-SHA256', '').split(',') if '=' in f)
        scope = fields.get('Credential', '////').split('/')
        signed = fields.get('SignedHeaders', '').split(';')
        date = self.headers.get('X-Amz-Date')
        need = ['host', 'x-amz-date'] + ['x-amz-security-token'] * bool(token)
        if scope[0] != key or scope[3:] != ['sts', 'aws4_request'] or set(need) - set(signed):
            raise Refused(403, 'InvalidClientTokenId', 'The security token included in the request is invalid.')
        if (self.headers.get('X-Amz-Security-Token') or '') != token:
            raise Refused(403, 'InvalidClientTokenId', 'another session token is needed')
        if abs(parse_amz_date(date) - self.now()) > 900:
            raise Refused(403, 'SignatureDoesNotMatch', 'Signature expired: %s is now earlier than it may be' % date)
        lines = ['POST', self.path, ''] + [n + ':' + self.headers[n].strip() for n in signed]
        canonical = '\n'.join(lines + ['', ';'.join(signed), hashlib.sha256(self.body).hexdigest()])
        if signature(secret, scope[1], scope[2], 'sts', date, canonical) != fields.get('Signature'):
            raise Refused(403, 'SignatureDoesNotMatch', 'The request signature we calculated does not match.\n\n'
                          'The Canonical String for this request should have been\n' + canonical)
        self.name += ' Region=' + scope[2]

    # --- metadata ---

    def container(self):
        if (self.headers.get('Authorization') or '') != self.rules.get('container_token', ''):
            return self.answer(401, '{"code": "Unauthorized", "message": "no such token"}', 'application/json')
        return self.give_json(RoleArn='arn:x')

    def instance(self):
        role = self.rules.get('role', 'test-role')
        at = '/latest/meta-data/iam/security-credentials/'
        if self.command == 'PUT' and self.path == '/latest/api/token':
            return self.give_session()
        if self.headers.get('X-aws-ec2-metadata-token') not in sessions:
            return self.answer(401, '')
        if not role:
            return self.answer(404, '')
        if self.path == at:
            return self.answer(200, role + '\n')
        if self.path == at + role:
            return self.give_json(Code='Success', Type='AWS-HMAC')
        return self.answer(404, '')

    def give_session(self):
        if not 1 <= int(self.headers.get('X-aws-ec2-metadata-token-ttl-seconds') or 0) <= 21600:
            return self.answer(400, '')
        session = 'hush-session-%d' % time.monotonic_ns()
        stale = int(self.rules.get('stale', 0))
        if not stale or not once_more('stale', stale):
            sessions.add(session)
        return self.answer(200, session)


server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
server.daemon_threads = True
with open(os.path.join(home, 'port.new'), 'w') as f:
    f.write('%d\n' % server.server_address[1])
os.rename(os.path.join(home, 'port.new'), os.path.join(home, 'port'))
server.serve_forever()
