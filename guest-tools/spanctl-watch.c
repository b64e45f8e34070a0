// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl watch and protect: follow the accesses to pages of the guest, and
 * decide about them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "session.h"
#include "spanctl.h"
#include "watch-client.h"

#define BATCH	16

struct follow {
	struct session s;
	uint64_t shown;
	bool protect;
	uint32_t allow;		/* of protect */
	enum wakeup why;	/* WAKE_EVENT: go on */
};

/* --- output --- */

static const char *verdict_word(uint32_t verdict)
{
	return verdict == SPAN_DENY ? "deny" : "allow";
}

static void add_number(json_object *j, const char *name, uint64_t value)
{
	json_object_object_add(j, name, json_object_new_int64(value));
}

static void add_text(json_object *j, const char *name, const char *value)
{
	json_object_object_add(j, name, json_object_new_string(value));
}

static json_object *line(const char *type)
{
	json_object *j = json_object_new_object();

	add_text(j, "type", type);
	return j;
}

static void say_start(const struct follow *f)
{
	json_object *j;

	if (!opt.json) {
		printf("%s: %s %" PRIu64 " page%s\n", f->s.dev,
		       f->protect ? "protecting" : "watching", f->s.pages,
		       f->s.pages == 1 ? "" : "s");
		fflush(stdout);
		return;
	}
	j = line("start");
	add_number(j, "pages", f->s.pages);
	print_json(j, JSON_C_TO_STRING_PLAIN);
}

static void add_flag(json_object *j, const char *name, bool value)
{
	json_object_object_add(j, name, json_object_new_boolean(value));
}

static json_object *event_json(const struct span_watch_event *e)
{
	json_object *j = line("event");

	add_number(j, "event", e->event);
	json_object_object_add(j, "time", json_object_new_double(e->time_ns / 1e9));
	add_text(j, "access", access_word(e->access));
	add_number(j, "page", e->page);
	add_text(j, "source", source_word(e->source));
	json_object_object_add(j, "vcpu", e->vcpu == 0xffff ? NULL : json_object_new_int(e->vcpu));
	json_object_object_add(j, "gpa", e->gpa == ~0ull ? NULL : json_object_new_int64(e->gpa));
	json_object_object_add(j, "rip", e->rip ? json_object_new_uint64(e->rip) : NULL);
	add_number(j, "cr3", e->cr3);
	add_flag(j, "notice", e->flags & SPAN_EVENT_F_NOTICE);
	add_flag(j, "violation", e->flags & SPAN_EVENT_F_VIOLATION);
	add_flag(j, "after", e->flags & SPAN_EVENT_F_AFTER);
	add_flag(j, "walk", e->flags & SPAN_EVENT_F_WALK);
	add_flag(j, "delivery", e->flags & SPAN_EVENT_F_DELIVERY);
	return j;
}

/* @verdict 0: there was nothing to answer. */
static void say_event(const struct span_watch_event *e, uint32_t verdict)
{
	char text[300];
	json_object *j;

	if (opt.json) {
		j = event_json(e);
		json_object_object_add(j, "answer", verdict ?
				       json_object_new_string(verdict_word(verdict)) : NULL);
		print_json(j, JSON_C_TO_STRING_PLAIN);
		return;
	}
	event_text(text, sizeof(text), e);
	if (verdict)
		printf("%s: %s\n", text, verdict_word(verdict));
	else
		puts(text);
	fflush(stdout);
}

static void say_lost(const struct span_watch_event *e)
{
	json_object *j;

	if (!opt.json) {
		printf("events were lost: %u so far\n", e->lost);
		fflush(stdout);
		return;
	}
	j = line("lost");
	add_number(j, "lost", e->lost);
	print_json(j, JSON_C_TO_STRING_PLAIN);
}

