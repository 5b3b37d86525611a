/* What a server answers, through libcurl and the S3 backend. The first byte chooses the operation;
 * the rest is what the server says to one request after the other, separated by "~~~\n" and each
 * followed by the end of the connection. When there is no more, connections end without an answer.
 * Every request goes to the fuzzer's own server, wherever a redirect points: it is the proxy, too.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>

#include "bucket/s3/http.h"
#include "bucket/s3/s3.h"
#include "config/config.h"
#include "util/clock.h"

#define SEPARATOR "~~~\n"
#define SECRET    "SECRET+of/fuzzing="
#define PREFIX    "pre/"

/* --- the server --- */

static struct {
    int fd, port;
    pthread_mutex_t mutex;
    const uint8_t *next; /* what is not said yet */
    size_t left;
} server = {.mutex = PTHREAD_MUTEX_INITIALIZER, .next = (const uint8_t *)""};

/* Reads a whole request, so that closing the connection does not reset it. */
static void read_request(int fd)
{
    char buf[65536];
    size_t len = 0, whole = 0;
    while (len < sizeof buf - 1 && (whole == 0 || len < whole)) {
        ssize_t n = recv(fd, buf + len, sizeof buf - 1 - len, 0);
        if (n <= 0)
            return;
        len += (size_t)n;
        buf[len] = '\0';
        const char *end = strstr(buf, "\r\n\r\n"), *length = strcasestr(buf, "content-length: ");
        if (whole == 0 && end)
            whole = (size_t)(end + 4 - buf) +
                    (length && length < end ? strtoul(length + 16, NULL, 10) : 0);
    }
}

static void answer(int fd)
{
    BH_LOCK_SCOPE(&server.mutex);
    const uint8_t *end = server.left ? memmem(server.next, server.left, SEPARATOR, 4) : NULL;
    size_t n = end ? (size_t)(end - server.next) : server.left;
    size_t skip = end ? n + 4 : n;
    for (size_t sent = 0; sent < n;) {
        ssize_t now = send(fd, server.next + sent, n - sent, MSG_NOSIGNAL);
        if (now <= 0)
            break;
        sent += (size_t)now;
    }
    server.next += skip;
    server.left -= skip;
}

static void *serve(void *arg)
{
    for (;;) {
        BH_FD int fd = accept(server.fd, NULL, NULL);
        if (fd < 0)
            continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        read_request(fd);
        answer(fd);
        shutdown(fd, SHUT_WR);
    }
    return NULL;
}

static void start_server(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    pthread_t thread;
    server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(server.fd >= 0 && bind(server.fd, (struct sockaddr *)&address, len) == 0);
    must(listen(server.fd, 64) == 0);
    must(getsockname(server.fd, (struct sockaddr *)&address, &len) == 0);
    server.port = ntohs(address.sin_port);
    must(pthread_create(&thread, NULL, serve, NULL) == 0);
    pthread_detach(thread);
}

static void server_says(const uint8_t *data, size_t size)
{
    BH_LOCK_SCOPE(&server.mutex);
    server.next = data;
    server.left = size;
}

/* --- the client --- */

static struct bh_config *cfg;
static struct bh_http *http;

static char *copy_of(const char *text)
{
    char *copy = strdup(text);
    must(copy);
    return copy;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *const overrides[] = {"bucket.region=us-east-1", "bucket.timeout=2s",
                                     "bucket.connect_timeout=2s"};
    const struct bh_config_request req = {.url = "s3://bucket/" PREFIX
                                                 "?endpoint=http://store.invalid",
                                          .overrides = overrides,
                                          .override_count = 3};
    char proxy[64];
    struct bh_error err;
    be_quiet();
    start_server();
    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", server.port);
    must(bh_config_load(&cfg, &req, &err) == 0);
    free(cfg->bucket.access_key_id);
    free(cfg->bucket.secret_access_key);
    free(cfg->bucket.proxy);
    cfg->bucket.access_key_id = copy_of("AKIDFUZZ");
    cfg->bucket.secret_access_key = copy_of(SECRET);
    cfg->bucket.proxy = copy_of(proxy);
    const struct bh_http_options options = {
        .connections = 1, .connect_timeout_ms = 2000, .timeout_ms = 2000, .proxy = ""};
    must(bh_http_new(&http, &options, &err) == 0);
    return 0;
}

/* --- HTTP --- */

struct taken {
    size_t len, limit;
    bool refused, headed;
};

