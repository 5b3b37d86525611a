/* A pack, byte for byte: what tests of the format and of reading packs know of it. */
#ifndef GOLDEN_PACK_H
#define GOLDEN_PACK_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define ID 0x0123456789abcdefULL

/* Made by a program that shares no code with bhfs: a block of 4096 bytes, i * 7 + i / 256 each, and
 * a node's worth of "all work and no play\n", compressed to 39 bytes. */
static const char ref_hex[2][65] = {
    "efcdab89674523011000000000100000d24ac44c83cce842b67a82d2f77bcbe5",
    "efcdab89674523011010000027000010aa06fc1da0ca0a7ee9bb45dcf21b5bb7"};
static const char header_hex[] = "62687061636b310aefcdab8967452301";
static const char node_hex[] =
    "28b52ffd60001fed0000a8616c6c20776f726b20616e64206e6f20706c61790a0100d11ffbc904";
static const char trailer_hex[] = "01010000001000000500000000000000"
                                  "efcdab89674523011000000000100000d24ac44c83cce842b67a82d2f77bcbe5"
                                  "02020100002000000001000000000000"
                                  "efcdab89674523011010000027000010aa06fc1da0ca0a7ee9bb45dcf21b5bb7"
                                  "3710000002000000"
                                  "b57f6955e1a8ad5f2a0c3c0c363b1d894d3a5b2a1d4a5ba772377470de9797b5"
                                  "62687461696c310a";

static inline size_t from_hex(const char *hex, uint8_t *out)
{
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (uint8_t)byte;
    }
    return n;
}

#endif
