#!/usr/bin/env python3
"""Stands between a client and a server, for tests that want to see requests, to stop them, or to have TLS:

    relay.py DIR TARGET-PORT [PORT [CERTIFICATE KEY]]

listens on 127.0.0.1, on PORT (0 or none: a free one, which is then in DIR/port), and passes everything on to TARGET-PORT;
with CERTIFICATE and KEY it speaks TLS with the client. DIR/log gets the first line of each HTTP request. A stopped relay
(SIGSTOP) is a server that hangs, one that was killed is a server that is away.
"""
import os, re, socket, ssl, sys, threading

directory, target = sys.argv[1], int(sys.argv[2])
port = int(sys.argv[3]) if len(sys.argv) > 3 else 0
tls = None
if len(sys.argv) > 5:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[4], sys.argv[5])
# A client sends its next request when it has the answer to the last: a request begins a block.
REQUEST = re.compile(rb"((?:GET|HEAD|PUT|POST|DELETE) [^ ]*) HTTP/1\.1\r\n")
log = open(directory + "/log", "a", buffering=1)


def pump(source, sink, note):
    try:
        while block := source.recv(1 << 18):
            request = REQUEST.match(block) if note else None
            if request:
                log.write(request[1].decode(errors="replace") + "\n")
            sink.sendall(block)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(client):
    try:
        if tls:
            client = tls.wrap_socket(client, server_side=True)
        server = socket.create_connection(("127.0.0.1", target))
    except OSError:
        client.close()
        return
    for end in (client, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    back = threading.Thread(target=pump, args=(server, client, False), daemon=True)
    back.start()
    pump(client, server, True)
    back.join()
    client.close()
    server.close()


listener = socket.create_server(("127.0.0.1", port), backlog=128)
with open(directory + "/port.new", "w") as file:
    file.write(f"{listener.getsockname()[1]}\n")
os.rename(directory + "/port.new", directory + "/port")
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
