/* Private to creds*.c: what the sources of credentials share. */
#ifndef BH_BUCKET_S3_CREDS_PRIVATE_H
#define BH_BUCKET_S3_CREDS_PRIVATE_H

#include "bucket/s3/creds.h"
#include "bucket/s3/http.h"
#include "config/config.h"

/* --- creds_secret.c: bytes that are wiped --- */

/* A buffer of fixed capacity: what it holds never moves, so that wiping it wipes it all. */
struct bh_secret {
    char *data; /* NUL-terminated; NULL: not made yet */
    size_t len, cap;
};
#define BH_SECRET __attribute__((cleanup(bh_secret_free))) struct bh_secret

int bh_secret_new(struct bh_secret *s, size_t cap, struct bh_error *err); /* 0 or ENOMEM */
void bh_secret_free(struct bh_secret *s);
bool bh_secret_add(struct bh_secret *s, const void *data, size_t len); /* false: it is full */

/* A wiped string on the heap. */
#define BH_SECRET_STRING __attribute__((cleanup(bh_secret_string_cleanup_)))
void bh_secret_string_free(char *s);
static inline void bh_secret_string_cleanup_(char **s)
{
    bh_secret_string_free(*s);
}

#define BH_CREDENTIALS __attribute__((cleanup(bh_credentials_wipe))) struct bh_credentials

/* Overwrites each occurrence of secret (NULL is fine) in text: servers quote what they were sent.
 */
void bh_secret_scrub(char *text, const char *secret);

/* Copies what is given; token may be NULL. EACCES, naming `what`, if a value is missing, empty or
 * of characters that no header may hold. */
int bh_credentials_set(struct bh_credentials *c, const char *what, const char *access_key_id,
                       const char *secret_access_key, const char *session_token, int64_t expires_ms,
                       struct bh_error *err);

/* The variable's value; NULL if it is not set or empty. */
const char *bh_creds_env(const char *name);

/* Identity and version of a file. */
struct bh_file_stamp {
    bool present;
    uint64_t dev, ino, size;
    int64_t mtime_ns;
};
struct stat;
struct bh_file_stamp bh_file_stamp_of(const struct stat *st);

/* A regular file of at most max bytes. EACCES with a sentence for whatever is wrong with it;
 * missing_ok: 0 with stamp->present false if it does not exist. stamp and mode may be NULL. */
int bh_secret_read_file(struct bh_secret *out, const char *path, size_t max, bool missing_ok,
                        struct bh_file_stamp *stamp, unsigned *mode, struct bh_error *err);
/* A token in a file: without the white space at its end; EACCES if it is empty or has more lines.
 */
int bh_secret_read_token(struct bh_secret *out, const char *path, struct bh_error *err);

/* --- one look-up --- */

struct bh_lookup {
    const struct bh_config *cfg;
    const char *cwd; /* where relative paths begin, "" if unknown */
    const struct bh_call *call;
    struct bh_credentials found;
    char origin[320];
    bool fixed; /* what was found stands in the shared files and changes only with them */
    struct bh_file_stamp stamps[2]; /* of the shared files as they were read */
    struct bh_strbuf looked;        /* "where (why not), where (why not)" */
};

/* Sources. 0: found. ENOENT: this source is not set up; a word about it stands in l->looked. Any
 * other errno: it is set up and fails. */
int bh_creds_from_web_environment(struct bh_lookup *l, struct bh_error *err);
int bh_creds_from_profile(struct bh_lookup *l, struct bh_error *err);
int bh_creds_from_container(struct bh_lookup *l, struct bh_error *err);
int bh_creds_from_instance(struct bh_lookup *l, struct bh_error *err);

