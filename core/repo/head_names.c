/* What branches, labels and snapshots may be called. */
#include <string.h>

#include "repo/head_private.h"

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

bool bh_is_branch_name(const char *s)
{
    size_t len = strspn(s, NAME_CHARS);
    return len > 0 && len <= 100 && s[len] == '\0';
}

/* An id has a dot, so no name of this form is one. */
bool bh_is_label(const char *s)
{
    return bh_is_branch_name(s);
}

bool bh_has_form(const char *s, const char *form)
{
    for (; *form; s++, form++) {
        bool digit = *s >= '0' && *s <= '9';
        bool hex = digit || (*s >= 'a' && *s <= 'f');
        if (*form == 'd' ? !digit : *form == 'x' ? !hex : *s != *form)
            return false;
    }
    return *s == '\0';
}

bool bh_is_snapshot_id(const char *s)
{
    return bh_has_form(s, "ddddddddTdddddd.dddZ-xxxxxxxx");
}
