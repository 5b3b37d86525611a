/* Each request runs in its caller's thread on a slot: a multi handle of its own, whose connection
 * cache keeps the connection for the next one. The slot used last is used first,
 * so that there are as few connections as there were requests at once. */
#include "bucket/s3/http_private.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <linux/sockios.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bucket/bucket_util.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define POLL_MS      50 /* how soon a cancelled call ends */
#define BUFFER_BYTES (256L << 10)
#define SLOW_BYTES   1024 /* fewer within the time-out are a stall */
#define PATIENCE     20
#define EXPECT_MIN   ((uint64_t)1 << 20)
/* Servers close idle connections after 5 to 60 s; a request on a dead one is lost. */
#define IDLE_MAX_S 15L

/* --- the client --- */

static void share_lock(CURL *easy, curl_lock_data data, curl_lock_access access, void *arg)
{
    pthread_mutex_lock(&((struct bh_http *)arg)->share_mutex[data]);
}

static void share_unlock(CURL *easy, curl_lock_data data, void *arg)
{
    pthread_mutex_unlock(&((struct bh_http *)arg)->share_mutex[data]);
}

static void global_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static bool make_share(struct bh_http *h)
{
    for (int i = 0; i < CURL_LOCK_DATA_LAST; i++)
        pthread_mutex_init(&h->share_mutex[i], NULL);
    h->share = curl_share_init();
    return h->share && curl_share_setopt(h->share, CURLSHOPT_LOCKFUNC, share_lock) == CURLSHE_OK &&
           curl_share_setopt(h->share, CURLSHOPT_UNLOCKFUNC, share_unlock) == CURLSHE_OK &&
           curl_share_setopt(h->share, CURLSHOPT_USERDATA, h) == CURLSHE_OK &&
           curl_share_setopt(h->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS) == CURLSHE_OK &&
           curl_share_setopt(h->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION) == CURLSHE_OK;
}

/* libcurl would say so at the first request only, and not clearly. */
static int check_ca_file(const char *path, struct bh_error *err)
{
    BH_FILE FILE *f = fopen(path, "re");
    if (!f)
        return bh_fail(err, EINVAL, "bucket.ca_file %s cannot be read: %s", path, strerror(errno));
    X509 *certificate = PEM_read_X509(f, NULL, NULL, NULL);
    ERR_clear_error();
    if (!certificate)
        return bh_fail(err, EINVAL,
                       "bucket.ca_file %s holds no certificate (a PEM file with -----BEGIN "
                       "CERTIFICATE----- is wanted)",
                       path);
    X509_free(certificate);
    return 0;
}

int bh_http_new(struct bh_http **out, const struct bh_http_options *options, struct bh_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
    int rc = options->ca_file && *options->ca_file ? check_ca_file(options->ca_file, err) : 0;
    if (rc)
        return rc;
    struct bh_http *h = calloc(1, sizeof *h);
    if (!h)
        return bh_fail(err, ENOMEM, "out of memory");
    h->options = *options;
    if (h->options.connections == 0)
        h->options.connections = 1;
    pthread_mutex_init(&h->mutex, NULL);
    bh_cond_init(&h->freed);
    h->proxy = options->proxy ? strdup(options->proxy) : NULL;
    h->ca_file = options->ca_file && *options->ca_file ? strdup(options->ca_file) : NULL;
    bool copied =
        (!options->proxy || h->proxy) && (!options->ca_file || !*options->ca_file || h->ca_file);
    if (!make_share(h) || !copied) {
        bh_http_free(h);
        return bh_fail(err, ENOMEM, "out of memory");
    }
    *out = h;
    return 0;
}

static void slot_free(struct slot *s)
{
    if (s->multi)
        curl_multi_cleanup(s->multi);
    free(s);
}

void bh_http_free(struct bh_http *h)
{
    if (!h)
        return;
    while (h->idle) {
        struct slot *s = h->idle;
        h->idle = s->next;
        slot_free(s);
    }
    if (h->share)
        curl_share_cleanup(h->share);
    for (int i = 0; i < CURL_LOCK_DATA_LAST; i++)
        pthread_mutex_destroy(&h->share_mutex[i]);
    pthread_cond_destroy(&h->freed);
    pthread_mutex_destroy(&h->mutex);
    free(h->proxy);
    free(h->ca_file);
    free(h);
}

void bh_http_expect_off(struct bh_http *h)
{
    atomic_store(&h->expect_off, true);
}

uint64_t bh_http_connects(struct bh_http *h)
{
    return atomic_load(&h->connects);
}

/* --- slots --- */

