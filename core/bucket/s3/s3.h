/* The S3 backend: AWS S3, Cloudflare R2, MinIO, Ceph RGW, OpenStack Swift and their like. Source:
 * Amazon S3 API Reference; where stores differ, what they were seen to do. */
#ifndef BH_BUCKET_S3_S3_H
#define BH_BUCKET_S3_S3_H

#include "bucket/bucket.h"

struct bh_config;

/* Opens what cfg->bucket says; cfg must outlive it. Makes no request. EINVAL (what does not go
 * together), ENOMEM. Beyond bucket.h's errors its functions give ENODEV: the bucket itself does not
 * exist. */
int bh_bucket_s3_open(struct bh_bucket **out, const struct bh_config *cfg, struct bh_error *err);

#endif
