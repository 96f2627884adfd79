/* Ropewalk from C, and from every language that can call C: load a model, turn text into tokens and back, generate.
 *
 *   ropewalk_model* model = NULL;
 *   if (ropewalk_load("models/books30m", NULL, &model) != ROPEWALK_OK) { puts(ropewalk_last_error()); return 1; }
 *   int32_t ids[256];
 *   size_t count = 0;
 *   ropewalk_tokenize(model, "Call me", 7, ROPEWALK_ADD_BOS, ids, 256, &count);
 *   ropewalk_generate(model, ids, count, NULL, print_piece, NULL, NULL);
 *   ropewalk_free(model);
 *
 * Errors: every call that can fail returns a ropewalk_status; ropewalk_last_error() says why, in one line. Nothing is
 * printed, nothing exits, no C++ exception comes out. After an error the model is as it was and may be used on.
 *
 * Threads: one model may be used by one thread at a time; different models, by different threads at once.
 * ropewalk_tokenize, ropewalk_detokenize and the questions (vocab_size ...) may be called on one model from many
 * threads at once, also while another generates with it. The last error belongs to the thread that made it.
 *
 * Text is UTF-8 by convention, with its length in bytes; it need not be valid and may hold zero bytes.
 *
 * Stability: functions and values are only added. Structs begin with `size`, so that a program compiled against an
 * older header runs with a newer library. */
#ifndef ROPEWALK_H
#define ROPEWALK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ROPEWALK_API __attribute__((visibility("default")))
#else
#define ROPEWALK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ropewalk_model ropewalk_model;

typedef enum ropewalk_status {
  ROPEWALK_OK = 0,
  ROPEWALK_ERROR_ARGUMENT = 1, /* a null pointer, a number out of range, a struct of unknown size */
  ROPEWALK_ERROR_INPUT = 2, /* a file is missing, unreadable or garbled, or does not fit; an id beyond the vocabulary */
  ROPEWALK_ERROR_MEMORY = 3,  /* host or device memory ran out */
  ROPEWALK_ERROR_BUFFER = 4,  /* the buffer is too small; the size that is needed has been written */
  ROPEWALK_ERROR_INTERNAL = 5 /* anything else: a defect of the library, or of a callback that threw */
} ropewalk_status;

/* "0.1.0". Never null; owned by the library. */
ROPEWALK_API const char* ropewalk_version(void);

/* Why the last call of this thread that failed did so; "" if none has. Never null; owned by the library and valid until
 * the thread's next call that fails. */
ROPEWALK_API const char* ropewalk_last_error(void);

typedef struct ropewalk_load_options {
  size_t size;           /* sizeof(ropewalk_load_options) */
  const char* tokenizer; /* tokenizer folder or file; NULL: the model folder's, or tokenizer.bin beside a .bin file */
  const char* device;    /* "cpu", "cuda", "cuda:1" or "auto" (the GPU if there is one); NULL: "auto" */
} ropewalk_load_options;

/* Loads a model with its tokenizer: `path` is a Hugging Face folder (config.json, safetensors, tokenizer files), or a
 * llama2.c .bin file. Computes in f32 on the CPU and in bf16 on a GPU. `options` may be NULL.
 * On success *model is set and belongs to the caller: ropewalk_free() it. On an error *model is NULL.
 * Errors: ARGUMENT, INPUT, MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_load(const char* path, const ropewalk_load_options* options,
                                           ropewalk_model** model);

/* Frees a model. NULL is allowed. No other call may be using the model. */
ROPEWALK_API void ropewalk_free(ropewalk_model* model);

/* Number of token ids: valid ones are 0 to this minus 1. 0 for a NULL model. */
ROPEWALK_API int32_t ropewalk_vocab_size(const ropewalk_model* model);
/* Context window in tokens, as config.json tells it. 0 for a NULL model. */
ROPEWALK_API int64_t ropewalk_context_length(const ropewalk_model* model);
/* Beginning- and end-of-text tokens; -1 if the tokenizer has none, or for a NULL model. */
ROPEWALK_API int32_t ropewalk_bos(const ropewalk_model* model);
ROPEWALK_API int32_t ropewalk_eos(const ropewalk_model* model);