static struct slot *slot_new(void)
{
    struct slot *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->multi = curl_multi_init();
    if (s->multi && curl_multi_setopt(s->multi, CURLMOPT_MAXCONNECTS, 2L) == CURLM_OK)
        return s;
    slot_free(s);
    return NULL;
}

static int take_slot(struct bh_http *h, struct slot **out, const struct bh_call *call,
                     struct bh_error *err)
{
    BH_LOCK_SCOPE(&h->mutex);
    while (h->busy >= h->options.connections) {
        struct timespec until = bh_mono_after_ms(POLL_MS);
        int rc = bh_call_check(call, "waiting for a free connection", err);
        if (rc)
            return rc;
        pthread_cond_timedwait(&h->freed, &h->mutex, &until);
    }
    struct slot *s = h->idle;
    if (s)
        h->idle = s->next;
    else if (!(s = slot_new()))
        return bh_fail(err, ENOMEM, "out of memory for a connection");
    h->busy++;
    *out = s;
    return 0;
}

static void give_slot(struct bh_http *h, struct slot *s)
{
    BH_LOCK_SCOPE(&h->mutex);
    s->next = h->idle;
    h->idle = s;
    h->busy--;
    pthread_cond_signal(&h->freed);
}

static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    size_t len = size * count;
    x->moved_ms = bh_mono_ms();
    x->header_bytes += len;
    x->rc = x->header_bytes > BH_HTTP_HEADERS_MAX
                ? bh_fail(x->err, EIO, "the answer's headers have more than %zu bytes",
                          BH_HTTP_HEADERS_MAX)
                : http_take_line(x, data, len);
    if (x->rc && !x->head_done)
        bh_fail_prefix(x->err, x->rc, "%.*s", http_host_length(x->req->url), x->req->url);
    return x->rc ? 0 : len;
}

/* --- bodies --- */

static int keep(struct exchange *x, const void *data, size_t len)
{
    if (len > x->req->keep_body - x->a->body.len)
        return bh_fail(x->err, EIO,
                       "the answer's body has more than the %zu bytes that it may have",
                       x->req->keep_body);
    bh_strbuf_add(&x->a->body, data, len);
    return x->a->body.failed ? bh_fail(x->err, ENOMEM, "out of memory") : 0;
}

/* What went by since moved_ms was a sink's or a source's time, not the server's. */
static void our_time(struct exchange *x)
{
    int64_t now = bh_mono_ms();
    x->window_ms += now - x->moved_ms;
    x->moved_ms = now;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    size_t len = size * count;
    x->moved_ms = bh_mono_ms();
    x->a->received += len;
    x->unchecked += len;
    if (x->unchecked >= BH_CHUNK) { /* much may come within one turn of run() */
        x->unchecked = 0;
        x->rc = bh_call_check(x->call, "the request", x->err);
        if (x->rc)
            return CURL_WRITEFUNC_ERROR;
    }
    x->rc = x->stream ? x->req->sink(x->req->arg, data, len, x->err) : keep(x, data, len);
    our_time(x);
    return x->rc ? CURL_WRITEFUNC_ERROR : len;
}

static size_t on_read(char *buf, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    uint64_t left = x->req->body->size - x->at;
    x->moved_ms = bh_mono_ms();
    size_t len = size * count < left ? size * count : (size_t)left;
    if (len > 0)
        x->rc = bh_source_read(x->req->body, x->at, buf, len, x->err);
    if (x->rc)
        return CURL_READFUNC_ABORT;
    x->at += len;
    x->a->sent += len;
    our_time(x);
    return len;
}

static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct exchange *x = arg;
    if (x->req->once || origin != SEEK_SET)
        return CURL_SEEKFUNC_FAIL;
    x->at = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* A child of the program must not inherit the connection. */
static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* --- one request --- */

#define SET(option, value) ok = ok && curl_easy_setopt(x->easy, (option), (value)) == CURLE_OK

static bool set_method(struct exchange *x)
{
    const char *method = x->req->method;
    bool ok = true;
    if (strcmp(method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1L);
    } else if (x->req->body || strcmp(method, "PUT") == 0 || strcmp(method, "POST") == 0) {
        SET(CURLOPT_UPLOAD, 1L);
        SET(CURLOPT_INFILESIZE_LARGE, x->req->body ? (curl_off_t)x->req->body->size : 0);
        SET(CURLOPT_CUSTOMREQUEST, method);
    } else {
        SET(CURLOPT_HTTPGET, 1L);
        SET(CURLOPT_CUSTOMREQUEST, method);
    }
    if (x->req->body) {
        SET(CURLOPT_READFUNCTION, on_read);
        SET(CURLOPT_READDATA, x);
        SET(CURLOPT_SEEKFUNCTION, on_seek);
        SET(CURLOPT_SEEKDATA, x);
    }
    return ok;
}

