/* What test_capi.cpp asks of the C program: see use_from_c.c. */
#ifndef USE_FROM_C_H
#define USE_FROM_C_H
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
/* Loads `model`, tokenizes and detokenizes `text` and generates `tokens` tokens at temperature 0 into `out` (room for
 * `capacity` bytes, ended by a zero). 0, or the line of the first call that failed. */
int use_from_c(const char* model, const char* text, int tokens, char* out, size_t capacity);
#ifdef __cplusplus
}
#endif
#endif