/* Flags of ropewalk_tokenize. */
#define ROPEWALK_ADD_BOS 1u       /* the beginning-of-text token first; ERROR_INPUT if there is none */
#define ROPEWALK_PARSE_SPECIAL 2u /* a special token spelled out in the text ("<s>") becomes its id */

/* Writes the ids of `text` (`bytes` long; may be NULL if 0) to `ids`, which has room for `capacity` of them, and their
 * number to *count. If they do not fit, nothing but *count is written and ERROR_BUFFER is returned, so a first call
 * with ids = NULL and capacity = 0 asks for the size. Errors: ARGUMENT, INPUT, BUFFER, MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_tokenize(const ropewalk_model* model, const char* text, size_t bytes,
                                               uint32_t flags, int32_t* ids, size_t capacity, size_t* count);

/* Writes the text of `count` ids to `text`, which has room for `capacity` bytes, and its length to *bytes. The text is
 * not terminated by a zero. Special tokens give nothing. Sizes as in ropewalk_tokenize.
 * Errors: ARGUMENT, INPUT (an id beyond the vocabulary), BUFFER, MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_detokenize(const ropewalk_model* model, const int32_t* ids, size_t count,
                                                 char* text, size_t capacity, size_t* bytes);

typedef struct ropewalk_generate_options {
  size_t size;         /* sizeof(ropewalk_generate_options); ropewalk_generate_defaults() sets it */
  int64_t max_tokens;  /* at most so many new tokens, 0 to 2^31 - 1; memory is taken for all of them. Default 128 */
  double temperature;  /* >= 0; 0: always the most likely token. Default 1 */
  int64_t top_k;       /* choose among the k most likely; 0: all. Default 0 */
  double top_p;        /* in (0, 1]: choose among the most likely that reach this probability. Default 1 */
  uint64_t seed;       /* the same seed, prompt and options give the same tokens. Default 0 */
  int32_t ignore_ends; /* not 0: go on after an end-of-text (or beginning-of-text) token. Default 0 */
} ropewalk_generate_options;

/* Fills in the defaults. NULL is allowed and does nothing. */
ROPEWALK_API void ropewalk_generate_defaults(ropewalk_generate_options* options);

/* Called for every new token, on the thread that called ropewalk_generate. `piece` is the text it adds: `bytes` long, a
 * zero behind it, valid during the call. It may be a part of a character. Returns 0 to go on, anything else to stop.
 * It may call ropewalk_tokenize and ropewalk_detokenize, but not generate with or free the same model. */
typedef int (*ropewalk_on_token)(void* user, int32_t id, const char* piece, size_t bytes);

/* Continues a prompt of `count` ids (at least one: begin with ROPEWALK_ADD_BOS). Ends after max_tokens, at an
 * end-of-text token (which is not reported), or when `on_token` says so. `options` NULL: the defaults. `user` is handed
 * to `on_token`. *made, if not NULL, is the number of new tokens, also after an error.
 * Errors: ARGUMENT, INPUT (an id beyond the vocabulary), MEMORY, INTERNAL. */
ROPEWALK_API ropewalk_status ropewalk_generate(ropewalk_model* model, const int32_t* prompt, size_t count,
                                               const ropewalk_generate_options* options, ropewalk_on_token on_token,
                                               void* user, int64_t* made);

/* How many CPU threads all models together use from now on: for the whole process, so call it before the work starts.
 * Errors: ARGUMENT (fewer than 1 or more than 4096). */
ROPEWALK_API ropewalk_status ropewalk_set_threads(int32_t threads);

#ifdef __cplusplus
}
#endif
#endif
