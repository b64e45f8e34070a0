/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the program ooh share. */
#ifndef OOH_TOOL_H
#define OOH_TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>
#include <libooh.h>

enum {
	EXIT_OK = 0,
	EXIT_USAGE = 1,
	EXIT_FAILED = 2,
	EXIT_ENDED = 3,		/* the process is not there (any more) */
	EXIT_REFUSED = 4,	/* no right to track it */
	EXIT_NONE = 5,		/* no such back-end here */
};

enum format { FORMAT_TEXT, FORMAT_JSON, FORMAT_CSV };

struct tool_options {
	enum format format;
	struct ooh_options open;
	double interval;	/* seconds */
	uint64_t count;		/* epochs; 0: no end */
	bool ranges;
	int pid;		/* of caps; 0: none given */
	const char *output;	/* of run; NULL: standard error */
};

extern struct tool_options opt;
extern volatile bool tool_stop;	/* SIGINT, SIGTERM */

/* tool-output.c: messages; these return the exit status that goes with them */
int fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));
int bad_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One process that is tracked, and its last epoch. */
struct target {
	int pid;
	char name[20];
	struct ooh *ooh;
	struct ooh_range *range;
	size_t n, room;			/* of them, of the last epoch */
	uint64_t epoch, pages;
	uint32_t flags;
	double seconds;
	long long since_ns;
};

/* tool-track.c */
long long now_ns(void);
int target_open(struct target *t, int pid);
int target_fetch(struct target *t);
void target_close(struct target *t);
/* False: it is time to end. */
bool sleep_until(long long ns);
int cmd_track(int argc, char **argv);
int cmd_run(int argc, char **argv);

/* tool-output.c: epochs */
void say_head(void);
void say_epoch(const struct target *t);
int say_to(const char *path, bool errors);	/* epochs go there; NULL: standard output or, with errors, error */
int say_end(void);			/* -errno: what was said did not get there */

/* tool-top.c */
int cmd_top(int argc, char **argv);
int cmd_caps(void);

#endif
