/* Completes a prompt from C, and says how likely the model finds what it wrote.
 *
 *   complete MODEL_FOLDER PROMPT [TOKENS [ROPE]]
 *
 * ROPE is another rope_scaling for this call: a kind, or a JSON object such as {"rope_type":"yarn","factor":4}.
 * Build: cc complete.c $(pkg-config --cflags --libs ropewalk-c) */
#include <ropewalk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints a piece as soon as it is there. */
static int print(void* user, int32_t id, const char* piece, size_t bytes) {
  (void)user;
  (void)id;
  fwrite(piece, 1, bytes, stdout);
  return fflush(stdout) != 0;
}

int main(int argc, char** argv) {
  ropewalk_load_options load;
  ropewalk_generate_options options;
  ropewalk_model* model = NULL;
  int32_t* ids = NULL;
  double* log_probs = NULL;
  double sum = 0;
  size_t count = 0, written = 0, i;
  uint32_t flags;
  int failed = 1;
  if (argc < 3) {
    fprintf(stderr, "usage: complete MODEL_FOLDER PROMPT [TOKENS [ROPE]]\n");
    return 2;
  }
  memset(&load, 0, sizeof load);
  load.size = sizeof load;
  load.rope = argc > 4 ? argv[4] : NULL;
  if (ropewalk_load(argv[1], &load, &model) != ROPEWALK_OK) goto done;

  /* The first call asks for the size. */
  flags = ropewalk_bos(model) >= 0 ? ROPEWALK_ADD_BOS : 0;
  ropewalk_tokenize(model, argv[2], strlen(argv[2]), flags, NULL, 0, &count);
  ids = malloc((count + 1) * sizeof *ids);
  log_probs = malloc((count + 1) * sizeof *log_probs);
  if (ids == NULL || log_probs == NULL) goto done;
  if (ropewalk_tokenize(model, argv[2], strlen(argv[2]), flags, ids, count, &count) != ROPEWALK_OK) goto done;

  if (count > 1) {
    if (ropewalk_score(model, ids, count, 1, log_probs, count, &written) != ROPEWALK_OK) goto done;
    for (i = 0; i < written; ++i) sum += log_probs[i];
    fprintf(stderr, "log-likelihood of the prompt: %.4f nats over %lu tokens\n", sum, (unsigned long)written);
  }
  ropewalk_generate_defaults(&options);
  options.max_tokens = argc > 3 ? atoi(argv[3]) : 64;
  options.temperature = 0;
  if (ropewalk_generate(model, ids, count, &options, print, NULL, NULL) != ROPEWALK_OK) goto done;
  printf("\n");
  failed = 0;
done:
  if (failed) fprintf(stderr, "complete: %s\n", ropewalk_last_error());
  free(ids);
  free(log_probs);
  ropewalk_free(model);
  return failed;
}