static int take(void *arg, const void *data, size_t len, struct bh_error *err)
{
    struct taken *t = arg;
    must(!t->refused);
    t->len += len;
    t->refused = t->len > t->limit;
    return t->refused ? bh_fail(err, EXDEV, "the sink is full") : 0;
}

static int take_head(void *arg, const struct bh_http_answer *a, bool *stream, struct bh_error *err)
{
    struct taken *t = arg;
    must(!t->headed && t->len == 0 && a->status >= 200);
    t->headed = true;
    *stream = a->status == 200;
    return a->status == 418 ? bh_fail(err, EXDEV, "a teapot") : 0;
}

static void check_headers(const struct bh_http_answer *a)
{
    const char *name, *value;
    must(a->headers.len <= BH_HTTP_HEADERS_MAX);
    for (size_t at = 0; bh_http_next_header(a, &at, &name, &value);) {
        must(bh_http_header(a, name));
        must(!strpbrk(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ\n") && !strpbrk(value, "\n"));
    }
}

static void plain_request(const char *method)
{
    char url[64];
    struct taken t = {.limit = 1 << 20};
    struct bh_error err = {0};
    struct bh_http_answer a;
    const struct bh_source body = {.size = 4, .data = "body"};
    snprintf(url, sizeof url, "http://127.0.0.1:%d/bucket/key", server.port);
    const struct bh_http_request req = {.method = method,
                                        .url = url,
                                        .body = *method == 'P' ? &body : NULL,
                                        .once = *method == 'P',
                                        .keep_body = 1000,
                                        .head = take_head,
                                        .sink = take,
                                        .arg = &t};
    int rc = bh_http_do(http, &req, &a, NULL, &err);
    must_be_told(rc, &err);
    must(a.body.len <= 1000 && a.status >= 0 && a.status <= 999);
    if (rc == 0) {
        must(t.headed && a.replied && a.status >= 200);
        must(a.received == t.len + a.body.len);
        must(*method == 'H' || a.length == UINT64_MAX || a.status == 204 || a.status == 304 ||
             a.length == a.received);
        check_headers(&a);
    }
    bh_http_answer_free(&a);
}

/* --- S3 --- */

static void check_info(const struct bh_object_info *info)
{
    must(info->etag[0] && strlen(info->etag) < BH_ETAG_MAX && !strpbrk(info->etag, "\r\n\" "));
    must(info->meta.count <= BH_META_ITEMS_MAX);
    for (size_t i = 0; i < info->meta.count; i++)
        must(bh_meta_get(&info->meta, info->meta.items[i].name) == info->meta.items[i].value);
}

static int get(struct bh_bucket *b, uint64_t offset, uint64_t length, const struct bh_call *call,
               struct bh_error *err)
{
    struct taken t = {.limit = 1 << 20};
    struct bh_object_info info;
    int rc = bh_bucket_get(b, PREFIX "key", offset, length, take, &t, &info, call, err);
    must(length == UINT64_MAX || t.len <= length);
    if (rc == 0) {
        uint64_t rest = info.size > offset ? info.size - offset : 0;
        must(t.len == (rest < length ? rest : length));
        check_info(&info);
    }
    return rc;
}

struct listed {
    char last[BH_KEY_MAX + 1];
    size_t count;
};

static int list_key(void *arg, const char *key, bool is_prefix, const struct bh_object_info *info,
                    struct bh_error *err)
{
    struct listed *l = arg;
    must(strncmp(key, PREFIX, strlen(PREFIX)) == 0 && strlen(key) <= BH_KEY_MAX);
    must(strcmp(key, l->last) > 0);
    strcpy(l->last, key);
    return ++l->count > 5000 ? bh_fail(err, EXDEV, "enough keys") : 0;
}

static int list_upload(void *arg, const char *key, const char *upload_id, int64_t started_ms,
                       struct bh_error *err)
{
    must(strncmp(key, PREFIX, strlen(PREFIX)) == 0 && *upload_id);
    must(strlen(upload_id) < BH_UPLOAD_ID_MAX);
    return ++*(size_t *)arg > 5000 ? bh_fail(err, EXDEV, "enough uploads") : 0;
}

static int put(struct bh_bucket *b, const struct bh_cond *cond, const struct bh_call *call,
               struct bh_error *err)
{
    const struct bh_source src = {.size = 7, .data = "content"};
    struct bh_object_info info;
    struct bh_meta meta = {.count = 0};
    must(bh_meta_set(&meta, "bh-x", "y", NULL) == 0);
    int rc = bh_bucket_put(b, PREFIX "key", &src, &meta, cond, &info, call, err);
    if (rc == 0) {
        must(info.size == 7);
        check_info(&info);
    }
    return rc;
}

static int multipart(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    const struct bh_source src = {.size = 7, .data = "content"};
    struct bh_part parts[2];
    struct bh_object_info info;
    char id[BH_UPLOAD_ID_MAX];
    int rc = bh_bucket_mp_begin(b, PREFIX "key", NULL, id, call, err);
    if (rc)
        return rc;
    must(*id && strlen(id) < sizeof id);
    rc = bh_bucket_mp_part(b, PREFIX "key", id, 1, &src, &parts[0], call, err);
    if (rc)
        return rc;
    must(parts[0].number == 1 && parts[0].etag[0]);
    rc = bh_bucket_mp_complete(b, PREFIX "key", id, parts, 1, NULL, &info, call, err);
    if (rc == 0)
        check_info(&info);
    return rc;
}

static int delete_many(struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    static const char *const keys[] = {PREFIX "a", PREFIX "b&<", PREFIX "\x01"};
    size_t deleted = 99;
    int rc = bh_bucket_delete_many(b, keys, 3, &deleted, call, err);
    must(deleted <= 3 && (rc != 0 || deleted == 3));
    return rc;
}

static int operate(char what, struct bh_bucket *b, const struct bh_call *call, struct bh_error *err)
{
    struct bh_object_info info;
    struct listed l = {.count = 0};
    struct bh_part part;
    size_t count = 0;
    int64_t time_ms = -1;
    int rc;
    switch (what) {
    case 'g':
        return get(b, 0, UINT64_MAX, call, err);
    case 'r':
        return get(b, 3, 10, call, err);
    case 'h':
        rc = bh_bucket_head(b, PREFIX "key", &info, call, err);
        if (rc == 0)
            check_info(&info);
        return rc;
    case 'l':
        return bh_bucket_list(b, &(struct bh_list_request){.prefix = PREFIX, .delimiter = "/"},
                              list_key, &l, call, err);
    case 'u':
        return bh_bucket_mp_list(b, PREFIX, list_upload, &count, call, err);
    case 'p':
        return put(b, NULL, call, err);
    case 'n':
        return put(b, &(struct bh_cond){.if_none_match = true}, call, err);
    case 'c':
        return bh_bucket_copy(b, PREFIX "key", PREFIX "copy", NULL, &info, call, err);
    case 'm':
        return multipart(b, call, err);
    case 'q':
        return bh_bucket_mp_part_copy(b, PREFIX "key", "id", 1, PREFIX "x", 0, 9, NULL, &part, call,
                                      err);
    case 'd':
        return bh_bucket_delete(b, PREFIX "key", call, err);
    case 'D':
        return delete_many(b, call, err);
    case 'L':
        return bh_bucket_learn(b, call, err);
    case 'M':
        return bh_bucket_make(b, call, err);
    default:
        rc = bh_bucket_server_time(b, &time_ms, call, err);
        must(rc || time_ms >= 0);
        return rc;
    }
}

static void s3_request(char what, bool told) /* told: the server knows the secret */
{
    struct bh_bucket *b;
    struct bh_error err = {0};
    must(bh_bucket_s3_open(&b, cfg, &err) == 0);
    /* a store may ask to be left alone for a minute */
    const struct bh_call call = {.deadline_ms = bh_mono_ms() + 300};
    int rc = operate(what, b, &call, &err);
    must_be_told(rc, &err);
    must(told || !strstr(err.text, SECRET));
    BH_STRBUF text = {0};
    bh_bucket_describe(b, &text);
    must(!text.failed && (told || !strstr(text.data, SECRET)));
    for (const char *c = text.data; *c; c++)
        must((unsigned char)*c >= ' ' || *c == '\n');
    bh_bucket_close(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    server_says(data + 1, size - 1);
    if (data[0] == 'G')
        plain_request("GET");
    else if (data[0] == 'H')
        plain_request("HEAD");
    else if (data[0] == 'P')
        plain_request("PUT");
    else
        s3_request((char)data[0], memmem(data, size, SECRET, strlen(SECRET)) != NULL);
    server_says((const uint8_t *)"", 0); /* the bytes are not ours any more */
    return 0;
}
