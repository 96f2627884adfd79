/* Extends the window of a model from C: PoSE's positions and YaRN's frequencies, four times the window, then the
 * perplexity before and after.
 *
 *   extend BASE_FOLDER TEXT OUT_FOLDER [STEPS]
 *
 * Build: cc extend.c $(pkg-config --cflags --libs ropewalk-c) */
#include <ropewalk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int show(void* user, const ropewalk_step* step) {
  (void)user;
  fprintf(stderr, "\rstep %ld of %ld  loss %.4f ", (long)step->step, (long)step->steps, step->loss);
  return 0; /* anything else would end the run here */
}

/* One line of JSON per window. */
static ropewalk_status perplexity(ropewalk_model* model, const char* text, const char* window) {
  ropewalk_setting settings[3];
  ropewalk_result* result = NULL;
  ropewalk_status status;
  settings[0].name = "data", settings[0].value = text;
  settings[1].name = "window", settings[1].value = window;
  settings[2].name = "max-tokens", settings[2].value = "8192";
  status = ropewalk_evaluate(model, "ppl", settings, 3, NULL, &result);
  if (status == ROPEWALK_OK) {
    const char* totals = strstr(ropewalk_result_json(result, NULL), "\"totals\"");
    printf("%s\n", totals ? totals : "");
  }
  ropewalk_result_free(result);
  return status;
}

int main(int argc, char** argv) {
  ropewalk_setting settings[8];
  ropewalk_train_options options;
  ropewalk_train_result result;
  ropewalk_trainer* trainer = NULL;
  ropewalk_model *base = NULL, *extended = NULL;
  char target[32];
  int failed = 1;
  if (argc < 4) {
    fprintf(stderr, "usage: extend BASE_FOLDER TEXT OUT_FOLDER [STEPS]\n");
    return 2;
  }
  if (ropewalk_load(argv[1], NULL, &base) != ROPEWALK_OK) goto done;
  sprintf(target, "%ld", 4 * (long)ropewalk_context_length(base));
  if (perplexity(base, argv[2], target) != ROPEWALK_OK) goto done;

  settings[0].name = "from", settings[0].value = argv[1];
  settings[1].name = "data", settings[1].value = argv[2];
  settings[2].name = "out", settings[2].value = argv[3];
  settings[3].name = "method", settings[3].value = "pose";
  settings[4].name = "scaling", settings[4].value = "yarn";
  settings[5].name = "target", settings[5].value = target;
  settings[6].name = "steps", settings[6].value = argc > 4 ? argv[4] : "200";
  settings[7].name = "lr", settings[7].value = "1e-3";
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.on_step = show;
  memset(&result, 0, sizeof result);
  result.size = sizeof result;
  if (ropewalk_trainer_create(NULL, settings, 8, &options, &trainer) != ROPEWALK_OK) goto done;
  if (ropewalk_trainer_run(trainer, &result) != ROPEWALK_OK) goto done;
  fprintf(stderr, "\n%ld steps in %.1f s\n", (long)result.steps, result.seconds);
  if (ropewalk_trainer_model(trainer, &extended) != ROPEWALK_OK) goto done;
  if (perplexity(extended, argv[2], target) != ROPEWALK_OK) goto done;
  failed = 0;
done:
  if (failed) fprintf(stderr, "extend: %s\n", ropewalk_last_error());
  ropewalk_free(extended);
  ropewalk_trainer_free(trainer);
  ropewalk_free(base);
  return failed;
}
