/* What the files of the HTTP client share. */
#ifndef BH_BUCKET_S3_HTTP_PRIVATE_H
#define BH_BUCKET_S3_HTTP_PRIVATE_H

#include <curl/curl.h>
#include <pthread.h>

#include "bucket/s3/http.h"

struct slot {
    struct slot *next;
    CURLM *multi;
};

struct bh_http {
    struct bh_http_options options;
    char *proxy, *ca_file;
    pthread_mutex_t mutex;
    pthread_cond_t freed;
    struct slot *idle;
    unsigned busy;
    CURLSH *share; /* names and TLS sessions */
    pthread_mutex_t share_mutex[CURL_LOCK_DATA_LAST];
    atomic_uint_fast64_t connects;
    atomic_bool expect_off;
};

/* One request under way. */
struct exchange {
    struct bh_http *http;
    const struct bh_http_request *req;
    struct bh_http_answer *a;
    struct bh_error *err;
    CURL *easy;
    int rc; /* of a callback that ended it */
    size_t header_bytes;
    bool head_done, stream;
    uint64_t at;       /* of the body to send */
    int64_t moved_ms;  /* bh_mono_ms() of the last progress */
    int64_t window_ms; /* since then, window_bytes were moved before it */
    uint64_t window_bytes;
    const struct bh_call *call;
    size_t unchecked; /* bytes of the answer's body since the call was looked at */
    int unsent; /* bytes in the kernel's buffer when it was last looked at */
};

/* http_answer.c: one line of the headers, its end cut off or not. Calls req->head at their end. */
int http_take_line(struct exchange *x, const char *line, size_t len);

/* http_errors.c */
/* How much of the URL a sentence may show: "https://HOST:PORT" (a signature may be behind it). */
int http_host_length(const char *url);
/* errno and sentence for a transfer that libcurl gave up. */
int http_failed(struct exchange *x, CURLcode code, const char *detail);

#endif
