/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of spanctl share. */
#ifndef SPANCTL_H
#define SPANCTL_H

#include <stdbool.h>
#include <stdint.h>

#include <json-c/json.h>

enum {
	EXIT_OK = 0,
	EXIT_USAGE = 1,
	EXIT_FAILED = 2,	/* no such device, read or write error, no memory */
	EXIT_DETACHED = 3,	/* no guest is attached (any more) */
	EXIT_TIMEOUT = 4,
	EXIT_REFUSED = 5,	/* not granted */
	EXIT_NOT_FOUND = 6,	/* scan */
};

#define COPY_BYTES	(1u << 20)

enum answer { ANSWER_NONE, ANSWER_ALLOW, ANSWER_DENY, ANSWER_ASK };

struct options {
	bool json;
	bool attached, detached;
	const char *output;
	int64_t timeout_ms;	/* -1: none given */
	uint64_t count;		/* 0: none given */
	/* watch, protect, dirty */
	uint32_t access;	/* SPAN_ACCESS_* asked for */
	uint32_t mode;		/* SPAN_MODE_*, 0: none given */
	uint32_t deadline_us;	/* 0: none given */
	uint32_t on_timeout;	/* SPAN_ALLOW, SPAN_DENY, 0: none given */
	enum answer answer;
	bool cancel, again, list;
	const char *allow;	/* of protect, NULL: none given */
	int64_t interval_ms;	/* of dirty, 0: none given */
};

#define OPTIONS_NONE ((struct options){ .timeout_ms = -1 })

extern struct options opt;

/* spanctl-output.c: messages; these return the exit status that goes with them */
int fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));
int bad_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
int out_of_memory(void);
/* Prints and drops @j; @flags: JSON_C_TO_STRING_* */
void print_json(json_object *j, int flags);

/* spanctl-port.c */
int time_left(long long deadline);		/* for poll(); -1: for ever */
long long deadline_in(int64_t default_ms);	/* of --timeout, else the default */
int cmd_list(void);
int cmd_info(const char *dev);
int cmd_wait(const char *dev);
int cmd_follow(const char *dev);
int cmd_ping(const char *dev);
int cmd_stats(const char *dev);
int cmd_detach(const char *dev);

/* spanctl-data.c */
int cmd_read(const char *dev, const char *offset_text, const char *len_text);
int cmd_write(const char *dev, const char *offset_text, const char *data);
int cmd_dump(const char *dev, const char *path);
int cmd_scan(const char *dev, const char *text);

/* spanctl-watch.c, spanctl-dirty.c; @argv: the ranges */
int cmd_watch(const char *dev, int argc, char **argv);
int cmd_protect(const char *dev, int argc, char **argv);
int cmd_dirty(const char *dev, int argc, char **argv);

#endif
