// SPDX-License-Identifier: GPL-2.0
/* ooh: which pages of processes are written, from the command line. Here is the command line. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define LEAST_INTERVAL	0.001
#define MOST_INTERVAL	86400

static const char usage_text[] =
	"usage: ooh caps [--pid PID] [--json]\n"
	"       ooh track [OPTIONS] PID\n"
	"       ooh run [OPTIONS] COMMAND [ARGUMENT...]\n"
	"       ooh top [OPTIONS] PID...\n"
	"Tell which pages of a process are written, epoch by epoch.\n"
	"\n"
	"  caps      which back-ends work here, and why the others do not\n"
	"  track     one process, a line for each epoch\n"
	"  run       start a command and track it; ends with its exit status\n"
	"  top       several processes, live\n"
	"\n"
	"  -b, --backend NAME   epml, spml, wp-async, soft-dirty, auto (default)\n"
	"  -i, --interval S     length of an epoch (default 1)\n"
	"  -c, --count N        end after that many (default: no end)\n"
	"  -r, --ranges         of track, run: the pages, too\n"
	"  -j, --json           an object per line\n"
	"      --csv            of track, run\n"
	"  -o, --output FILE    of run: there instead of to standard error\n"
	"      --no-inject      never make the process run a system call for us\n"
	"  -p, --pid PID        of caps: for that process (default: for ooh itself)\n"
	"  -h, --help\n"
	"exit status: 0 done; 1 usage; 2 failed; 3 the process is not there (any more);\n"
	"4 no right to track it; 5 no such back-end here; of run the command's\n";

struct tool_options opt = { .interval = 1 };
volatile bool tool_stop;

static void on_signal(int number)
{
	(void)number;
	tool_stop = true;
}

/* One line, whichever back-end it is about: nobody is to believe that this is SPML when it is not. */
static void log_line(void *opaque, const char *line)
{
	(void)opaque;
	fprintf(stderr, "ooh: %s\n", line);
}

static bool parse_number(const char *text, double least, double most, double *value)
{
	char *end;

	errno = 0;
	*value = strtod(text, &end);
	return !errno && end != text && !*end && *value >= least && *value <= most;
}

static int take_option(int c)
{
	double number;
	int backend;

	switch (c) {
	case 'b':
		backend = ooh_backend_by_name(optarg);
		if (backend < 0)
			return bad_usage("unknown back-end '%s'", optarg);
		opt.open.backend = backend;
		return 0;
	case 'i':
		return parse_number(optarg, LEAST_INTERVAL, MOST_INTERVAL, &opt.interval) ? 0 :
			bad_usage("interval '%s'", optarg);
	case 'c':
		if (!parse_number(optarg, 1, 1e15, &number))
			return bad_usage("count '%s'", optarg);
		opt.count = number;
		return 0;
	case 'p':
		if (!parse_number(optarg, 1, INT32_MAX, &number))
			return bad_usage("PID '%s'", optarg);
		opt.pid = number;
		return 0;
	case 'r':
		opt.ranges = true;
		return 0;
	case 'j':
		opt.format = FORMAT_JSON;
		return 0;
	case 'C':
		opt.format = FORMAT_CSV;
		return 0;
	case 'N':
		opt.open.flags |= OOH_NO_INJECT;
		return 0;
	case 'o':
		opt.output = optarg;
		return 0;
	default:
		return bad_usage("unknown option");
	}
}

static int run(int argc, char **argv)
{
	const char *cmd = argv[0];

	if (!strcmp(cmd, "caps") && argc == 1)
		return cmd_caps();
	if (!strcmp(cmd, "track"))
		return cmd_track(argc - 1, argv + 1);
	if (!strcmp(cmd, "run"))
		return cmd_run(argc - 1, argv + 1);
	if (!strcmp(cmd, "top"))
		return cmd_top(argc - 1, argv + 1);
	return bad_usage("unknown command or arguments: %s", cmd);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "backend", required_argument, NULL, 'b' },
		{ "interval", required_argument, NULL, 'i' },
		{ "count", required_argument, NULL, 'c' },
		{ "ranges", no_argument, NULL, 'r' },
		{ "json", no_argument, NULL, 'j' },
		{ "csv", no_argument, NULL, 'C' },
		{ "output", required_argument, NULL, 'o' },
		{ "no-inject", no_argument, NULL, 'N' },
		{ "pid", required_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	struct sigaction end = { .sa_handler = on_signal };
	const char *cmd = argc > 1 ? argv[1] : "";
	int c, ret;

	if (!strcmp(cmd, "-h") || !strcmp(cmd, "--help")) {
		fputs(usage_text, stdout);
		return EXIT_OK;
	}
	if (argc < 2 || cmd[0] == '-')
		return bad_usage("no command");
	opt.open.log = log_line;
	/* Options follow the command, and those of the command that is run are its own. */
	optind = 0;
	while ((c = getopt_long(argc - 1, argv + 1, strcmp(cmd, "run") ? "b:i:c:p:rjo:h" : "+b:i:c:p:rjo:h",
				options, NULL)) != -1) {
		if (c == 'h') {
			fputs(usage_text, stdout);
			return EXIT_OK;
		}
		ret = take_option(c);
		if (ret)
			return ret;
	}
	sigaction(SIGINT, &end, NULL);
	sigaction(SIGTERM, &end, NULL);
	/* optind counts from argv[1], the command; getopt moved options before the rest. */
	argv[0] = "ooh";
	argv[optind] = (char *)cmd;
	return run(argc - optind, argv + optind);
}
