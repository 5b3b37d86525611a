/* MIME types: by a name's ending (as in the system tables that upstream's language reads), or by
 * the first bytes (the signatures are those of the formats' specifications; see also the MIME
 * Sniffing Standard of the WHATWG). */
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "bucket/bucket_util.h"
#include "store/files_private.h"

#define FIRST_BYTES 512

const char *bh_mime_of_name(const char *name)
{
    static const struct {
        const char *ending, *mime;
    } known[] = {
        {"avi", "video/x-msvideo"},
        {"bin", "application/octet-stream"},
        {"bmp", "image/bmp"},
        {"bz2", "application/x-bzip2"},
        {"c", "text/x-csrc"},
        {"css", "text/css"},
        {"csv", "text/csv"},
        {"db", "application/vnd.sqlite3"},
        {"doc", "application/msword"},
        {"docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
        {"epub", "application/epub+zip"},
        {"flac", "audio/flac"},
        {"gif", "image/gif"},
        {"gz", "application/gzip"},
        {"h", "text/x-chdr"},
        {"htm", "text/html"},
        {"html", "text/html"},
        {"ico", "image/vnd.microsoft.icon"},
        {"jpeg", "image/jpeg"},
        {"jpg", "image/jpeg"},
        {"js", "text/javascript"},
        {"json", "application/json"},
        {"md", "text/markdown"},
        {"mkv", "video/x-matroska"},
        {"mov", "video/quicktime"},
        {"mp3", "audio/mpeg"},
        {"mp4", "video/mp4"},
        {"odt", "application/vnd.oasis.opendocument.text"},
        {"ogg", "audio/ogg"},
        {"parquet", "application/vnd.apache.parquet"},
        {"pdf", "application/pdf"},
        {"png", "image/png"},
        {"pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"},
        {"py", "text/x-python"},
        {"rtf", "application/rtf"},
        {"sh", "application/x-sh"},
        {"sqlite", "application/vnd.sqlite3"},
        {"svg", "image/svg+xml"},
        {"tar", "application/x-tar"},
        {"tif", "image/tiff"},
        {"tiff", "image/tiff"},
        {"toml", "application/toml"},
        {"tsv", "text/tab-separated-values"},
        {"txt", "text/plain"},
        {"wasm", "application/wasm"},
        {"wav", "audio/x-wav"},
        {"webm", "video/webm"},
        {"webp", "image/webp"},
        {"xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"},
        {"xml", "application/xml"},
        {"xz", "application/x-xz"},
        {"yaml", "application/yaml"},
        {"yml", "application/yaml"},
        {"zip", "application/zip"},
        {"zst", "application/zstd"},
    };
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof known / sizeof *known; i++)
        if (!strcasecmp(dot + 1, known[i].ending))
            return known[i].mime;
    return BH_MIME_UNKNOWN;
}

struct signature {
    unsigned at;
    const char *bytes;
    unsigned len;
    const char *mime;
};
#define AT(at, bytes, mime)                                                                        \
    {                                                                                              \
        at, bytes, sizeof bytes - 1, mime                                                          \
    }

/* Text has no control characters but these, and is UTF-8; the last character may be cut off. */
static bool is_text(const unsigned char *bytes, size_t len)
{
    char text[FIRST_BYTES + 1];
    const size_t most = len < FIRST_BYTES ? 0 : 3; /* bytes of a character that was cut off */
    if (len > FIRST_BYTES)
        len = FIRST_BYTES;
    for (size_t i = 0; i < len; i++)
        if (bytes[i] == 0x7f ||
            (bytes[i] < 0x20 && (bytes[i] < '\t' || bytes[i] > '\r') && bytes[i] != 033))
            return false;
    memcpy(text, bytes, len);
    for (size_t cut = 0; cut <= most; cut++) {
        text[len - cut] = '\0';
        if (bh_utf8_valid(text))
            return true;
    }
    return false;
}

static bool begins(const unsigned char *bytes, size_t len, const char *with)
{
    size_t n = strlen(with);
    return len >= n && strncasecmp((const char *)bytes, with, n) == 0;
}

static const char *text_type(const unsigned char *bytes, size_t len)
{
    while (len && strchr(" \t\n\r", *bytes))
        bytes++, len--;
    if (begins(bytes, len, "<!doctype html") || begins(bytes, len, "<html"))
        return "text/html";
    if (begins(bytes, len, "<?xml"))
        return memmem(bytes, len, "<svg", 4) ? "image/svg+xml" : "text/xml";
    if (begins(bytes, len, "#!") && memmem(bytes, len < 40 ? len : 40, "python", 6))
        return "text/x-python";
    if (begins(bytes, len, "#!"))
        return "text/x-sh";
    return "text/plain";
}