/* The reason, and the watch's counters if L0 still has it. */
static void say_end(const struct follow *f, enum wakeup why)
{
	struct span_watch_info i;
	bool known = !watch_info(f->s.fd, &i);
	json_object *j;

	if (!opt.json) {
		printf("end: %s", wakeup_word(why));
		if (known)
			printf("; %llu events, %llu notices, %llu violations; %llu allowed, %llu denied, %llu timed out, %llu too late, %llu lost%s",
			       (unsigned long long)i.events, (unsigned long long)i.notices,
			       (unsigned long long)i.violations, (unsigned long long)i.allowed,
			       (unsigned long long)i.denied, (unsigned long long)i.timeouts,
			       (unsigned long long)i.stale, (unsigned long long)i.lost,
			       i.muted ? "; muted" : "");
		putchar('\n');
		fflush(stdout);
		return;
	}
	j = line("end");
	add_text(j, "reason", wakeup_word(why));
	if (known) {
		add_number(j, "watch", i.watch);
		add_number(j, "deadline_us", i.deadline_us);
		add_flag(j, "muted", i.muted);
		add_number(j, "pages_subscribed", i.pages_subscribed);
		add_number(j, "pages_protected", i.pages_protected);
		add_number(j, "events", i.events);
		add_number(j, "notices", i.notices);
		add_number(j, "violations", i.violations);
		add_number(j, "allowed", i.allowed);
		add_number(j, "denied", i.denied);
		add_number(j, "timeouts", i.timeouts);
		add_number(j, "stale", i.stale);
		add_number(j, "lost", i.lost);
	}
	print_json(j, JSON_C_TO_STRING_PLAIN);
}

/* --- events --- */

/*
 * The first letter of what the person types, when the line is whole; at the end of
 * the input what there is of it, or else 'a'. Letter by letter, so that half a line
 * keeps no signal waiting. Anything but WAKE_INPUT: no answer, the command ends.
 */
static enum wakeup read_letter(struct session *s, char *letter)
{
	bool begun = false;
	enum wakeup why;
	ssize_t n;
	char c;

	for (;;) {
		why = session_wait_input(s);
		if (why != WAKE_INPUT)
			return why;
		n = read(STDIN_FILENO, &c, 1);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			c = 'a';
		if (!begun)
			*letter = c;
		if (n <= 0 || c == '\n')
			return WAKE_INPUT;
		begun = true;
	}
}

/*
 * By the person at the terminal. The end of the input allows; so does the end of
 * this command, which then is in f->why.
 */
static uint32_t ask(struct follow *f, const struct span_watch_event *e, uint32_t *flags)
{
	char text[300], letter;
	enum wakeup why;

	event_text(text, sizeof(text), e);
	for (;;) {
		fprintf(stderr, "%s: (a)llow, (d)eny, with capitals never ask about this page again? ", text);
		why = read_letter(&f->s, &letter);
		if (why != WAKE_INPUT) {
			fputc('\n', stderr);
			f->why = why;
			return SPAN_ALLOW;
		}
		if (letter == 'A' || letter == 'D')
			*flags = SPAN_ANSWER_CANCEL;
		if (letter == 'a' || letter == 'A')
			return SPAN_ALLOW;
		if (letter == 'd' || letter == 'D')
			return SPAN_DENY;
	}
}

static int subscribe(const struct follow *f, const struct page_range *r)
{
	if (f->protect)
		return watch_protect(f->s.fd, f->allow, r->first, r->pages);
	return watch_subscribe(f->s.fd, opt.access, opt.mode, r->first, r->pages);
}

static int subscribe_all(const struct follow *f)
{
	int ret = 0, i;

	for (i = 0; !ret && i < f->s.ranges; i++)
		ret = subscribe(f, &f->s.range[i]);
	return ret;
}

/* A notice takes its page out of the subscription: put it back if that is wished. */
static int subscribe_again(const struct follow *f, const struct span_watch_event *e)
{
	struct page_range page = { e->page, 1 };

	if (!opt.again || e->event || (e->flags & SPAN_EVENT_F_VIOLATION))
		return 0;
	return e->access ? subscribe(f, &page) : subscribe_all(f);
}

