// SPDX-License-Identifier: GPL-2.0
/*
 * spanctl: the port itself: what is attached, how that changes, messages to L0.
 */
#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "port-client.h"
#include "spanctl.h"

static const char *access_name(const struct span_port_info *i)
{
	if (!port_attached(i))
		return "none";
	return i->status & SPAN_STATUS_READONLY ? "ro" : "rw";
}

/* The name comes from L0; show only what cannot harm a terminal. */
static const char *guest_name(const struct span_port_info *i)
{
	static char name[SPAN_NAME_LEN];
	size_t n;

	memcpy(name, i->name, sizeof(name));
	name[sizeof(name) - 1] = 0;
	for (n = 0; name[n]; n++)
		if (!isprint((unsigned char)name[n]))
			name[n] = '?';
	return name;
}

static json_object *info_json(const char *dev, const struct span_port_info *i)
{
	json_object *j = json_object_new_object();

	json_object_object_add(j, "device", json_object_new_string(dev));
	json_object_object_add(j, "attached", json_object_new_boolean(port_attached(i)));
	json_object_object_add(j, "access", json_object_new_string(access_name(i)));
	json_object_object_add(j, "guest", port_attached(i) ?
			       json_object_new_string(guest_name(i)) : NULL);
	json_object_object_add(j, "generation", json_object_new_int64(i->generation));
	json_object_object_add(j, "bytes", json_object_new_int64(i->bytes));
	json_object_object_add(j, "window_bytes", json_object_new_int64(i->window_bytes));
	json_object_object_add(j, "window_phys", json_object_new_int64(i->window_phys));
	json_object_object_add(j, "faults_pte", json_object_new_int64(i->faults_pte));
	json_object_object_add(j, "faults_pmd", json_object_new_int64(i->faults_pmd));
	json_object_object_add(j, "detaching",
			       json_object_new_boolean(i->status & SPAN_STATUS_DETACHING));
	json_object_object_add(j, "may_watch", json_object_new_boolean(i->status & SPAN_STATUS_WATCH));
	json_object_object_add(j, "may_own_vcpus",
			       json_object_new_boolean(i->status & SPAN_STATUS_SHARE));
	json_object_object_add(j, "version", json_object_new_int64(i->version));
	return j;
}

/* Open, look, close; a detach between open and look is looked at again. */
static int look(const char *dev, struct span_port_info *info)
{
	int fd, ret, tries;

	for (tries = 0; tries < 10; tries++) {
		fd = port_open_any(dev);
		if (fd < 0)
			return fd;
		ret = port_info(fd, info);
		close(fd);
		if (ret != -ENODEV)
			return ret;
	}
	return ret;
}

int cmd_info(const char *dev)
{
	struct span_port_info i;
	int ret = look(dev, &i);

	if (ret)
		return ret == -ENODEV ? fail(0, "%s: the device is gone", dev) : fail(ret, "%s", dev);
	if (opt.json) {
		print_json(info_json(dev, &i), JSON_C_TO_STRING_PRETTY);
		return EXIT_OK;
	}
	printf("device       %s\n", dev);
	printf("attached     %s\n", port_attached(&i) ? "yes" : "no");
	if (port_attached(&i)) {
		printf("guest        %s\n", guest_name(&i));
		printf("access       %s\n", access_name(&i));
		printf("watches      %s\n", i.status & SPAN_STATUS_WATCH ? "yes" : "no");
		printf("own vCPUs    %s\n", i.status & SPAN_STATUS_SHARE ? "yes" : "no");
		printf("memory       %llu MiB\n", (unsigned long long)i.bytes >> 20);
	}
	printf("generation   %u\n", i.generation);
	printf("window       %llu MiB at 0x%llx\n", (unsigned long long)i.window_bytes >> 20,
	       (unsigned long long)i.window_phys);
	printf("faults       %llu of 4 KiB, %llu of 2 MiB\n", (unsigned long long)i.faults_pte,
	       (unsigned long long)i.faults_pmd);
	return EXIT_OK;
}

int cmd_list(void)
{
	json_object *all = opt.json ? json_object_new_array() : NULL;
	struct span_port_info i;
	int ret, status = EXIT_OK;
	glob_t g;
	size_t n;

	if (glob("/dev/span[0-9]*", 0, NULL, &g))
		g.gl_pathc = 0;
	if (!opt.json)
		printf("%-12s %-6s %10s %10s %s\n", "DEVICE", "ACCESS", "MEMORY", "WINDOW", "GUEST");
	for (n = 0; n < g.gl_pathc; n++) {
		ret = look(g.gl_pathv[n], &i);
		if (ret) {
			status = fail(ret, "%s", g.gl_pathv[n]);
			continue;
		}
		if (opt.json)
			json_object_array_add(all, info_json(g.gl_pathv[n], &i));
		else
			printf("%-12s %-6s %6llu MiB %6llu MiB %s\n", g.gl_pathv[n], access_name(&i),
			       (unsigned long long)i.bytes >> 20,
			       (unsigned long long)i.window_bytes >> 20,
			       port_attached(&i) ? guest_name(&i) : "-");
	}
	if (opt.json)
		print_json(all, JSON_C_TO_STRING_PRETTY);
	else if (!n)
		fputs("spanctl: no span-port in this VM (is span_port.ko loaded?)\n", stderr);
	globfree(&g);
	return n ? status : EXIT_FAILED;
}

/* --- changes --- */

int time_left(long long deadline)
{
	long long left;

	if (deadline < 0)
		return -1;
	left = deadline - monotonic_ms();
	return left > 0 ? left : 0;
}

long long deadline_in(int64_t default_ms)
{
	int64_t ms = opt.timeout_ms >= 0 ? opt.timeout_ms : default_ms;

	return ms < 0 ? -1 : monotonic_ms() + ms;
}

