"""session.py DATABASE TIMEOUT_MS: a client of SQLite that stays connected: statements on stdin, one a line; for each a
line on stdout: its rows, columns joined with |, rows with a comma, or "error: TEXT". Ends with the line .quit."""
import sqlite3
import sys


def text(value):
    if value is None:
        return ""
    return value.hex() if isinstance(value, bytes) else str(value)


path, timeout = sys.argv[1], int(sys.argv[2])
connection = sqlite3.connect(path, uri=path.startswith("file:"), isolation_level=None, timeout=timeout / 1000)
for line in sys.stdin:
    if line == ".quit\n":
        break
    try:
        rows = connection.execute(line).fetchall()
        print(",".join("|".join(map(text, row)) for row in rows), flush=True)
    except sqlite3.Error as error:
        print("error:", error, flush=True)
connection.close()
