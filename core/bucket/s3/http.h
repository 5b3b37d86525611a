/* An HTTP client on libcurl: connections are kept and reused, at most so many requests run at once,
 * TLS is verified, redirects are not followed (the caller signs anew). Knows nothing of S3. */
#ifndef BH_BUCKET_S3_HTTP_H
#define BH_BUCKET_S3_HTTP_H

#include "bucket/bucket.h"

struct bh_http;

struct bh_pair {
    const char *name, *value;
};

struct bh_http_options {
    unsigned connections;       /* requests at once, in all threads; more wait for their turn */
    int64_t connect_timeout_ms; /* name look-up, connection, TLS */
    int64_t timeout_ms;         /* without a byte either way for this long: ETIMEDOUT */
    const char *proxy;          /* NULL: what the environment says; "": none; else its URL */
    const char *ca_file;        /* NULL or "": the system's certificates */
};

#define BH_HTTP_HEADERS_MAX ((size_t)64 << 10) /* bytes of an answer's headers */
#define BH_HTTP_ERROR_MAX   ((size_t)64 << 10)

struct bh_http_answer {
    int status;               /* of the final answer, 100 to 999; 0 before there is one */
    uint64_t length;          /* Content-Length; UINT64_MAX: none given */
    struct bh_strbuf headers; /* "name\0value\0name\0value\0", names in lower case */
    struct bh_strbuf body;    /* what was kept of it (keep_body) */
    uint64_t sent, received;  /* bytes of bodies */
    int64_t at_ms;            /* bh_mono_ms() when the headers were complete */
    bool reused;              /* the connection had served a request before */
    bool replied;             /* at least a status line came */
};

struct bh_http_request {
    const char *method; /* "GET", ... */
    const char *url;    /* complete, encoded, sent as it is */
    const struct bh_pair *headers;
    size_t header_count;
    const struct bh_source *body; /* NULL: none (PUT and POST then send Content-Length: 0) */
    bool once; /* a body that was sent may have done its work: never sent again, not even where a
                  kept connection turns out to be dead (EIO then) */
    size_t keep_body; /* keep up to so many bytes of the answer's body; more is EIO */
    /* NULL, or called once when the headers are complete: *stream = true hands the body to sink
     * instead of keeping it. Returning an errno ends the request with it. */
    int (*head)(void *arg, const struct bh_http_answer *a, bool *stream, struct bh_error *err);
    bh_sink_fn *sink;
    void *arg; /* of head and sink */
};

/* EINVAL (a bad proxy, an unreadable ca_file), ENOMEM. */
int bh_http_new(struct bh_http **out, const struct bh_http_options *options, struct bh_error *err);
/* No request may be under way. NULL is fine. */
void bh_http_free(struct bh_http *h);

/* One request, in the calling thread. 0: a complete answer came, whatever its status. ETIMEDOUT: no
 * connection, or no progress, or the call's deadline; EIO: the answer was cut, malformed or too
 * long; EACCES: the server's certificate does not hold; ECANCELED; ENOMEM; what source, head or
 * sink returned. *a is filled as far as it came and is released with bh_http_answer_free in every
 * case. Any thread. */
int bh_http_do(struct bh_http *h, const struct bh_http_request *req, struct bh_http_answer *a,
               const struct bh_call *call, struct bh_error *err);
void bh_http_answer_free(struct bh_http_answer *a);

/* The value of a header (name in lower case), the last one if it came several times; NULL: none.
 * Lives as long as *a. */
const char *bh_http_header(const struct bh_http_answer *a, const char *name);
/* Walks the headers: *at begins at 0; false: no more. */
bool bh_http_next_header(const struct bh_http_answer *a, size_t *at, const char **name,
                         const char **value);

/* From now on no body waits for "100 Continue": the server answered 417. */
void bh_http_expect_off(struct bh_http *h);

/* Connections opened so far. */
uint64_t bh_http_connects(struct bh_http *h);

#endif
