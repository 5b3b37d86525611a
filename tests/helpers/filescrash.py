"""Works on a tree until the file system goes away, and says afterwards whether what is found is what was done.

    filescrash.py work DIR LOG SEED        makes, writes, closes, renames, ... below DIR, one call after the other; before each a
                                           line in LOG (another file system), and one when it returned. Ends with status 3 when
                                           a call fails because the file system is gone, 1 when one fails otherwise.
    filescrash.py check DIR LOG [LINES]    what is in DIR is what LOG says; the last call may have happened or not. LINES: only
                                           the first so many lines of LOG must be there (a flush was acknowledged then); for what
                                           was touched later either content is right.

A file's content tells what it is: lines of 32 bytes, each with the file's identity, its version and the line's number. So foreign
bytes, zeros and mixtures are seen. Of a file that was open for writing at the end nothing is promised but that: each line is one of
its own, of the version before or the one being written. Everything else must be there exactly."""
import copy
import errno
import os
import random
import sys

LINE = 32


def lines(identity, version, first, count):
    return b"".join((b"%08d %08d %012d" % (identity, version, n)).ljust(LINE - 1) + b"\n" for n in range(first, first + count))


# --- the model: what the names are. A directory is a dict; a link a str; a file an object. --------------------------------------


class File:
    def __init__(self, identity):
        self.identity = identity
        self.content = []    # [version] of each line
        self.old = None      # while it is open for writing: what it had before
        self.synced = False  # nothing was written since an fsync
        self.mode = 0o644


class Model:
    def __init__(self):
        self.root = {}
        self.files = {}
        self.touched = set()

    def parent(self, path):
        d = self.root
        *above, last = path.split("/")
        for name in above:
            d = d[name]
        return d, last

    def get(self, path):
        d, last = self.parent(path)
        return d.get(last)

    def apply(self, step):
        what, *a = step
        if what == "create":  # path identity
            d, last = self.parent(a[0])
            f = d.get(last)
            if f is None:
                f = d[last] = File(int(a[1]))
            else:
                f.old = list(f.content)
            f.old, f.synced = f.old or [], False
            f.content = []
        elif what == "open":  # path: for writing, nothing cut
            f = self.get(a[0])
            f.old, f.synced = list(f.content), True
        elif what == "write":  # path version first count
            f, version, first, count = self.get(a[0]), int(a[1]), int(a[2]), int(a[3])
            f.content[first:first + count] = [version] * count
            f.synced = False
        elif what == "fsync":
            f = self.get(a[0])
            f.old, f.synced = list(f.content), True
        elif what == "close":
            self.get(a[0]).old = None
        elif what == "truncate":  # path lines
            f = self.get(a[0])
            del f.content[int(a[1]):]
        elif what == "mkdir":
            d, last = self.parent(a[0])
            d[last] = {}
        elif what in ("unlink", "rmdir"):
            d, last = self.parent(a[0])
            del d[last]
        elif what == "rename":
            d, last = self.parent(a[0])
            e, other = self.parent(a[1])
            thing = d.pop(last)
            e[other] = thing
        elif what == "exchange":
            d, last = self.parent(a[0])
            e, other = self.parent(a[1])
            d[last], e[other] = e[other], d[last]
        elif what == "link":
            d, last = self.parent(a[1])
            d[last] = self.get(a[0])
        elif what == "symlink":  # target path
            d, last = self.parent(a[1])
            d[last] = a[0]
        elif what == "chmod":
            self.get(a[0]).mode = int(a[1], 8)
        else:
            raise ValueError(what)


# --- working ------------------------------------------------------------------------------------------------------------------------


def exchange(a, b):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2) < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


