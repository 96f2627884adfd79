/* A plain C99 program against ropewalk.h: everything a binding needs, with every status looked at. */
#include "use_from_c.h"

#include <ropewalk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
  char* bytes;
  size_t used, capacity;
};

static int append(void* user, int32_t id, const char* piece, size_t bytes) {
  struct text* text = (struct text*)user;
  if (id < 0 || piece[bytes] != 0 || text->used + bytes + 1 > text->capacity) return 1;
  memcpy(text->bytes + text->used, piece, bytes + 1);
  text->used += bytes;
  return 0;
}

#define TRY(call)                                             \
  do {                                                        \
    if ((call) != ROPEWALK_OK) {                              \
      fprintf(stderr, #call ": %s\n", ropewalk_last_error()); \
      line = __LINE__;                                        \
      goto done;                                              \
    }                                                         \
  } while (0)

int use_from_c(const char* model_path, const char* text, int tokens, char* out, size_t capacity) {
  ropewalk_model* model = NULL;
  ropewalk_load_options load;
  ropewalk_generate_options options;
  struct text made;
  int32_t* ids = NULL;
  char* again = NULL;
  size_t count = 0, bytes = 0;
  int64_t new_tokens = -1;
  int line = 0;

  memset(&load, 0, sizeof load);
  load.size = sizeof load;
  load.device = "cpu";
  TRY(ropewalk_load(model_path, &load, &model));
  if (ropewalk_tokenize(model, text, strlen(text), ROPEWALK_ADD_BOS, NULL, 0, &count) != ROPEWALK_ERROR_BUFFER) {
    line = __LINE__;
    goto done;
  }
  ids = (int32_t*)malloc(count * sizeof *ids);
  TRY(ropewalk_tokenize(model, text, strlen(text), ROPEWALK_ADD_BOS, ids, count, &count));
  again = (char*)malloc(strlen(text) + 1);
  TRY(ropewalk_detokenize(model, ids, count, again, strlen(text), &bytes));
  if (bytes != strlen(text) || memcmp(again, text, bytes) != 0) {
    line = __LINE__;
    goto done;
  }
  ropewalk_generate_defaults(&options);
  options.max_tokens = tokens;
  options.temperature = 0;
  options.ignore_ends = 1;
  made.bytes = out;
  made.used = 0;
  made.capacity = capacity;
  TRY(ropewalk_generate(model, ids, count, &options, append, &made, &new_tokens));
  if (new_tokens != tokens) line = __LINE__;
done:
  free(ids);
  free(again);
  ropewalk_free(model);
  return line;
}
