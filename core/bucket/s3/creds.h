/* Where the credentials come from: the configuration, the environment, the shared files of AWS's
 * tools, a web identity token, the container's or the instance's metadata service, in the order that
 * AWS documents; renewed before they expire. Source: AWS SDKs and Tools Reference Guide,
 * "Standardized credential providers". */
#ifndef BH_BUCKET_S3_CREDS_H
#define BH_BUCKET_S3_CREDS_H

#include "bucket/bucket.h"

struct bh_config;
struct bh_creds; /* a chain with what it found */

struct bh_credentials {
    bool anonymous; /* requests are sent unsigned; the strings are NULL then */
    char *access_key_id;
    char *secret_access_key;
    char *session_token; /* NULL: none */
    int64_t expires_ms;  /* real time by this machine's clock; 0: never */
};

/* Looks nothing up yet. cfg must outlive it. EINVAL, ENOMEM. */
int bh_creds_new(struct bh_creds **out, const struct bh_config *cfg, struct bh_error *err);
void bh_creds_free(struct bh_creds *c); /* wipes what it held; NULL is fine */

/* A copy of what is valid now, found or renewed first where that is needed (one thread does it, the
 * others wait, or go on with what is still valid). EACCES: no source has any, with a sentence that
 * says what was looked at; EACCES, ETIMEDOUT, EIO: a source that is configured failed; ECANCELED.
 * Released with bh_credentials_wipe. Any thread. */
int bh_creds_get(struct bh_creds *c, struct bh_credentials *out, const struct bh_call *call,
                 struct bh_error *err);
void bh_credentials_wipe(struct bh_credentials *c);

/* The server said that this key's token has expired or is not known: the next get renews, unless
 * another thread did already. False: there is nothing that could be renewed. */
bool bh_creds_rejected(struct bh_creds *c, const char *access_key_id);

/* For people, without any secret: "the configuration", "profile backup of ~/.aws/credentials",
 * "the instance's metadata service", "none (anonymous)"; "not looked up yet". Copied into buf. */
void bh_creds_origin(struct bh_creds *c, char *buf, size_t len);

/* The region that the profile of the shared config file names; freed by the caller; NULL: none. */
char *bh_creds_profile_region(const struct bh_config *cfg);

#endif