/* Appends a phrase to l->looked; returns ENOENT. */
int bh_creds_looked(struct bh_lookup *l, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* "~/x" and "x" made absolute; freed by the caller; NULL: no memory. */
char *bh_creds_path(const char *cwd, const char *path);
char *bh_creds_cwd(void); /* "" if it is unknown; freed by the caller; NULL: no memory */

/* --- creds_files.c: the shared files --- */

enum bh_setting {
    BH_SETTING_ACCESS_KEY_ID,
    BH_SETTING_SECRET_ACCESS_KEY,
    BH_SETTING_SESSION_TOKEN,
    BH_SETTING_CREDENTIAL_PROCESS,
    BH_SETTING_ROLE_ARN,
    BH_SETTING_SOURCE_PROFILE,
    BH_SETTING_CREDENTIAL_SOURCE,
    BH_SETTING_ROLE_SESSION_NAME,
    BH_SETTING_EXTERNAL_ID,
    BH_SETTING_DURATION_SECONDS,
    BH_SETTING_MFA_SERIAL,
    BH_SETTING_WEB_IDENTITY_TOKEN_FILE,
    BH_SETTING_REGION,
    BH_SETTING_COUNT
};

enum { BH_SHARED_CONFIG, BH_SHARED_CREDENTIALS };

struct bh_shared {
    struct bh_shared_file {
        char *path; /* begins with '~' where no home is known, and is not read then */
        struct bh_secret text;
        struct bh_file_stamp stamp;
    } files[2];
};
#define BH_SHARED __attribute__((cleanup(bh_shared_free))) struct bh_shared

/* One profile, what the credentials file says standing over what the config file says. */
struct bh_profile_settings {
    char *value[BH_SETTING_COUNT]; /* NULL: not set */
    bool exists;
    bool sign_in;          /* settings of IAM Identity Center or `aws login` are there */
    const char *file;      /* where its last setting stands */
    const char *keys_file; /* the file that has the access key */
};
#define BH_PROFILE __attribute__((cleanup(bh_profile_free))) struct bh_profile_settings

int bh_shared_load(struct bh_shared *s, const char *cwd, struct bh_error *err);
void bh_shared_free(struct bh_shared *s);
/* 0, also for a profile that does not exist; EACCES: a file is malformed; ENOMEM. */
int bh_shared_profile(const struct bh_shared *s, const char *name, struct bh_profile_settings *p,
                      struct bh_error *err);
void bh_profile_free(struct bh_profile_settings *p);
/* Whether the files have changed since they had these stamps. */
bool bh_shared_changed(const char *cwd, const struct bh_file_stamp stamps[2]);

/* --- creds_process.c --- */

/* What `command` prints as JSON; *what names it in sentences. */
int bh_creds_run_process(const struct bh_lookup *l, const char *what, const char *command,
                         struct bh_credentials *out, struct bh_error *err);

/* --- creds_json.c --- */

struct bh_creds_json {
    struct bh_credentials c; /* strings NULL where they are missing */
    bool expires;            /* whether there is an Expiration */
    int64_t version;         /* 0: none */
    char *code, *message;    /* of an error answer, or NULL */
};
#define BH_CREDS_JSON __attribute__((cleanup(bh_creds_json_free))) struct bh_creds_json
void bh_creds_json_free(struct bh_creds_json *json);
/* 0; EIO naming `what`: no JSON object, or an Expiration that is no time; ENOMEM. out is released
 * by bh_credentials_wipe(&out->c) in every case. */
int bh_creds_read_json(struct bh_creds_json *out, const char *what, const struct bh_secret *text,
                       struct bh_error *err);

/* --- creds_http.c --- */

#define BH_CREDS_ANSWER_MAX ((size_t)64 << 10)

struct bh_creds_answer {
    int status;
    int64_t ahead_ms; /* the server's clock minus ours where they differ by more than a minute */
    struct bh_secret body;
};
#define BH_CREDS_ANSWER __attribute__((cleanup(bh_creds_answer_free))) struct bh_creds_answer
#define BH_HTTP         __attribute__((cleanup(bh_creds_http_cleanup_))) struct bh_http

/* One request, tried up to so many times while it ends without an answer or with one that is worth
 * another try (500 and above, 429, STS's throttling). body may be NULL. */
int bh_creds_ask(struct bh_http *http, const struct bh_http_request *req, unsigned tries,
                 struct bh_creds_answer *a, const struct bh_call *call, struct bh_error *err);
void bh_creds_answer_free(struct bh_creds_answer *a);
static inline void bh_creds_http_cleanup_(struct bh_http **h)
{
    bh_http_free(*h);
}

/* A URL's parts; port "" where it is the scheme's own. EACCES naming `what` if it is no http(s) URL
 * or holds a user. */
struct bh_creds_url {
    bool tls;
    char host[256]; /* IPv6 in brackets */
    char port[8];
    char path[512]; /* at least "/" */
};
int bh_creds_url_parse(struct bh_creds_url *out, const char *what, const char *url,
                       struct bh_error *err);

/* --- creds_sts.c --- */

struct bh_role {
    const char *arn;
    const char *session_name; /* NULL: "bhfs" */
    const char *external_id;  /* NULL: none */
    const char *duration;     /* seconds; NULL: STS's own */
    const char *region;       /* of the profile, or NULL */
};
/* AssumeRole, signed with `source`; AssumeRoleWithWebIdentity with the token in a file. */
int bh_sts_assume_role(const struct bh_lookup *l, const struct bh_role *role,
                       const struct bh_credentials *source, struct bh_credentials *out,
                       struct bh_error *err);
int bh_sts_web_identity(const struct bh_lookup *l, const struct bh_role *role,
                        const char *token_file, struct bh_credentials *out, struct bh_error *err);

#endif
