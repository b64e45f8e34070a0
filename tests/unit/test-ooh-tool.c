// SPDX-License-Identifier: GPL-2.0
/* The program ooh on a made-up /dev/ooh: what it prints, and with which status it ends. */
#include "fake-ooh.h"

#include <json-c/json.h>

#include "captured.h"

int tool_main(int argc, char **argv);
#define main tool_main
#include "../../guest-tools/libooh/tool/tool.c"
#undef main

static void before_tool(void)
{
	opt = (struct tool_options){ .interval = 1 };
}

/* Standard output and error of "ooh ARGUMENTS"; gives the exit status. */
static int ooh(const char *first, ...)
{
	int status;
	va_list ap;

	va_start(ap, first);
	status = captured(tool_main, before_tool, "ooh", first, ap);
	va_end(ap);
	CHECK(dev.opened == dev.closed && !dev.mapped, "%d opened, %d closed, %d mapped", dev.opened, dev.closed, dev.mapped);
	return status;
}

#define EXPECT(status, ...) ({						\
	int s_ = ooh(__VA_ARGS__, NULL);				\
	CHECK(s_ == (status), "%s: status %d: %s", #__VA_ARGS__, s_, output); \
})

static char pid[16];	/* of a process of ours, which the device says it tracks */

static void reset(void)
{
	dev_reset();
	snprintf(pid, sizeof(pid), "%d", getpid());
}

static void t_usage(void)
{
	reset();
	EXPECT(EXIT_OK, "--help");
	SAID("usage: ooh caps");
	EXPECT(EXIT_OK, "track", "--help");
	EXPECT(EXIT_USAGE, "dance");
	EXPECT(EXIT_USAGE, "track");
	EXPECT(EXIT_USAGE, "track", "12x");
	EXPECT(EXIT_USAGE, "track", "-1");
	EXPECT(EXIT_USAGE, "track", pid, pid);
	EXPECT(EXIT_USAGE, "track", "-b", "magic", pid);
	SAID("unknown back-end 'magic'");
	EXPECT(EXIT_USAGE, "track", "-b", "spml", "-i", "0", pid);
	EXPECT(EXIT_USAGE, "track", "-b", "spml", "-i", "soon", pid);
	EXPECT(EXIT_USAGE, "track", "-b", "spml", "-c", "0", pid);
	EXPECT(EXIT_USAGE, "top");
	EXPECT(EXIT_USAGE, "top", "bash");
	SAID("'bash' is no PID");
	EXPECT(EXIT_USAGE, "top", "--csv", pid);
	EXPECT(EXIT_USAGE, "run");
	EXPECT(EXIT_USAGE, "caps", pid);
	EXPECT(EXIT_USAGE, "caps", "--pid", "x");
	CHECK(!dev.opened, "the device was opened for nothing");
}

static void t_caps(void)
{
	json_object *j, *list, *b, *works;

	reset();
	EXPECT(EXIT_OK, "caps");
	SAID("spml        yes");
	SAID("epml        no, the host does not offer it");
	EXPECT(EXIT_OK, "caps", "--json");
	j = json_tokener_parse(output);
	CHECK(j && json_object_object_get_ex(j, "backends", &list) && json_object_array_length(list) == 4, "%s", output);
	b = json_object_array_get_idx(list, 1);
	CHECK(json_object_object_get_ex(b, "works", &works) && json_object_get_boolean(works), "%s", output);
	json_object_put(j);
}

static void t_track(void)
{
	json_object *j, *v;

	reset();
	dev.dirty[1] = dev.dirty[2] = dev.dirty[7] = true;
	EXPECT(EXIT_OK, "track", "-b", "spml", "-i", "0.001", "-c", "1", "--ranges", pid);
	SAID("by spml");
	SAID("     1 ");
	SAID("0x7f0000001000-0x7f0000003000        2");
	SAID("0x7f0000007000-0x7f0000008000        1");
	dev.dirty[5] = dev.dirty[9] = true;
	EXPECT(EXIT_OK, "track", "-b", "spml", "-i", "0.001", "-c", "2", "--csv", "-r", pid);
	SAID("epoch,seconds,start,end,pages\n");
	SAID(",0x7f0000005000,0x7f0000006000,1\n");
	dev.dirty[5] = true;
	EXPECT(EXIT_OK, "track", "-b", "spml", "-i", "0.001", "-c", "1", "--csv", pid);
	SAID("epoch,seconds,pages,pages_per_s,mb_per_s\n1,0.0");
	dev.dirty[5] = dev.lost = true;
	EXPECT(EXIT_OK, "track", "-b", "spml", "-i", "0.001", "-c", "1", "--json", "-r", pid);
	j = json_tokener_parse(strchr(output, '{'));
	CHECK(j && json_object_object_get_ex(j, "pages", &v) && json_object_get_int(v) == 1, "%s", output);
	CHECK(json_object_object_get_ex(j, "lost", &v) && json_object_get_boolean(v), "%s", output);
	CHECK(json_object_object_get_ex(j, "ranges", &v) &&
	      !strcmp(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), "[[\"0x7f0000005000\",\"0x7f0000006000\"]]"), "%s", output);
	json_object_put(j);
}