static int answer(struct follow *f, const struct span_watch_event *e, uint32_t *verdict)
{
	uint32_t flags = opt.cancel ? SPAN_ANSWER_CANCEL : 0;

	*verdict = 0;
	if (!e->event)
		return 0;
	if (opt.answer == ANSWER_ASK)
		*verdict = ask(f, e, &flags);
	else
		*verdict = opt.answer == ANSWER_DENY ? SPAN_DENY : SPAN_ALLOW;
	return watch_answer(f->s.fd, e->event, *verdict, flags);
}

/* Answer first: the guest waits for it, the reader of our output does not. */
static int take_event(struct follow *f, const struct span_watch_event *e)
{
	uint32_t verdict;
	int ret = answer(f, e, &verdict);

	if (!ret)
		ret = subscribe_again(f, e);
	if (ret)
		return ret;
	if (!e->access) {
		say_lost(e);
	} else {
		say_event(e, verdict);
		f->shown++;
	}
	return 0;
}

static bool enough(const struct follow *f)
{
	return opt.count && f->shown >= opt.count;
}

static int take_events(struct follow *f)
{
	struct span_watch_event events[BATCH];
	size_t most = BATCH;
	int n, i, ret = 0;

	/* what is not shown stays unanswered in the queue, so take no more */
	if (opt.count && opt.count - f->shown < most)
		most = opt.count - f->shown;
	n = watch_read(f->s.fd, events, most);
	if (n < 0)
		return n;
	for (i = 0; !ret && i < n && f->why == WAKE_EVENT; i++)
		ret = take_event(f, &events[i]);
	return ret;
}

/* Exit status; the wish to end is none of the failures. */
static int end(const struct follow *f, enum wakeup why)
{
	say_end(f, why);
	if (why == WAKE_DETACHED)
		return EXIT_DETACHED;
	return why == WAKE_END && opt.count ? EXIT_TIMEOUT : EXIT_OK;
}

static int follow(struct follow *f)
{
	enum wakeup why;
	int ret;

	ret = subscribe_all(f);
	if (ret)
		return fail(ret, "%s: %s", f->s.dev, f->protect ? "protecting" : "subscribing");
	say_start(f);
	for (;;) {
		why = session_wait(&f->s, -1);
		if (why != WAKE_EVENT)
			return end(f, why);
		ret = take_events(f);
		if (ret == -ENODEV)
			return end(f, WAKE_DETACHED);
		if (ret)
			return fail(ret, "%s: events", f->s.dev);
		if (f->why != WAKE_EVENT || enough(f))
			return end(f, f->why);
	}
}

static int check_watch_options(void)
{
	if (opt.allow)
		return bad_usage("--allow is for protect");
	if (!opt.access)
		return bad_usage("watch needs --read, --write or --exec");
	if (opt.mode == SPAN_MODE_NOTIFY && (opt.answer || opt.cancel))
		return bad_usage("with --notify there is nothing to answer");
	if (opt.mode == SPAN_MODE_BLOCK && opt.again)
		return bad_usage("--again is for --notify");
	if (!opt.mode)
		opt.mode = opt.answer || opt.cancel ? SPAN_MODE_BLOCK : SPAN_MODE_NOTIFY;
	return EXIT_OK;
}

int cmd_watch(const char *dev, int argc, char **argv)
{
	struct follow f = {};
	int ret = check_watch_options();

	if (ret)
		return ret;
	ret = session_open(&f.s, dev, argc, argv, false);
	if (!ret)
		ret = follow(&f);
	session_close(&f.s);
	return ret;
}

int cmd_protect(const char *dev, int argc, char **argv)
{
	struct follow f = { .protect = true };
	int access, ret;

	if (opt.access || opt.mode || opt.answer || opt.cancel || opt.again || opt.on_timeout ||
	    opt.deadline_us)
		return bad_usage("protect denies at once: of watch's options it has none");
	access = opt.allow ? parse_access(opt.allow) : -1;
	if (access < 0)
		return bad_usage("protect needs --allow with letters of rwx, or none");
	f.allow = access;
	ret = session_open(&f.s, dev, argc, argv, false);
	if (!ret)
		ret = follow(&f);
	session_close(&f.s);
	return ret;
}