/*
 * The next state: waits for a change if @first is false. Keeps *@fd, whose
 * attachment may end, in which case a new one is opened.
 */
static int next_state(const char *dev, int *fd, bool first, long long deadline,
		      struct span_port_info *info)
{
	int ret, tries;

	if (!first) {
		ret = port_wait_change(*fd, time_left(deadline));
		if (ret <= 0)
			return ret ? ret : -ETIMEDOUT;
	}
	for (tries = 0; tries < 10; tries++) {
		if (*fd < 0)
			*fd = port_open_any(dev);
		if (*fd < 0)
			return *fd;
		ret = port_info(*fd, info);
		if (ret != -ENODEV)
			return ret;
		close(*fd);
		*fd = -1;
	}
	return ret;
}

int cmd_wait(const char *dev)
{
	long long deadline = deadline_in(-1);
	struct span_port_info info;
	bool first = true;
	int fd = -1, ret;

	if (opt.attached == opt.detached)
		return bad_usage("wait needs either --attached or --detached");
	for (;; first = false) {
		ret = next_state(dev, &fd, first, deadline, &info);
		if (ret || port_attached(&info) == opt.attached)
			break;
	}
	if (fd >= 0)
		close(fd);
	if (ret == -ETIMEDOUT) {
		fprintf(stderr, "spanctl: %s: still %s\n", dev,
			opt.attached ? "detached" : "attached");
		return EXIT_TIMEOUT;
	}
	return ret ? fail(ret, "%s", dev) : EXIT_OK;
}

int cmd_follow(const char *dev)
{
	long long deadline = deadline_in(-1);
	struct span_port_info info;
	uint64_t shown = 0;
	int fd = -1, ret;

	do {
		ret = next_state(dev, &fd, !shown, deadline, &info);
		if (ret)
			break;
		print_json(info_json(dev, &info), JSON_C_TO_STRING_PLAIN);
	} while (++shown != opt.count);
	if (fd >= 0)
		close(fd);
	if (ret == -ETIMEDOUT)
		return EXIT_TIMEOUT;
	return ret ? fail(ret, "%s", dev) : EXIT_OK;
}

/* --- messages --- */

int cmd_ping(const char *dev)
{
	uint64_t count = opt.count ? opt.count : 1, i;
	long long ns, sum = 0, least = -1, most = 0;
	uint8_t payload[48];
	int fd, ret = 0;
	__u16 type, len;

	fd = port_open_any(dev);
	if (fd < 0)
		return fail(fd, "%s", dev);
	for (i = 0; i < count; i++) {
		type = SPAN_MSG_PING;
		len = sizeof(i);
		memset(payload, 0, sizeof(payload));
		memcpy(payload, &i, sizeof(i));
		ret = port_call(fd, &type, payload, &len, &ns);
		if (ret)
			break;
		if (type != SPAN_MSG_PONG || len != sizeof(i) || memcmp(payload, &i, sizeof(i))) {
			ret = -EPROTO;
			break;
		}
		sum += ns;
		least = least < 0 || ns < least ? ns : least;
		most = ns > most ? ns : most;
		if (!opt.json)
			printf("%s: answer %" PRIu64 " in %.1f us\n", dev, i, ns / 1e3);
	}
	close(fd);
	if (ret)
		return fail(ret, "%s: ping", dev);
	if (opt.json) {
		json_object *j = json_object_new_object();

		json_object_object_add(j, "count", json_object_new_int64(count));
		json_object_object_add(j, "min_us", json_object_new_double(least / 1e3));
		json_object_object_add(j, "mean_us", json_object_new_double(sum / 1e3 / count));
		json_object_object_add(j, "max_us", json_object_new_double(most / 1e3));
		print_json(j, JSON_C_TO_STRING_PLAIN);
	}
	return EXIT_OK;
}

int cmd_stats(const char *dev)
{
	static const char *const names[] = { "received", "sent", "dropped", "malformed" };
	__u16 type = SPAN_MSG_STATS_GET, len = 0;
	json_object *j = json_object_new_object();
	uint64_t value[6] = {};
	long long ns;
	int fd, ret;
	size_t i;

	fd = port_open_any(dev);
	ret = fd < 0 ? fd : port_call(fd, &type, value, &len, &ns);
	if (fd >= 0)
		close(fd);
	if (!ret && (type != SPAN_MSG_STATS || len < 32))
		ret = -EPROTO;
	if (ret) {
		json_object_put(j);
		return fail(ret, "%s: stats", dev);
	}
	for (i = 0; i < 4; i++) {
		json_object_object_add(j, names[i], json_object_new_int64(value[i]));
		if (!opt.json)
			printf("%-10s %" PRIu64 "\n", names[i], value[i]);
	}
	if (opt.json)
		print_json(j, JSON_C_TO_STRING_PLAIN);
	else
		json_object_put(j);
	return EXIT_OK;
}

int cmd_detach(const char *dev)
{
	long long deadline = deadline_in(10000);
	struct span_port_info info;
	int fd, ret;

	fd = port_open(dev, false);
	if (fd < 0)
		return fail(fd, "%s", dev);
	ret = port_info(fd, &info);
	if (!ret)
		ret = port_request_detach(fd);
	while (!ret) {
		ret = port_wait_change(fd, time_left(deadline));
		if (!ret)
			ret = -ETIMEDOUT;
		if (ret < 0)
			break;
		ret = port_info(fd, &info);
	}
	close(fd);
	/* the file's attachment is over: that was the wish */
	if (ret == -ENODEV)
		return EXIT_OK;
	return fail(ret, "%s: detach", dev);
}