/* Containers that say behind their own signature what they contain. */
static const char *media_type(const char *data, size_t len)
{
    static const struct {
        const char *outer;
        unsigned at;
        const char *inner, *mime;
    } known[] = {
        {"RIFF", 8, "WEBP", "image/webp"},      {"RIFF", 8, "WAVE", "audio/x-wav"},
        {"RIFF", 8, "AVI ", "video/x-msvideo"}, {"ftyp", 8, "heic", "image/heic"},
        {"ftyp", 8, "mif1", "image/heif"},      {"ftyp", 8, "avif", "image/avif"},
        {"ftyp", 8, "M4A ", "audio/mp4"},       {"ftyp", 8, "qt  ", "video/quicktime"},
        {"ftyp", 4, "ftyp", "video/mp4"},
    };
    for (size_t i = 0; len >= 12 && i < sizeof known / sizeof *known; i++) {
        bool is_iso = known[i].outer[0] == 'f'; /* ISO 14496-12: a box's length comes first */
        if ((!is_iso || data[0] == 0) && !memcmp(data + (is_iso ? 4 : 0), known[i].outer, 4) &&
            !memcmp(data + known[i].at, known[i].inner, 4))
            return known[i].mime;
    }
    return NULL;
}

const char *bh_mime_of_bytes(const void *data, size_t len)
{
    static const struct signature known[] = {
        AT(0, "\x89PNG\r\n\x1a\n", "image/png"),
        AT(0, "\xff\xd8\xff", "image/jpeg"),
        AT(0, "GIF87a", "image/gif"),
        AT(0, "GIF89a", "image/gif"),
        AT(0, "II*\0", "image/tiff"),
        AT(0, "MM\0*", "image/tiff"),
        AT(0, "%PDF-", "application/pdf"),
        AT(0, "%!PS", "application/postscript"),
        AT(0, "{\\rtf", "application/rtf"),
        AT(0, "SQLite format 3\0", "application/vnd.sqlite3"),
        AT(0, "PK\3\4", "application/zip"),
        AT(0, "\x1f\x8b", "application/gzip"),
        AT(0, "BZh", "application/x-bzip2"),
        AT(0,
           "\xfd"
           "7zXZ\0",
           "application/x-xz"),
        AT(0, "\x28\xb5\x2f\xfd", "application/zstd"),
        AT(0, "7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
        AT(257, "ustar", "application/x-tar"),
        AT(0, "\177ELF", "application/x-executable"),
        AT(0, "ID3", "audio/mpeg"),
        AT(0, "fLaC", "audio/flac"),
        AT(0, "OggS", "audio/ogg"),
        AT(0, "\x1a\x45\xdf\xa3", "video/x-matroska"),
        AT(0, "wOFF", "font/woff"),
        AT(0, "wOF2", "font/woff2"),
        AT(0, "\0asm", "application/wasm"),
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (len >= known[i].at + known[i].len &&
            memcmp((const char *)data + known[i].at, known[i].bytes, known[i].len) == 0)
            return known[i].mime;
    const char *media = media_type(data, len);
    if (media)
        return media;
    return len && is_text(data, len) ? text_type(data, len) : BH_MIME_UNKNOWN;
}

/* What is here of the first bytes. */
static size_t read_first(struct bh_files *f, const struct bh_content *c, void *buf, size_t len)
{
    struct bh_dfile data;
    struct bh_blob *blob;
    size_t got = 0;
    if (c->data) {
        if (bh_data_open(f->blobs, c->data, &data) != 0)
            return 0;
        ssize_t n = pread(data.fd, buf, len < c->size ? len : (size_t)c->size, 0);
        bh_dfile_close(&data);
        return n > 0 ? (size_t)n : 0;
    }
    if (bh_sha256_is_none(c->hash) || bh_blob_open(f->blobs, c->hash, c->hash_size, &blob) != 0)
        return 0;
    if (bh_blob_is_here(blob) && bh_blob_read(blob, buf, len, 0, &got, NULL, NULL) != 0)
        got = 0;
    bh_blob_close(blob);
    return got;
}

const char *bh_files_mime(struct bh_files *f, const char *name, const struct bh_content *c)
{
    char first[FIRST_BYTES];
    const char *by_name = bh_mime_of_name(name);
    if (strcmp(by_name, BH_MIME_UNKNOWN) != 0)
        return by_name;
    return bh_mime_of_bytes(first, read_first(f, c, first, sizeof first));
}