/* How long to wait for "100 Continue" before the body is sent without it. */
static long expect_wait(const struct bh_http *h)
{
    int64_t half = h->options.timeout_ms / 2;
    return half > 0 && half < 1000 ? (long)half : 1000L;
}

static bool set_options(struct exchange *x, struct curl_slist *headers)
{
    struct bh_http *h = x->http;
    bool ok = true;
    SET(CURLOPT_URL, x->req->url);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_PATH_AS_IS, 1L); /* "." and ".." are keys */
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_NOPROGRESS, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
    SET(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)h->options.connect_timeout_ms);
    SET(CURLOPT_MAXAGE_CONN, IDLE_MAX_S);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_BUFFERSIZE, BUFFER_BYTES);
    SET(CURLOPT_UPLOAD_BUFFERSIZE, BUFFER_BYTES);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_socket);
    SET(CURLOPT_SHARE, h->share);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, x);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, x);
    SET(CURLOPT_EXPECT_100_TIMEOUT_MS, expect_wait(h));
    if (x->req->once && (!x->req->body || x->req->body->size == 0))
        SET(CURLOPT_FRESH_CONNECT, 1L); /* with nothing to rewind, libcurl would send it again */
    if (h->proxy)
        SET(CURLOPT_PROXY, h->proxy);
    if (h->ca_file)
        SET(CURLOPT_CAINFO, h->ca_file);
#if LIBCURL_VERSION_NUM >= 0x075700
    SET(CURLOPT_QUICK_EXIT, 1L); /* a cancelled call does not wait for a name server */
#endif
    return ok && set_method(x);
}

/* What the kernel has not sent yet, or -1: it goes on without any call of libcurl's. */
static int unsent(struct exchange *x)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    int bytes = -1;
    if (curl_easy_getinfo(x->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK ||
        fd == CURL_SOCKET_BAD || ioctl(fd, SIOCOUTQ, &bytes) != 0)
        return -1;
    return bytes;
}

static int stalled(struct exchange *x)
{
    int64_t limit = x->http->options.timeout_ms, now = bh_mono_ms();
    if (limit <= 0)
        return 0;
    if (now - x->moved_ms >= limit / 4) {
        int left = unsent(x);
        if (left != x->unsent)
            x->moved_ms = now;
        x->unsent = left;
    }
    if (now - x->moved_ms >= limit)
        return bh_fail(x->err, ETIMEDOUT, "no byte from or to %.*s for %.1f s (bucket.timeout)",
                       http_host_length(x->req->url), x->req->url, (double)limit / 1000);
    /* a byte now and then is no progress either, but for short answers that a store stretches with
     * blanks while it works */
    uint64_t moved = x->a->sent + x->a->received + x->header_bytes;
    bool patient = x->head_done && !x->stream;
    if (now - x->window_ms < (patient ? PATIENCE : 1) * limit)
        return 0;
    if (moved - x->window_bytes < SLOW_BYTES && x->unsent <= 0)
        return bh_fail(x->err, ETIMEDOUT,
                       "only %llu bytes from or to %.*s in %.1f s (bucket.timeout)",
                       (unsigned long long)(moved - x->window_bytes), http_host_length(x->req->url),
                       x->req->url, (double)(now - x->window_ms) / 1000);
    x->window_ms = now;
    x->window_bytes = moved;
    return 0;
}

/* Runs until the transfer ends (*code then, 0 returned), or has to. */
static int run(struct exchange *x, CURLM *multi, const struct bh_call *call, CURLcode *code)
{
    for (;;) {
        int running = 0, queued = 0;
        CURLMcode m = curl_multi_perform(multi, &running);
        if (m == CURLM_OK && !running) {
            CURLMsg *msg = curl_multi_info_read(multi, &queued);
            *code = msg && msg->msg == CURLMSG_DONE ? msg->data.result : CURLE_FAILED_INIT;
            return 0;
        }
        int rc = bh_call_check(call, "the request", x->err);
        if (rc)
            return bh_fail_prefix(x->err, rc, "%.*s", http_host_length(x->req->url), x->req->url);
        rc = stalled(x);
        if (!rc && m == CURLM_OK)
            m = curl_multi_poll(multi, NULL, 0, POLL_MS, NULL);
        if (!rc && m != CURLM_OK)
            rc = bh_fail(x->err, EIO, "libcurl cannot go on: %s", curl_multi_strerror(m));
        if (rc)
            return rc;
    }
}