class Worker:
    def __init__(self, top, log, seed):
        self.top = top
        self.log = open(log, "a", buffering=1)
        self.r = random.Random(seed)
        self.model = Model()
        self.next = 0
        self.fd = None

    def path(self, name):
        return os.path.join(self.top, name)

    def do(self, *step):
        """One call: a line before it and one after it."""
        text = "\t".join(str(s) for s in step)
        self.log.write("begin\t" + text + "\n")
        what, *a = step
        if what == "create":
            self.fd = os.open(self.path(a[0]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        elif what == "open":
            self.fd = os.open(self.path(a[0]), os.O_WRONLY)
        elif what == "write":
            data = lines(self.model.get(a[0]).identity, a[1], a[2], a[3])
            done = 0
            while done < len(data):  # a long one ends short when the file system goes away in the middle
                done += os.pwrite(self.fd, data[done:], a[2] * LINE + done)
        elif what == "fsync":
            os.fsync(self.fd)
        elif what == "close":
            fd, self.fd = self.fd, None
            os.close(fd)
        elif what == "truncate":
            os.truncate(self.path(a[0]), a[1] * LINE)
        elif what in ("mkdir", "unlink", "rmdir"):
            getattr(os, what)(self.path(a[0]))
        elif what == "rename":
            os.rename(self.path(a[0]), self.path(a[1]))
        elif what == "exchange":
            exchange(self.path(a[0]), self.path(a[1]))
        elif what == "link":
            os.link(self.path(a[0]), self.path(a[1]))
        elif what == "symlink":
            os.symlink(a[0], self.path(a[1]))
        elif what == "chmod":
            os.chmod(self.path(a[0]), int(a[1], 8))
        self.log.write("done\n")
        self.model.apply([str(s) for s in step])

    def everything(self, kind=None):
        found = []

        def walk(d, prefix):
            for name, thing in d.items():
                if kind is None or isinstance(thing, kind):
                    found.append(prefix + name)
                if isinstance(thing, dict):
                    walk(thing, prefix + name + "/")
        walk(self.model.root, "")
        return found

    def fresh(self):
        self.next += 1
        directories = [""] + [d + "/" for d in self.everything(dict) if d.count("/") < 3]
        return f"{self.r.choice(directories[-12:])}n{self.next}"

    def save(self, path, identity):
        self.next += 1
        self.do("create", path, identity)
        self.write(path, self.next)

    def write(self, path, version):
        first = len(self.model.get(path).content) if self.r.random() < 0.5 else 0
        for _ in range(self.r.randrange(1, 4)):
            count = self.r.choice((1, 3, 50, 127, 128, 129, 2000, 4000))
            first = min(first, len(self.model.get(path).content))
            self.do("write", path, version, first, count)
            first += count
        if self.r.random() < 0.3:
            self.do("fsync", path)
        self.do("close", path)

    def one(self):
        r = self.r
        files, names = self.everything(File), self.everything()
        self.next += 1
        what = r.random()
        if what < 0.30 or len(files) < 5:
            self.save(self.fresh(), self.next)
        elif what < 0.45:  # as editors save: another file, renamed over it
            path = r.choice(files)
            identity = self.model.get(path).identity
            other = path + ".new"
            self.save(other, identity)
            self.do("rename", other, path)
        elif what < 0.52:
            path = r.choice(files)
            self.save(path, self.model.get(path).identity)
        elif what < 0.60:
            path = r.choice(files)
            self.do("open", path)
            self.write(path, self.next)
        elif what < 0.65:
            path = r.choice(files)
            self.do("truncate", path, r.randrange(len(self.model.get(path).content) + 1))
        elif what < 0.73:
            old, new = r.choice(names), self.fresh()
            if not (new + "/").startswith(old + "/"):
                self.do("rename", old, new)
        elif what < 0.77:
            old, new = r.choice(files), r.choice(files)
            if self.model.get(old) is not self.model.get(new):
                self.do("rename", old, new)
        elif what < 0.81:
            a, b = r.choice(names), r.choice(names)
            if not (a + "/").startswith(b + "/") and not (b + "/").startswith(a + "/"):
                self.do("exchange", a, b)
        elif what < 0.86:
            self.do("mkdir", self.fresh())
        elif what < 0.89:
            empty = [d for d in self.everything(dict) if not self.model.get(d)]
            if empty:
                self.do("rmdir", r.choice(empty))
        elif what < 0.92:
            self.do("link", r.choice(files), self.fresh())
        elif what < 0.94:
            self.do("symlink", "target" + str(self.next), self.fresh())
        elif what < 0.96:
            self.do("chmod", r.choice(files), r.choice(("600", "644", "755", "444")))
        if len(names) > 150 or what >= 0.97:
            for path in r.sample(files, len(files) // 3):
                self.do("unlink", path)


# --- checking -----------------------------------------------------------------------------------------------------------------------


def read_log(path, limit=None):
    """The steps that returned, the one that had begun and did not return, and the steps after the first `limit` lines."""
    done, pending, later = [], None, []
    with open(path) as f:
        text = f.read()
    rows = text.split("\n")[:-1]  # the last one is whole, or empty
    for i, row in enumerate(rows):
        if row == "done":
            (later if limit is not None and i >= limit else done).append(pending)
            pending = None
        elif row.startswith("begin\t"):
            pending = row.split("\t")[1:]
    return done, pending, later


problems = []


def content_of(path):
    """None if it cannot be read, which is a problem, too."""
    try:
        with open(path, "rb") as o:
            return o.read()
    except OSError as e:
        problem(f"{path}, {os.lstat(path).st_size} bytes: {os.strerror(e.errno)}")
        return None


def problem(text):
    problems.append(text)


def check_exact(path, f):
    got = content_of(path)
    if got is None:
        return
    want = b"".join(lines(f.identity, v, n, 1) for n, v in enumerate(f.content))
    if got != want:
        at = next((i for i in range(min(len(got), len(want))) if got[i] != want[i]), min(len(got), len(want)))
        problem(f"{path}: {len(got)} bytes, wanted {len(want)}; differs at {at}: {got[at // LINE * LINE:][:LINE]!r}, wanted {want[at // LINE * LINE:][:LINE]!r}")


def check_loose(path, identity, versions):
    """Each line is its own: of this file, with its own number, of one of these versions."""
    got = content_of(path)
    for n in range(0, len(got or b""), LINE):
        line = got[n:n + LINE]
        if not any(lines(identity, v, n // LINE, 1).startswith(line) for v in versions):
            problem(f"{path}: line {n // LINE} of an unfinished file is {line!r}, of file {identity}, versions {sorted(versions)}")
            return


def check_newer(path, identity, versions):
    """Each line is its own: of this file, with its own number, of one of these versions or of a later one."""
    got = content_of(path)
    for n in range(0, len(got or b""), LINE):
        line = got[n:n + LINE]
        version = line[9:17]
        if not (version.isdigit() and int(version) >= min(versions) and lines(identity, int(version), n // LINE, 1).startswith(line)):
            problem(f"{path}: line {n // LINE} of a file that was touched later is {line!r}, of file {identity}, versions {sorted(versions)}")
            return


def compare(d, top, loose, out):
    """Whether the tree below top is d; differences go to out. loose: files of which nothing exact is promised (by id()), with
    the versions that their lines may have."""
    there = set(os.listdir(top))
    for name in sorted(set(d) - there):
        out.append(f"{top}/{name} is missing")
    for name in sorted(there - set(d)):
        out.append(f"{top}/{name} should not be there")
    for name in sorted(there & set(d)):
        path, thing = f"{top}/{name}", d[name]
        if isinstance(thing, dict):
            if os.path.islink(path) or not os.path.isdir(path):
                out.append(f"{path} is no directory")
            else:
                compare(thing, path, loose, out)
        elif isinstance(thing, str):
            if not os.path.islink(path) or os.readlink(path) != thing:
                out.append(f"{path} is not the symlink to {thing}")
        elif os.path.islink(path) or not os.path.isfile(path):
            out.append(f"{path} is no file")
        else:
            before = len(problems)
            if id(thing) in loose:
                check_loose(path, thing.identity, loose[id(thing)])
            else:
                check_exact(path, thing)
                if os.stat(path).st_mode & 0o777 != thing.mode:
                    problem(f"{path}: mode {os.stat(path).st_mode:o}, wanted {thing.mode:o}")
            out.extend(problems[before:])
            del problems[before:]


def versions_of(f):
    return set(f.content) | set(f.old or ())


def unfinished(model):
    """The files that are open and were written since the last fsync."""
    found = []

    def walk(d):
        for thing in d.values():
            if isinstance(thing, dict):
                walk(thing)
            elif isinstance(thing, File) and thing.old is not None and not thing.synced:
                found.append(thing)
    walk(model.root)
    return found


def check(top, log):
    done, pending, _ = read_log(log)
    model = Model()
    for step in done:
        model.apply(step)
    tries = [(model, {id(f): versions_of(f) for f in unfinished(model)})]
    if pending:
        after = copy.deepcopy(model)
        after.apply(pending)
        loose = {id(f): versions_of(f) for f in unfinished(after)}
        if pending[0] in ("create", "write"):
            old, new = model.get(pending[1]), after.get(pending[1])
            versions = versions_of(new) | (versions_of(old) if old else set())
            loose[id(new)] = versions
            if old:
                tries[0][1][id(old)] = versions
        tries.append((after, loose))
    results = []
    for m, l in tries:
        out = []
        compare(m.root, top, l, out)
        if not out:
            return len(done)
        results.append(out)
    best = min(results, key=len)
    print(f"{len(done)} steps were done, then {pending}; beside the best of {len(results)} states:")
    for text in best[:12]:
        print("  " + text)
    sys.exit(1)


def check_at_least(top, log, limit):
    """After a flush that was acknowledged when LOG had `limit` lines: everything then finished is there, but for what was touched
    later, which is there as it was or as it became."""
    done, pending, later = read_log(log, limit)
    model = Model()
    for step in done:
        model.apply(step)
    touched_paths, touched = set(), {}
    full = copy.deepcopy(model)
    for f in unfinished(model):
        touched.setdefault(f.identity, set()).update(versions_of(f))
    for step in later + ([pending] if pending else []):
        paths = [step[2]] if step[0] == "symlink" else step[1:3] if step[0] in ("rename", "exchange", "link") else step[1:2]
        touched_paths.update(paths)
        for p in paths:
            thing = full.get(p) if has_parent(full, p) else None
            if isinstance(thing, File):
                touched.setdefault(thing.identity, set()).update(versions_of(thing))
        full.apply(step)
        for p in paths:
            thing = full.get(p) if has_parent(full, p) else None
            if isinstance(thing, File):
                touched.setdefault(thing.identity, set()).update(versions_of(thing))
    wrong, counted = [], 0

    def walk(d, prefix):
        nonlocal counted
        for name, thing in d.items():
            path = prefix + name
            if any(path == t or path.startswith(t + "/") or t.startswith(path + "/") and not isinstance(thing, dict) for t in touched_paths):
                continue  # it may be elsewhere by now
            real = f"{top}/{path}"
            if isinstance(thing, dict):
                if not os.path.isdir(real):
                    wrong.append(f"{real} is missing")
                else:
                    walk(thing, path + "/")
            elif isinstance(thing, str):
                if not os.path.islink(real) or os.readlink(real) != thing:
                    wrong.append(f"{real}, a symlink, is missing")
            elif not os.path.isfile(real):
                wrong.append(f"{real} is missing")
            elif thing.identity in touched:
                check_newer(real, thing.identity, touched[thing.identity])
            else:
                counted += 1
                check_exact(real, thing)
    walk(model.root, "")
    # Nothing foreign anywhere.
    for at, _, names in os.walk(top):
        for name in names:
            real = os.path.join(at, name)
            if os.path.islink(real):
                continue
            got = content_of(real)
            for n in range(0, len(got or b""), LINE):
                line = got[n:n + LINE]
                try:
                    ok = int(line[18:30]) == n // LINE and len(line) == LINE and line[:8] == got[:8]
                except ValueError:
                    ok = False
                if not ok:
                    wrong.append(f"{real}: line {n // LINE} is {line!r}, the first {got[:LINE]!r}")
                    break
    wrong += problems
    if wrong:
        print(f"{len(done)} steps were flushed, {len(later)} came later:")
        for text in wrong[:12]:
            print("  " + text)
        sys.exit(1)
    return counted


def has_parent(model, path):
    d = model.root
    for name in path.split("/")[:-1]:
        d = d.get(name) if isinstance(d, dict) else None
        if d is None:
            return False
    return isinstance(d, dict)


def main():
    what, top, log = sys.argv[1:4]
    if what == "work":
        os.mkdir(top)
        worker = Worker(top, log, int(sys.argv[4]))
        try:
            while True:
                worker.one()
        except OSError as e:
            if e.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                sys.exit(3)
            try:
                os.listdir(top)
            except OSError:
                sys.exit(3)
            raise
    elif len(sys.argv) > 4:
        print(check_at_least(top, log, int(sys.argv[4])))
    else:
        print(check(top, log))


main()