/* More ranges than it has room for at first. */
static void t_many(void)
{
	int i;

	reset();
	for (i = 0; i < PAGES; i += 2)
		dev.dirty[i] = true;
	EXPECT(EXIT_OK, "track", "-b", "spml", "-i", "0.001", "-c", "1", pid);
	SAID("     2048 ");
}

static void t_ends(void)
{
	reset();
	dev.last = true;
	dev.dirty[3] = true;
	EXPECT(EXIT_ENDED, "track", "-b", "spml", "-i", "0.001", pid);
	SAID("        1 ");
	SAID("has ended");
	reset();
	dev.gone = true;
	EXPECT(EXIT_ENDED, "track", "-b", "spml", "-i", "0.001", pid);
	reset();
	dev.track_error = -EPERM;
	EXPECT(EXIT_REFUSED, "track", "-b", "spml", pid);
	reset();
	dev.features = 0;
	EXPECT(EXIT_NONE, "track", "-b", "spml", pid);
	SAID("no spml: the host does not offer it");
	reset();
	dev.track_error = -ESRCH;
	EXPECT(EXIT_ENDED, "track", "-b", "spml", "12345678");
	SAID("no such process");
	reset();
	dev.fetch_error = -EIO;
	EXPECT(EXIT_FAILED, "track", "-b", "spml", "-i", "0.001", pid);
}

static void t_top(void)
{
	char other[16];
	pid_t child;

	reset();
	child = MUST(fork());
	if (!child) {
		pause();
		_exit(0);
	}
	snprintf(other, sizeof(other), "%d", child);
	dev.dirty[3] = true;
	EXPECT(EXIT_OK, "top", "-b", "spml", "-i", "0.001", "-c", "1", other);
	SAID("PID NAME");
	SAID(other);
	SAID("         1 ");
	/* Itself it does not take: it would see what it writes to say so. */
	EXPECT(EXIT_ENDED, "top", "-b", "spml", "-i", "0.001", "-c", "1", pid);
	SAID("nothing to show");
	dev.last = true;
	EXPECT(EXIT_OK, "top", "-b", "spml", "-i", "0.001", other);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static void t_run(void)
{
	reset();
	EXPECT(7, "run", "-b", "spml", "-i", "0.001", "sh", "-c", "exit 7");
	SAID("by spml");
	CHECK(dev.track_pid > 0, "%d", dev.track_pid);
	EXPECT(127, "run", "-b", "spml", "/nonexistent/command");
	EXPECT(128 + SIGKILL, "run", "-b", "spml", "-i", "0.001", "sh", "-c", "kill -9 $$");
	/* It runs all the same, and it is said that it is not tracked. */
	dev.features = 0;
	EXPECT(3, "run", "-b", "spml", "sh", "-c", "exit 3");
	SAID("is not tracked");
	EXPECT(EXIT_FAILED, "run", "-b", "spml", "-o", "/nonexistent/file", "true");
	/* What follows the command is the command's. */
	reset();
	EXPECT(0, "run", "-b", "spml", "-i", "0.001", "-o", "/dev/null", "echo", "--json", "-x");
	SAID("--json -x\n");
}

int main(void)
{
	static const struct ktap_test tests[] = {
		{ "usage", t_usage },
		{ "caps", t_caps },
		{ "track", t_track },
		{ "many", t_many },
		{ "ends", t_ends },
		{ "top", t_top },
		{ "run", t_run },
	};

	return KTAP_RUN(tests);
}
