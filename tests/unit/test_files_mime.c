/* MIME types by names and by first bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "store/files.h"

static void by_name(void **state)
{
    (void)state;
    assert_string_equal(bh_mime_of_name("a.b.PNG"), "image/png");
    assert_string_equal(bh_mime_of_name("page.html"), "text/html");
    assert_string_equal(bh_mime_of_name("png"), "application/octet-stream");
    assert_string_equal(bh_mime_of_name("a.unheard-of"), "application/octet-stream");
    assert_string_equal(bh_mime_of_name(""), "application/octet-stream");
}

static void by_first_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *mime;
    } all[] = {
        {"\x89PNG\r\n\x1a\n....", 12, "image/png"},
        {"\x89PNG\r\n", 6, "application/octet-stream"}, /* cut off */
        {"\xff\xd8\xff\xe0..", 6, "image/jpeg"},
        {"%PDF-1.7\n", 9, "application/pdf"},
        {"SQLite format 3\0...", 19, "application/vnd.sqlite3"},
        {"RIFF1234WAVEfmt ", 16, "audio/x-wav"},
        {"RIFF1234WEBPVP8 ", 16, "image/webp"},
        {"\0\0\0\x18"
         "ftypmp42",
         12, "video/mp4"},
        {"\x1f\x8b\x08\0", 4, "application/gzip"},
        {"\n <!DOCTYPE HTML>\n", 18, "text/html"},
        {"<?xml version='1.0'?>\n<a/>", 26, "text/xml"},
        {"<?xml version='1.0'?>\n<svg/>", 28, "image/svg+xml"},
        {"#!/usr/bin/env python3\n", 23, "text/x-python"},
        {"#!/bin/sh\n", 10, "text/x-sh"},
        {"plain t\xc3\xa4xt\n", 12, "text/plain"},
        {"cut off \xc3", 9, "application/octet-stream"},
        {"\xff\xfe", 2, "application/octet-stream"},
        {"THE NEW WAVE in", 15, "text/plain"},
        {"a,b,ftypmp42,c", 14, "text/plain"},
        {"\0\0\0\x18"
         "ftypheic",
         12, "image/heic"},
        {"latin t\xe4xt\n", 11, "application/octet-stream"},
        {"\n\n \n", 4, "text/plain"},
        {"nearly\0text", 11, "application/octet-stream"},
        {"nearly\x01text", 11, "application/octet-stream"},
        {"", 0, "application/octet-stream"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_string_equal(bh_mime_of_bytes(all[i].bytes, all[i].len), all[i].mime);
    char cut[512];
    memset(cut, 'x', sizeof cut);
    cut[511] = '\xc3'; /* the first byte of a character that goes on */
    assert_string_equal(bh_mime_of_bytes(cut, sizeof cut), "text/plain");
    cut[400] = '\xc3';
    assert_string_equal(bh_mime_of_bytes(cut, sizeof cut), "application/octet-stream");
    char tar[512] = "name";
    memcpy(tar + 257, "ustar", 5);
    assert_string_equal(bh_mime_of_bytes(tar, sizeof tar), "application/x-tar");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_name), cmocka_unit_test(by_first_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
