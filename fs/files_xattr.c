/* Extended attributes in files/: the user's own, and user.bh.*, which tell about the content. */
#include "files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/cleanup.h"
#include "util/strbuf.h"

#define OURS "user.bh."
enum { LINK_SECONDS = 3600 }; /* of user.bh.url; as the usual tools have it */

static bool is_meta(const char *name)
{
    return !strncmp(name, BH_FILES_META, strlen(BH_FILES_META));
}

bool files_xattr_is_ours(const char *name)
{
    return !strncmp(name, OURS, strlen(OURS)) && !is_meta(name);
}

/* 0, or what a name is refused with (xattr(7)): ACLs, of system.*, are not kept (DECISIONS 26). */
int files_xattr_check(const char *name)
{
    static const char *const spaces[] = {"user.", "trusted.", "security."};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        if (!strncmp(name, spaces[i], strlen(spaces[i])))
            return name[strlen(spaces[i])] && strcmp(name, BH_FILES_META) != 0 ? 0 : EINVAL;
    return EOPNOTSUPP;
}

/* --- what we tell --- */

bool files_xattr_needs_row(const char *name)
{
    return !strcmp(name, OURS "mime") || !strcmp(name, OURS "url");
}

static bool has_key(const struct bh_inode *i)
{
    return S_ISREG(i->mode) && !i->content.data && !bh_sha256_is_none(i->content.hash);
}

int files_xattr_value(const char *name, const struct files_content *c, struct bh_strbuf *out,
                      struct bh_error *err)
{
    static const char *const states[] = {"local", "uploading", "stored"};
    const char *what = name + strlen(OURS);
    const struct bh_inode *i = c->inode;
    if (!S_ISREG(i->mode))
        return ENODATA;
    if (!strcmp(what, "key")) {
        if (!has_key(i))
            return ENODATA; /* it is being written, or is not hashed yet */
        char hex[BH_SHA256_HEX];
        bh_sha256_format(i->content.hash, hex);
        bh_strbuf_addf(out, "%s", hex);
    } else if (!strcmp(what, "state")) {
        bh_strbuf_addf(out, "%s", states[c->state]);
    } else if (!strcmp(what, "mime")) {
        bh_strbuf_addf(out, "%s", c->mime);
    } else if (!strcmp(what, "url")) {
        if (!has_key(i) || i->content.size == 0 || c->state != BH_BLOB_STORED)
            return ENODATA;
        return bh_blobs_link(c->blobs, i->content.hash, c->object_key, LINK_SECONDS, out, err);
    } else {
        return ENODATA;
    }
    return out->failed ? ENOMEM : 0;
}

int files_xattr_mime(struct bh_files *f, const char *attribute, const char *name,
                     struct files_content *c, struct bh_blob_row *row, struct bh_error *err)
{
    const struct bh_content *content = &c->inode->content;
    c->mime = BH_MIME_UNKNOWN;
    if (strcmp(attribute, OURS "mime") != 0)
        return 0;
    c->mime = bh_files_mime(f, name, content);
    if (strcmp(c->mime, BH_MIME_UNKNOWN) != 0 || bh_sha256_is_none(content->hash) || content->data)
        return 0;
    /* What is not here was seen when its row was made. */
    int rc = bh_files_find_row(f, content->hash, row, err);
    if (rc == 0 && row->mime[0])
        c->mime = row->mime;
    return rc == ENOENT ? 0 : rc;
}

static int our_value(struct request *r, const struct bh_inode *i, struct bh_strbuf *out,
                     struct bh_error *err)
{
    char name[256];
    struct bh_blob_row row;
    bh_names_name(bh_files_names(r->files), i->ino, name);
    struct files_content c = {
        .blobs = bh_files_blobs(r->files), .inode = i, .state = bh_files_state(r->files, i)};
    int rc = files_xattr_mime(r->files, r->name, name, &c, &row, err);
    return rc ? rc : files_xattr_value(r->name, &c, out, err);
}

