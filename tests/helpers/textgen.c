/* textgen: text-like data without end, the same for the same seed: CSV lines
 * "id,day,author,title,body".
 *
 *   textgen BYTES [SEED]      writes lines to standard output until there are at least BYTES */
#include "client.h"

#include <stdio.h>

static const char *const words[] = {
    "the",     "of",     "and",      "to",           "a",           "in",           "that",
    "it",      "was",    "he",       "is",           "for",         "on",           "with",
    "as",      "his",    "be",       "at",           "by",          "had",          "not",
    "are",     "but",    "from",     "or",           "have",        "an",           "they",
    "which",   "one",    "you",      "were",         "her",         "all",          "she",
    "there",   "would",  "their",    "we",           "him",         "been",         "has",
    "when",    "who",    "will",     "more",         "no",          "if",           "out",
    "so",      "said",   "what",     "up",           "its",         "about",        "into",
    "than",    "them",   "can",      "only",         "other",       "new",          "some",
    "could",   "time",   "these",    "two",          "may",         "then",         "do",
    "first",   "any",    "my",       "now",          "such",        "like",         "our",
    "over",    "man",    "me",       "even",         "most",        "made",         "after",
    "also",    "did",    "many",     "before",       "must",        "through",      "years",
    "where",   "much",   "way",      "well",         "down",        "should",       "because",
    "each",    "just",   "those",    "people",       "how",         "too",          "little",
    "state",   "good",   "very",     "make",         "world",       "still",        "own",
    "see",     "men",    "work",     "long",         "get",         "here",         "between",
    "both",    "life",   "being",    "under",        "never",       "day",          "same",
    "another", "know",   "while",    "last",         "might",       "us",           "great",
    "old",     "year",   "off",      "come",         "since",       "against",      "go",
    "came",    "right",  "used",     "take",         "three",       "whale",        "harbour",
    "lantern", "river",  "mountain", "na\xc3\xafve", "caf\xc3\xa9", "\xe9\xaf\xa8", "storm",
    "canvas",  "anchor", "compass",  "island",       "captain",     "letter",
};
enum { WORDS = sizeof words / sizeof words[0] };

/* Early words are frequent, late ones rare, as in a language. */
static const char *word(void)
{
    uint32_t a = client_random() % WORDS, b = client_random() % WORDS, c = client_random() % WORDS;
    uint32_t least = a < b ? a : b;
    return words[least < c ? least : c];
}

static int64_t text(int count, FILE *out)
{
    int64_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += fprintf(out, i ? " %s" : "%s", word());
    return bytes;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3)
        client_die(CLIENT_WRONG, "usage: textgen BYTES [SEED]");
    int64_t wanted = client_number(argv[1]), bytes = 0;
    client_seed(argc > 2 ? (uint32_t)client_number(argv[2]) : 1);
    for (int64_t id = 1; bytes < wanted; id++) {
        bytes += printf("%lld,%u,", (long long)id, 19000 + client_random() % 1500);
        bytes += text(2, stdout);
        bytes += printf(",");
        bytes += text(3 + (int)(client_random() % 5), stdout);
        bytes += printf(",\"%s \"\"%s\"\", ", word(), word());
        bytes += text(20 + (int)(client_random() % 120), stdout);
        bytes += printf("\"\n");
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        client_die(CLIENT_WRONG, "standard output: write error");
    return 0;
}
