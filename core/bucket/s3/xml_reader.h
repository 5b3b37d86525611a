/* The reader below xml*.c. All of S3's answers have one shape: a root with fields, and with entries
 * that have fields of their own. A format names those that matter; the reader gathers their texts,
 * in whatever order they come, and skips the rest. Namespaces are ignored, a document type is
 * refused, depth, text and number of entries are bounded. */
#ifndef BH_BUCKET_S3_XML_READER_H
#define BH_BUCKET_S3_XML_READER_H

#include "bucket/bucket.h"
#include "util/strbuf.h"

#define XML_FIELDS_MAX  8
#define XML_DEPTH_MAX   32
#define XML_TEXT_MAX    ((size_t)64 << 10) /* bytes of a field; keys and tokens are far shorter */
#define XML_ENTRIES_MAX 10000              /* we ask for pages of 1000 */
#define XML_BODY_MAX    ((size_t)256 << 20)

/* The text of the first element of a name. */
struct xml_value {
    struct bh_strbuf text;
    bool seen;     /* it began */
    bool complete; /* it ended, too */
};

/* NULL: there was no such element, or its end is missing. */
static inline const char *xml_text(const struct xml_value *v)
{
    return !v->complete ? NULL : v->text.data ? v->text.data : "";
}

/* Wipes them: there may be credentials among them. */
void bh_xml_values_free(struct xml_value *values, size_t count);

/* The values of a format of at most XML_FIELDS_MAX fields, freed at the end of the scope. */
struct xml_fields {
    struct xml_value v[XML_FIELDS_MAX];
};
static inline void xml_fields_free_(struct xml_fields *f)
{
    bh_xml_values_free(f->v, XML_FIELDS_MAX);
}
#define XML_FIELDS __attribute__((cleanup(xml_fields_free_))) struct xml_fields

struct xml_entry_format {
    const char *name;
    const char *const *fields; /* its children, at most XML_FIELDS_MAX */
    size_t field_count;
    bool repeats; /* the only field may come several times: each is an entry */
};

struct xml_format {
    const char *name;         /* what the answer should be, for sentences */
    const char *const *roots; /* ends in NULL; itself NULL: any root, and fields at any depth */
    const char *const *fields;
    size_t field_count;
    const struct xml_entry_format *entries;
    size_t entry_count;
    /* The end of an entry of entries[which]. Returning an errno ends the reading with it. */
    int (*entry)(void *arg, size_t which, const struct xml_value *values, struct bh_error *err);
    bool cut; /* texts that are too long are cut rather than refused */
};

/* Fills values[0 .. field_count - 1], which are zero before and the caller's to free. *rooted (may
 * be NULL) tells whether the root was as wanted, even where the rest is damaged. 0, EIO, ENOMEM or
 * what entry returned; values hold what was read in every case. */
int bh_xml_read(const char *body, size_t len, const struct xml_format *format,
                struct xml_value *values, bool *rooted, void *arg, struct bh_error *err);

/* realloc of an array of count elements, so that one more fits; NULL: no memory. */
void *bh_xml_room(void *array, size_t count, size_t size);
int bh_xml_no_memory(struct bh_error *err);

/* EIO: missing, empty, or longer than fits. */
int bh_xml_take_upload_id(const struct xml_value *v, char id[BH_UPLOAD_ID_MAX],
                          struct bh_error *err);

#endif
