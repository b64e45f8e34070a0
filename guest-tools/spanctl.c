// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl: use a span-port of this VM (an L1) from the command line. Here is
 * the command line; the commands are in spanctl-*.c.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/span_port.h>

#include "spanctl.h"
#include "units.h"

#define DEFAULT_DEV	"/dev/span0"
#define MAX_DEADLINE_MS	5000

static const char usage_text[] =
	"usage: spanctl [--json] COMMAND [ARGUMENTS]\n"
	"Use a span-port of this VM: the window into a Span guest's memory.\n"
	"\n"
	"  list                        all ports and what is attached\n"
	"  info [DEV]                  one port in detail\n"
	"  read DEV OFFSET LEN         hex dump, or raw bytes with -o FILE (- is stdout)\n"
	"  write DEV OFFSET DATA       DATA: hex digits, or @FILE (@- is standard input)\n"
	"  dump DEV FILE               the whole memory into a sparse file\n"
	"  scan DEV PATTERN            offsets of a text, or of bytes: hex:DIGITS\n"
	"  wait DEV --attached|--detached\n"
	"  follow [DEV]                the port's state: a line of JSON now and per change\n"
	"  watch DEV --read|--write|--exec RANGE...\n"
	"                              follow accesses to these pages of the guest\n"
	"  protect DEV --allow rwx|none RANGE...\n"
	"                              allow only that, as long as this command runs\n"
	"  dirty DEV [RANGE...]        pages written, per second\n"
	"  ping [DEV]                  a message to L0 and back; -c N times\n"
	"  stats [DEV]                 message counters that L0 keeps for this port\n"
	"  detach [DEV]                ask to be detached, and wait for it\n"
	"\n"
	"  -j, --json          JSON output\n"
	"  -o, --output FILE   of read\n"
	"  -t, --timeout S     end after that time: wait, follow, watch, protect, dirty\n"
	"                      (default: never), detach (default: 10)\n"
	"  -c, --count N       of ping (default 1), follow, watch, protect, dirty (default:\n"
	"                      no end), scan (default 1000)\n"
	"  -h, --help\n"
	"of watch:\n"
	"  --notify            be told; each page once, or always with --again (default)\n"
	"  --block             the access waits for an answer\n"
	"  --answer allow|deny|ask     which (default allow); implies --block\n"
	"  --cancel            with the answer the page leaves the subscription\n"
	"  --deadline MS       how long the access waits at most\n"
	"  --on-timeout allow|deny     what happens then (default allow)\n"
	"of dirty:\n"
	"  --interval S        (default 1); --list prints the pages\n"
	"\n"
	"RANGE: all, START, START+LENGTH or START-LAST. Plain numbers are pages of 4 KiB\n"
	"in the guest's memory (0x12ab); with @ before them, or k, M or G behind, bytes\n"
	"(@0x12ab040, 64M+2M).\n"
	"DEV defaults to " DEFAULT_DEV ". Numbers: 4096, 0x1000, 4k, 2M, 1G.\n"
	"exit status: 0 done; 1 usage; 2 failed; 3 no guest attached; 4 timed out;\n"
	"5 not granted; 6 pattern not found\n";

static int run(int argc, char **argv)
{
	const char *cmd = argv[0], *dev = argc > 1 ? argv[1] : DEFAULT_DEV;

	if (!strcmp(cmd, "list") && argc == 1)
		return cmd_list();
	if (!strcmp(cmd, "info") && argc <= 2)
		return cmd_info(dev);
	if (!strcmp(cmd, "read") && argc == 4)
		return cmd_read(dev, argv[2], argv[3]);
	if (!strcmp(cmd, "write") && argc == 4)
		return cmd_write(dev, argv[2], argv[3]);
	if (!strcmp(cmd, "dump") && argc == 3)
		return cmd_dump(dev, argv[2]);
	if (!strcmp(cmd, "scan") && argc == 3)
		return cmd_scan(dev, argv[2]);
	if (!strcmp(cmd, "wait") && argc <= 2)
		return cmd_wait(dev);
	if (!strcmp(cmd, "follow") && argc <= 2)
		return cmd_follow(dev);
	if (!strcmp(cmd, "watch") && argc >= 2)
		return cmd_watch(dev, argc - 2, argv + 2);
	if (!strcmp(cmd, "protect") && argc >= 2)
		return cmd_protect(dev, argc - 2, argv + 2);
	if (!strcmp(cmd, "dirty"))
		return cmd_dirty(dev, argc > 2 ? argc - 2 : 0, argv + 2);
	if (!strcmp(cmd, "ping") && argc <= 2)
		return cmd_ping(dev);
	if (!strcmp(cmd, "stats") && argc <= 2)
		return cmd_stats(dev);
	if (!strcmp(cmd, "detach") && argc <= 2)
		return cmd_detach(dev);
	return bad_usage("no command '%s' with %d argument%s", cmd, argc - 1, argc == 2 ? "" : "s");
}

