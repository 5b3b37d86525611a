/* testd-say: says one line to the test door of bhfs-testd and prints the answer.
 *
 *   testd-say SOCKET WORD...       e.g. testd-say /tmp/x.sock run 2000 'UPDATE c SET n = n + 1'
 *
 * Exit status 0 for an answer that begins with "ok" (what follows is printed), 1 for "error CODE
 * TEXT", 3 if nobody answers. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "testd-say: %s: %s\n", what, why);
    return 3;
}

int main(int argc, char **argv)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char line[65536];
    size_t len = 0;
    if (argc < 3 || strlen(argv[1]) >= sizeof addr.sun_path)
        return fail("usage", "testd-say SOCKET WORD...");
    for (int i = 2; i < argc; i++) {
        size_t n = strlen(argv[i]);
        if (n + 2 > sizeof line - len)
            return fail(argv[1], "the command is too long");
        memcpy(line + len, argv[i], n);
        len += n;
        line[len++] = i + 1 < argc ? ' ' : '\n';
    }
    for (size_t i = 0; i + 1 < len; i++)
        if (line[i] == '\n')
            line[i] = ' '; /* SQL over several lines is one command */
    strcpy(addr.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof addr) != 0)
        return fail(argv[1], strerror(errno));
    if (send(fd, line, len, MSG_NOSIGNAL) != (ssize_t)len)
        return fail(argv[1], strerror(errno));
    len = 0;
    while (len + 1 < sizeof line && !memchr(line, '\n', len)) {
        ssize_t n = read(fd, line + len, sizeof line - 1 - len);
        if (n <= 0)
            return fail(argv[1], n < 0 ? strerror(errno) : "no answer");
        len += (size_t)n;
    }
    line[len] = 0;
    line[strcspn(line, "\n")] = 0;
    if (strncmp(line, "ok", 2) == 0 && (line[2] == ' ' || !line[2])) {
        puts(line[2] ? line + 3 : "");
        return 0;
    }
    fprintf(stderr, "%s\n", line);
    return 1;
}
