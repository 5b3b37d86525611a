/* What the head*.c share; the tests use it, too. */
#ifndef BH_REPO_HEAD_PRIVATE_H
#define BH_REPO_HEAD_PRIVATE_H

#include "repo/head.h"

#define BH_HEAD_TEXT_MAX 16384u /* bytes of any of the text objects */

/* form: d a digit, x a lower-case hex digit, any other character itself. */
bool bh_has_form(const char *s, const char *form);

/* A host name as the texts hold it: control characters and what is not UTF-8 replaced by '?', cut
 * between two characters. */
void bh_clean_host(const char *host, char out[BH_HOST_MAX]);

/* As the others of head.h. label "": the text does not say its name, as those that were made before
 * they did. EINVAL: no label, no id. */
int bh_label_encode(const char *label, const char *id, struct bh_strbuf *out);
int bh_label_decode(char label[BH_BRANCH_MAX], char id[BH_SNAPSHOT_ID_MAX], const char *text,
                    size_t len, const char *what, struct bh_error *err);

#endif
