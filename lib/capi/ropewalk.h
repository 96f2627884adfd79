/* Ropewalk from C, and from every language that can call C: load a model, turn text into tokens and back, generate, read
 * logits and scores, extend the window, train and evaluate.
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
 * threads at once, also while another generates with it. One trainer may be used by one thread at a time, its model by
 * that thread while it runs. Callbacks are called on the thread that made the call. The last error belongs to the
 * thread that made it.
 *
 * Text is UTF-8 by convention, with its length in bytes; it need not be valid and may hold zero bytes.
 *
 * Stability: functions and values are only added. Structs that may grow begin with `size`, so that a program compiled
 * against an older header runs with a newer library; ropewalk_setting and ropewalk_document stay as they are.
 *
 * Settings: what a run, an extension or an evaluation is told beside its model is a list of names and values as text,
 * the same that `ropewalk train --help` and `ropewalk eval KIND --help` list, without the dashes: {"steps", "200"}.
 * Names may be written with - or _; a list takes one entry per element; a flag is "true" or "false". */
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
  ROPEWALK_ERROR_MEMORY = 3,   /* host or device memory ran out */
  ROPEWALK_ERROR_BUFFER = 4,   /* the buffer is too small; the size that is needed has been written */
  ROPEWALK_ERROR_INTERNAL = 5, /* anything else: a defect of the library, or of a callback that threw */
  ROPEWALK_ERROR_STOPPED = 6   /* a progress callback asked to stop; there is no result */
} ropewalk_status;

/* "0.2.0". Never null; owned by the library. */
ROPEWALK_API const char* ropewalk_version(void);

/* Why the last call of this thread that failed did so; "" if none has. Never null; owned by the library and valid until
 * the thread's next call that fails. */
ROPEWALK_API const char* ropewalk_last_error(void);

typedef struct ropewalk_load_options {
  size_t size;           /* sizeof(ropewalk_load_options) */
  const char* tokenizer; /* tokenizer folder or file; NULL: the model folder's, or tokenizer.bin beside a .bin file */
  const char* device;    /* "cpu", "cuda", "cuda:1" or "auto" (the GPU if there is one); NULL: "auto" */
  const char* rope;      /* another rope_scaling than config.json's: a kind ("linear"), or a JSON object with its fields
                            ({"rope_type": "yarn", "factor": 4}); NULL: config.json's. Since 0.2.0 */
} ropewalk_load_options;

/* Loads a model with its tokenizer: `path` is a Hugging Face folder (config.json, safetensors, tokenizer files), the
 * folder of a run, whose newest checkpoint counts until it is finished, a .gguf file, which holds its tokenizer (since
 * 0.2.0), or a llama2.c .bin file. Computes in f32 on the CPU and in bf16 on a GPU. `options` may be NULL.
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

/* ---- since 0.2.0: logits, scores, the RoPE recipe ---------------------------------------------------------------- */

/* Writes the logits after ids[first], ids[first + 1], ..., ids[count - 1]: row i is what the model says of the token
 * that follows ids[first + i]. f32 [count - first, vocab_size], rows one after another, to `logits`, which has room for
 * `capacity` floats; their number goes to *written. One forward pass without a cache; nothing is put in front of `ids`.
 * Sizes as in ropewalk_tokenize: logits = NULL with capacity = 0 asks for the size, and computes nothing.
 * Errors: ARGUMENT (first >= count, no ids), INPUT (an id beyond the vocabulary), BUFFER, MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_logits(ropewalk_model* model, const int32_t* ids, size_t count, size_t first,
                                             float* logits, size_t capacity, size_t* written);

/* Writes log p(ids[i] | ids[0], ..., ids[i - 1]) in nats for i = first, ..., count - 1 to `log_probs`, which has room for
 * `capacity` numbers; their number goes to *written. `first` is at least 1: nothing predicts the first token. Their sum
 * is the log-likelihood of a continuation. Sizes and errors as ropewalk_logits. */
ROPEWALK_API ropewalk_status ropewalk_score(ropewalk_model* model, const int32_t* ids, size_t count, size_t first,
                                            double* log_probs, size_t capacity, size_t* written);

typedef struct ropewalk_setting {
  const char* name;
  const char* value;
} ropewalk_setting;