/* Ours are not listed: whoever copies a file with its attributes (cp, rsync, tar) could not set
 * them.
 */
void files_xattr_list(fuse_req_t req, const char *list, size_t len, struct bh_strbuf *out)
{
    for (const char *name = list; name < list + len; name += strlen(name) + 1)
        if (fuse_req_ctx(req)->uid == 0 || strncmp(name, "trusted.", 8) != 0)
            bh_strbuf_add(out, name, strlen(name) + 1);
}

/* --- requests --- */

static int run_get(struct request *r, bool wait, struct bh_error *err)
{
    struct bh_names *n = bh_files_names(r->files);
    int rc = files_xattr_check(r->name);
    if (rc)
        return rc;
    if (files_xattr_is_ours(r->name)) {
        BH_STRBUF text = {0};
        struct bh_inode i;
        if (!wait)
            return EAGAIN;
        rc = bh_names_get(n, r->ino, &i, wait, err);
        if (rc == 0)
            rc = our_value(r, &i, &text, err);
        if (rc == 0)
            reply_xattr(r->req, r->size, text.data ? text.data : "", text.len);
        return rc;
    }
    BH_FREE void *value = NULL;
    size_t len;
    rc = bh_names_getxattr(n, r->ino, r->name, &value, &len, wait, err);
    if (rc == 0)
        reply_xattr(r->req, r->size, value, len);
    return rc;
}

void files_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct request r;
    if (!request_init(&r, req, ino, run_get))
        return;
    r.name = name;
    r.size = size;
    request_start(&r);
}

static int run_list(struct request *r, bool wait, struct bh_error *err)
{
    BH_FREE char *list = NULL;
    BH_STRBUF all = {0};
    size_t len;
    int rc = bh_names_listxattr(bh_files_names(r->files), r->ino, &list, &len, wait, err);
    if (rc)
        return rc;
    files_xattr_list(r->req, list, len, &all);
    if (all.failed)
        return ENOMEM;
    reply_xattr(r->req, r->size, all.data ? all.data : "", all.len);
    return 0;
}

void files_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct request r;
    if (!request_init(&r, req, ino, run_list))
        return;
    r.size = size;
    request_start(&r);
}

static int check_settable(const struct request *r)
{
    int rc = files_xattr_check(r->name);
    if (rc || !files_xattr_is_ours(r->name))
        return rc;
    explain(r->daemon,
            "files/: %.100s cannot be set nor removed: " OURS
            "* tells of the content; attributes of "
            "your own are " BH_FILES_META "NAME, or user.NAME",
            r->name);
    return EPERM;
}

static int run_set(struct request *r, bool wait, struct bh_error *err)
{
    int rc = check_settable(r);
    if (rc == 0)
        rc = bh_names_setxattr(bh_files_names(r->files), r->ino, r->name, r->data, r->data_size,
                               (int)r->flags, wait, err);
    if (rc == 0 && is_meta(r->name))
        rc = bh_files_meta_changed(r->files, r->ino, wait, err);
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

void files_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                    size_t size, int flags)
{
    struct request r;
    if (!request_init(&r, req, ino, run_set))
        return;
    r.changes = true;
    r.name = name;
    r.data = value;
    r.data_size = size;
    r.flags = (unsigned)flags;
    request_start(&r);
}

static int run_remove(struct request *r, bool wait, struct bh_error *err)
{
    int rc = check_settable(r);
    if (rc == 0)
        rc = bh_names_removexattr(bh_files_names(r->files), r->ino, r->name, wait, err);
    if (rc == 0 && is_meta(r->name))
        rc = bh_files_meta_changed(r->files, r->ino, wait, err);
    if (rc == 0)
        fuse_reply_err(r->req, 0);
    return rc;
}

void files_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct request r;
    if (!request_init(&r, req, ino, run_remove))
        return;
    r.changes = true;
    r.name = name;
    request_start(&r);
}