static bool parse_seconds(const char *text, int64_t *ms)
{
	char *end;
	double s = strtod(text, &end);

	if (end == text || *end || !(s >= 0) || s > 1e6)
		return false;
	*ms = s * 1000;
	return true;
}

static bool parse_milliseconds(const char *text, uint32_t *us)
{
	char *end;
	double ms = strtod(text, &end);

	if (end == text || *end || !(ms >= 1) || ms > MAX_DEADLINE_MS)
		return false;
	*us = ms * 1000;
	return true;
}

static bool parse_verdict(const char *text, uint32_t *verdict)
{
	*verdict = !strcmp(text, "allow") ? SPAN_ALLOW : !strcmp(text, "deny") ? SPAN_DENY : 0;
	return *verdict;
}

static bool parse_answer(const char *text, enum answer *answer)
{
	*answer = !strcmp(text, "allow") ? ANSWER_ALLOW : !strcmp(text, "deny") ? ANSWER_DENY :
		  !strcmp(text, "ask") ? ANSWER_ASK : ANSWER_NONE;
	return *answer;
}

static int set_mode(uint32_t mode)
{
	if (opt.mode && opt.mode != mode)
		return bad_usage("either --block or --notify");
	opt.mode = mode;
	return EXIT_OK;
}

/* One option with its argument @arg; an exit status. */
static int set_option(int c, const char *arg)
{
	switch (c) {
	case 'j':
		opt.json = true;
		break;
	case 'A':
		opt.attached = true;
		break;
	case 'D':
		opt.detached = true;
		break;
	case 'o':
		opt.output = arg;
		break;
	case 't':
		if (!parse_seconds(arg, &opt.timeout_ms))
			return bad_usage("bad number of seconds '%s'", arg);
		break;
	case 'c':
		if (!parse_size(arg, &opt.count) || !opt.count)
			return bad_usage("bad count '%s'", arg);
		break;
	case 'R':
		opt.access |= SPAN_ACCESS_R | SPAN_ACCESS_W | SPAN_ACCESS_X;
		break;
	case 'W':
		opt.access |= SPAN_ACCESS_W;
		break;
	case 'X':
		opt.access |= SPAN_ACCESS_X;
		break;
	case 'B':
		return set_mode(SPAN_MODE_BLOCK);
	case 'N':
		return set_mode(SPAN_MODE_NOTIFY);
	case 'd':
		if (!parse_milliseconds(arg, &opt.deadline_us))
			return bad_usage("bad deadline '%s': 1 to %d milliseconds", arg, MAX_DEADLINE_MS);
		break;
	case 'O':
		if (!parse_verdict(arg, &opt.on_timeout))
			return bad_usage("--on-timeout is allow or deny, not '%s'", arg);
		break;
	case 'a':
		if (!parse_answer(arg, &opt.answer))
			return bad_usage("--answer is allow, deny or ask, not '%s'", arg);
		break;
	case 'C':
		opt.cancel = true;
		break;
	case 'G':
		opt.again = true;
		break;
	case 'P':
		opt.allow = arg;
		break;
	case 'i':
		if (!parse_seconds(arg, &opt.interval_ms) || opt.interval_ms < 1)
			return bad_usage("bad interval '%s'", arg);
		break;
	case 'l':
		opt.list = true;
		break;
	default:	/* getopt has said what is wrong */
		return EXIT_USAGE;
	}
	return EXIT_OK;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "attached", no_argument, NULL, 'A' },
		{ "detached", no_argument, NULL, 'D' },
		{ "output", required_argument, NULL, 'o' },
		{ "timeout", required_argument, NULL, 't' },
		{ "count", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ "read", no_argument, NULL, 'R' },
		{ "write", no_argument, NULL, 'W' },
		{ "exec", no_argument, NULL, 'X' },
		{ "block", no_argument, NULL, 'B' },
		{ "notify", no_argument, NULL, 'N' },
		{ "deadline", required_argument, NULL, 'd' },
		{ "on-timeout", required_argument, NULL, 'O' },
		{ "answer", required_argument, NULL, 'a' },
		{ "cancel", no_argument, NULL, 'C' },
		{ "again", no_argument, NULL, 'G' },
		{ "allow", required_argument, NULL, 'P' },
		{ "interval", required_argument, NULL, 'i' },
		{ "list", no_argument, NULL, 'l' },
		{ }
	};
	int c, ret;

	while ((c = getopt_long(argc, argv, "jo:t:c:h", longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage_text, stdout);
			return EXIT_OK;
		}
		ret = set_option(c, optarg);
		if (ret)
			return ret;
	}
	if (optind == argc) {
		fputs(usage_text, stderr);
		return EXIT_USAGE;
	}
	ret = run(argc - optind, argv + optind);
	if (fflush(stdout) || ferror(stdout))
		return fail(-errno, "standard output");
	return ret;
}