/* Gives a loaded model the RoPE recipe of a method for a longer window, without training; the weights stay as they are.
 * Settings: method (default full), scaling (a kind, or a JSON object), factor, target (the new window, in tokens), and
 * the fields of the method and its kind. {"scaling", "yarn"}, {"target", "4096"} is YaRN without fine-tuning.
 * Errors: ARGUMENT, INPUT (an unknown setting, windows that do not fit, a kind that learns parameters of its own). */
ROPEWALK_API ropewalk_status ropewalk_extend(ropewalk_model* model, const ropewalk_setting* settings, size_t count);

/* Writes the RoPE recipe that the model has now, as config.json's rope_scaling ("null" for plain RoPE), to `json`.
 * Not terminated by a zero. Sizes as in ropewalk_tokenize. Errors: ARGUMENT, BUFFER, MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_rope(const ropewalk_model* model, char* json, size_t capacity, size_t* bytes);

/* Writes the model with its RoPE recipe and tokenizer as a Hugging Face folder, in the dtype of its files. The folder is
 * made if needed; one that holds a model is refused. Errors: ARGUMENT, INPUT (a folder that holds a model or cannot be
 * written), MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_save(const ropewalk_model* model, const char* folder);

/* ---- since 0.2.0: text in memory --------------------------------------------------------------------------------- */

/* A document as text (`bytes` long, `ids` NULL) or as `count` token ids of the model's tokenizer (`text` NULL). The
 * documents of one call are all of one sort. They are copied. */
typedef struct ropewalk_document {
  const char* name; /* NULL: its number */
  const char* text;
  size_t bytes;
  const int32_t* ids;
  size_t count;
} ropewalk_document;

/* ---- since 0.2.0: evaluation ------------------------------------------------------------------------------------- */

/* Called now and then while an evaluation goes on. Returns 0 to go on, anything else to stop. */
typedef int (*ropewalk_on_progress)(void* user, int64_t done, int64_t total);

typedef struct ropewalk_evaluate_options {
  size_t size;                        /* sizeof(ropewalk_evaluate_options) */
  const ropewalk_document* documents; /* the text, in place of the setting "data"; NULL: none */
  size_t documents_count;
  ropewalk_on_progress on_progress; /* NULL: none */
  void* user;                       /* handed to on_progress */
} ropewalk_evaluate_options;

typedef struct ropewalk_result ropewalk_result;

/* Evaluates a model. `kind`: ppl, lastk, bins, longppl, passkey, needle, tasks, ruler, longbench or choice; settings
 * and their defaults are those of `ropewalk eval KIND`. `options` may be NULL. On success *result belongs to the
 * caller: ropewalk_result_free() it. On an error it is NULL.
 * Errors: ARGUMENT, INPUT (an unknown kind or setting, unreadable text), MEMORY, STOPPED. */
ROPEWALK_API ropewalk_status ropewalk_evaluate(ropewalk_model* model, const char* kind,
                                               const ropewalk_setting* settings, size_t count,
                                               const ropewalk_evaluate_options* options, ropewalk_result** result);

/* The result as `ropewalk eval KIND --json` writes it: {"kind", "protocol": {}, "rows": [{}], "totals": [{}]}, ended by
 * a zero. *bytes, if not NULL, is its length. Owned by the result. NULL for a NULL result. */
ROPEWALK_API const char* ropewalk_result_json(const ropewalk_result* result, size_t* bytes);

/* Makes a multiple-choice set from books for the kind "choice": which of several continuations is the real one?
 * Settings: those of `ropewalk cloze` but "out": data, items, choices, context-words, choice-words, seed. `documents`,
 * text, take the place of "data"; NULL: none. *result holds the items as JSON lines {"context", "choices", "answer"}, one object a
 * line; ropewalk_result_json gives them. Errors: ARGUMENT, INPUT (an unknown setting, too little text), MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_cloze(const ropewalk_setting* settings, size_t count,
                                            const ropewalk_document* documents, size_t documents_count,
                                            ropewalk_result** result);

/* Frees a result. NULL is allowed. */
ROPEWALK_API void ropewalk_result_free(ropewalk_result* result);

/* ---- since 0.2.0: training --------------------------------------------------------------------------------------- */

/* One optimizer step. The library fills it in; later versions may add fields, which `size` tells. */
typedef struct ropewalk_step {
  size_t size;
  int64_t step, steps; /* counted from 1; of the run */
  double loss;         /* nats per scored token */
  double grad_norm;    /* before clipping */
  double lr;
  int64_t tokens; /* scored in this step */
  double tokens_per_s;
  double seconds; /* of training so far */
} ropewalk_step;