static int exchange(struct exchange *x, struct slot *s, struct curl_slist *headers,
                    const struct bh_call *call)
{
    char detail[CURL_ERROR_SIZE] = "";
    CURLcode code = CURLE_OK;
    long connects = 0;
    /* a new one each time: one that failed keeps parts of its last request */
    x->easy = curl_easy_init();
    if (!x->easy || !set_options(x, headers) ||
        curl_easy_setopt(x->easy, CURLOPT_ERRORBUFFER, detail) != CURLE_OK ||
        curl_multi_add_handle(s->multi, x->easy) != CURLM_OK) {
        curl_easy_cleanup(x->easy);
        return bh_fail(x->err, ENOMEM, "libcurl does not take the request");
    }
    x->moved_ms = x->window_ms = bh_mono_ms();
    x->unsent = -1;
    int rc = run(x, s->multi, call, &code);
    curl_easy_getinfo(x->easy, CURLINFO_NUM_CONNECTS, &connects);
    atomic_fetch_add(&x->http->connects, (uint64_t)connects);
    x->a->reused = connects == 0 && x->a->replied;
    curl_multi_remove_handle(s->multi, x->easy);
    curl_easy_cleanup(x->easy);
    if (rc || x->rc)
        return x->rc ? x->rc : rc;
    if (code)
        return http_failed(x, code, detail);
    if (!x->head_done)
        return bh_fail(x->err, EIO, "the answer of %.*s has no end of its headers",
                       http_host_length(x->req->url), x->req->url);
    if (x->req->body && x->at < x->req->body->size && x->a->status < 300)
        return bh_fail(x->err, EIO, "%.*s answered before it had the whole body",
                       http_host_length(x->req->url), x->req->url);
    return 0;
}

/* OpenSSL writes to sockets without MSG_NOSIGNAL. */
struct pipe_guard {
    sigset_t before;
    bool pending;
};

static void pipe_block(struct pipe_guard *g)
{
    sigset_t pipe, now;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&now);
    g->pending = sigismember(&now, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe, &g->before);
}

static void pipe_restore(const struct pipe_guard *g)
{
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    if (!g->pending)
        while (sigtimedwait(&pipe, NULL, &(struct timespec){0}) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &g->before, NULL);
}

/* The longer list; NULL, and the list freed, where there is no memory. */
static struct curl_slist *append_header(struct curl_slist *list, const char *line)
{
    struct curl_slist *longer = line ? curl_slist_append(list, line) : NULL;
    if (!longer)
        curl_slist_free_all(list);
    return longer;
}

static struct curl_slist *header_list(struct bh_http *h, const struct bh_http_request *req)
{
    /* a proxy that compresses would hand out something that is not the object */
    struct curl_slist *list = curl_slist_append(NULL, "Accept-Encoding: identity");
    if (list)
        list = append_header(list, "Accept:");
    /* "Expect: 100-continue" is worth a round trip for large bodies only; some stores never answer
     * it for a POST, and libcurl waits a second then */
    bool expect = req->body && req->body->size >= EXPECT_MIN && strcmp(req->method, "PUT") == 0 &&
                  !atomic_load(&h->expect_off);
    if (list && !expect)
        list = append_header(list, "Expect:");
    for (size_t i = 0; list && i < req->header_count; i++) {
        BH_STRBUF line = {0};
        const struct bh_pair *p = &req->headers[i];
        if (*p->value)
            bh_strbuf_addf(&line, "%s: %s", p->name, p->value);
        else
            bh_strbuf_addf(&line, "%s;", p->name); /* libcurl's way to send it empty */
        list = append_header(list, line.failed ? NULL : line.data);
    }
    return list;
}

int bh_http_do(struct bh_http *h, const struct bh_http_request *req, struct bh_http_answer *a,
               const struct bh_call *call, struct bh_error *err)
{
    struct bh_error own;
    struct slot *s = NULL;
    struct pipe_guard guard;
    *a = (struct bh_http_answer){.length = UINT64_MAX};
    struct exchange x = {.http = h, .req = req, .a = a, .err = err ? err : &own, .call = call};
    for (size_t i = 0; i < req->header_count; i++)
        if (strpbrk(req->headers[i].value, "\r\n") || strpbrk(req->headers[i].name, "\r\n:"))
            return bh_fail(err, EINVAL, "a header of the request holds a line break");
    struct curl_slist *headers = header_list(h, req);
    if (!headers)
        return bh_fail(err, ENOMEM, "out of memory");
    int rc = take_slot(h, &s, call, x.err);
    if (rc == 0) {
        pipe_block(&guard);
        rc = exchange(&x, s, headers, call);
        pipe_restore(&guard);
        give_slot(h, s);
    }
    curl_slist_free_all(headers);
    return rc;
}
