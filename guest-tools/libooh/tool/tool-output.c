// SPDX-License-Identifier: GPL-2.0
/* How ooh says something: errors, and epochs as text, JSON or CSV. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

#define PAGE	4096.0

static FILE *out;

int fail(int err, const char *format, ...)
{
	va_list ap;

	fputs("ooh: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	switch (-err) {
	case ESRCH:
		fputs(": no such process\n", stderr);
		return EXIT_ENDED;
	case EACCES:
	case EPERM:
		fprintf(stderr, ": %s\n", strerror(-err));
		return EXIT_REFUSED;
	case EOPNOTSUPP:
		fputs(": not here\n", stderr);
		return EXIT_NONE;
	default:
		fprintf(stderr, ": %s\n", strerror(-err));
		return EXIT_FAILED;
	}
}

int bad_usage(const char *format, ...)
{
	va_list ap;

	fputs("ooh: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputs("; see ooh --help\n", stderr);
	return EXIT_USAGE;
}

int say_to(const char *path, bool errors)
{
	out = path ? fopen(path, "we") : errors ? stderr : stdout;
	return out ? 0 : -errno;
}

int say_end(void)
{
	int ret = fflush(out) || ferror(out) ? -EIO : 0;

	if (out != stdout && out != stderr && fclose(out))
		ret = -errno;
	return ret;
}

void say_head(void)
{
	if (opt.format == FORMAT_TEXT)
		fprintf(out, " EPOCH   SECONDS     PAGES    PAGES/S      MB/S\n");
	if (opt.format == FORMAT_CSV)
		fprintf(out, opt.ranges ? "epoch,seconds,start,end,pages\n" : "epoch,seconds,pages,pages_per_s,mb_per_s\n");
	fflush(out);
}

static double rate_of(const struct target *t)
{
	return t->seconds > 0 ? t->pages / t->seconds : 0;
}

static void say_json(const struct target *t)
{
	json_object *j = json_object_new_object(), *list, *pair;
	char text[24];
	size_t i;

	json_object_object_add(j, "pid", json_object_new_int(t->pid));
	json_object_object_add(j, "backend", json_object_new_string(ooh_backend_name(ooh_backend(t->ooh))));
	json_object_object_add(j, "epoch", json_object_new_int64(t->epoch));
	json_object_object_add(j, "seconds", json_object_new_double(t->seconds));
	json_object_object_add(j, "pages", json_object_new_int64(t->pages));
	json_object_object_add(j, "pages_per_s", json_object_new_double(rate_of(t)));
	json_object_object_add(j, "mb_per_s", json_object_new_double(rate_of(t) * PAGE / 1e6));
	json_object_object_add(j, "lost", json_object_new_boolean(t->flags & OOH_EPOCH_LOST));
	if (opt.ranges) {
		list = json_object_new_array();
		for (i = 0; i < t->n; i++) {
			pair = json_object_new_array();
			snprintf(text, sizeof(text), "0x%" PRIx64, t->range[i].start);
			json_object_array_add(pair, json_object_new_string(text));
			snprintf(text, sizeof(text), "0x%" PRIx64, t->range[i].end);
			json_object_array_add(pair, json_object_new_string(text));
			json_object_array_add(list, pair);
		}
		json_object_object_add(j, "ranges", list);
	}
	fprintf(out, "%s\n", json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN));
	json_object_put(j);
}

static void say_csv(const struct target *t)
{
	size_t i;

	if (!opt.ranges) {
		fprintf(out, "%" PRIu64 ",%.6f,%" PRIu64 ",%.1f,%.3f\n", t->epoch, t->seconds, t->pages,
			rate_of(t), rate_of(t) * PAGE / 1e6);
		return;
	}
	for (i = 0; i < t->n; i++)
		fprintf(out, "%" PRIu64 ",%.6f,0x%" PRIx64 ",0x%" PRIx64 ",%.0f\n", t->epoch, t->seconds,
			t->range[i].start, t->range[i].end, (t->range[i].end - t->range[i].start) / PAGE);
}

static void say_text(const struct target *t)
{
	size_t i;

	fprintf(out, "%6" PRIu64 " %9.3f %9" PRIu64 " %10.0f %9.2f%s\n", t->epoch, t->seconds, t->pages,
		rate_of(t), rate_of(t) * PAGE / 1e6,
		t->flags & OOH_EPOCH_LOST ? "  lost track: all pages" : "");
	for (i = 0; opt.ranges && i < t->n; i++)
		fprintf(out, "        0x%012" PRIx64 "-0x%012" PRIx64 " %8.0f\n", t->range[i].start, t->range[i].end,
			(t->range[i].end - t->range[i].start) / PAGE);
}

void say_epoch(const struct target *t)
{
	switch (opt.format) {
	case FORMAT_JSON:
		say_json(t);
		break;
	case FORMAT_CSV:
		say_csv(t);
		break;
	default:
		say_text(t);
	}
	fflush(out);
}