/* The loss on the text of the setting "validation". Filled in as ropewalk_step. */
typedef struct ropewalk_validation {
  size_t size;
  int64_t step; /* after so many steps */
  double loss;  /* nats per token */
  int64_t tokens, documents, window;
} ropewalk_validation;

/* Each returns 0 to go on, anything else to stop the run after this step, with a checkpoint where "out" is given. They
 * must not use the trainer or its model. */
typedef int (*ropewalk_on_step)(void* user, const ropewalk_step* step);
typedef int (*ropewalk_on_validation)(void* user, const ropewalk_validation* validation);
/* A line that the user should read: what was chosen for them, what is left out. Ended by a zero. */
typedef void (*ropewalk_on_notice)(void* user, const char* line);

typedef struct ropewalk_train_options {
  size_t size;                        /* sizeof(ropewalk_train_options) */
  const char* device;                 /* as for ropewalk_load */
  const ropewalk_document* documents; /* the text, in place of the setting "data"; NULL: none */
  size_t documents_count;
  ropewalk_on_step on_step; /* each may be NULL */
  ropewalk_on_validation on_validation;
  ropewalk_on_notice on_notice;
  void* user; /* handed to each */
} ropewalk_train_options;

/* How ropewalk_trainer_run ended. WAS_FINISHED: "resume" is set, and the folder "out" holds this run with all of its
 * steps done, by an earlier trainer or process. Nothing is trained and nothing is written. The result's steps are those
 * of the run, its tokens and seconds are 0, and ropewalk_trainer_model gives the finished model. */
typedef enum ropewalk_train_end {
  ROPEWALK_TRAIN_FINISHED = 0,    /* all steps are done */
  ROPEWALK_TRAIN_STOPPED = 1,     /* by a callback */
  ROPEWALK_TRAIN_WAS_FINISHED = 2 /* before: there was nothing to do */
} ropewalk_train_end;

typedef struct ropewalk_train_result {
  size_t size; /* set by the caller: sizeof(ropewalk_train_result) */
  int32_t end; /* a ropewalk_train_end */
  int32_t reserved;
  int64_t steps;  /* done so far */
  int64_t tokens; /* scored, over all processes that the run took */
  double seconds; /* of training, likewise */
} ropewalk_train_result;

typedef struct ropewalk_trainer ropewalk_trainer;

/* Prepares a run: reads the base and the text and checks everything before anything is written. `recipe` is the text of
 * a recipe.toml ([train], key = value), or NULL; the settings, names as of `ropewalk train`, win over it. Among them
 * "from" (the base; without it a new model), "data", "tokenizer", "method", "scaling", "target", "steps", and "out" (the
 * folder that the run leaves; without it nothing is written), "resume", "overwrite". `options` may be NULL.
 * On success *trainer belongs to the caller: ropewalk_trainer_free() it. On an error it is NULL.
 * The same recipe and text give the same weights as `ropewalk train`, bit for bit, on the same machine and threads.
 * Errors: ARGUMENT (also "data" beside documents), INPUT, MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_trainer_create(const char* recipe, const ropewalk_setting* settings, size_t count,
                                                     const ropewalk_train_options* options, ropewalk_trainer** trainer);

/* Trains, once. *result, if not NULL, is filled in. A callback that stops the run is no error: result->end says so.
 * Errors: ARGUMENT (a second run), INPUT (a loss that is not finite, unwritable files), MEMORY, INTERNAL (a callback
 * threw). */
ROPEWALK_API ropewalk_status ropewalk_trainer_run(ropewalk_trainer* trainer, ropewalk_train_result* result);

/* The model as it is: before the run its base, afterwards the trained one. It shares the trainer's weights and memory,
 * may be used while the trainer does not run, also after the trainer was freed, and belongs to the caller:
 * ropewalk_free() it. Errors: ARGUMENT, MEMORY. */
ROPEWALK_API ropewalk_status ropewalk_trainer_model(ropewalk_trainer* trainer, ropewalk_model** model);

/* Frees a trainer. NULL is allowed. Not while it runs. */
ROPEWALK_API void ropewalk_trainer_free(ropewalk_trainer* trainer);

#ifdef __cplusplus
}
#endif
#endif
