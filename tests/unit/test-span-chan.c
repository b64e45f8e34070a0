// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The codec of the frames between the controllers of one guest
 * (backends/span-chan.c of the QEMU series), compiled here without QEMU.
 *
 * The base reads what an L1, maybe hostile, wrote. What must be so with any codec is
 * in codec.h; here is what these frames are. tests/fuzz/span-chan.c goes on with random bytes.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All that the codec takes from QEMU's osdep.h are the headers above. */
#define QEMU_OSDEP_H
#include "backends/span-chan.c"

static const uint8_t state[] = { 1, 2, 3, 0, 255 };

enum { HELLO, WELCOME, REFUSE, PREPARE, READY, SECTION, STATE_END, NO_CLOCK, FAILED, READ, READ_REP,
	WRITE, WRITE_REP, EOI, REQUEST, PING };

static const SpanChanFrame samples[] = {
	[HELLO] = { .type = SPAN_CHAN_HELLO, .seq = 1, .u.flags = 1, .data = state, .data_len = sizeof(state) },
	[WELCOME] = { .type = SPAN_CHAN_WELCOME, .seq = 1, .u.welcome.nr_vcpus = 64 },
	[REFUSE] = { .type = SPAN_CHAN_REFUSE, .seq = 1, .u.text = "another machine" },
	[PREPARE] = { .type = SPAN_CHAN_PREPARE, .epoch = 7, .seq = 5, .u.freeze = { 3, 1000 } },
	[READY] = { .type = SPAN_CHAN_READY, .epoch = UINT32_MAX, .seq = 1ull << 32, .u.vcpus = 1ull << 63 },
	[SECTION] = { .type = SPAN_CHAN_SECTION, .epoch = 7, .seq = 9, .u.section = { 2, 12, "cpu_common" },
		.data = state, .data_len = sizeof(state) },
	[STATE_END] = { .type = SPAN_CHAN_STATE_END, .epoch = 7, .seq = 10, .u.end = {
		UINT64_MAX, 30, 0x123456789abcdef0, { -5, 6, 7, 8, 1 } } },
	[NO_CLOCK] = { .type = SPAN_CHAN_STATE_END, .epoch = 7, .seq = 10, .u.end = {
		2, 3, 1, { INT64_MIN, 1, INT64_MAX, 0, 0 } } },
	[FAILED] = { .type = SPAN_CHAN_FAILED, .epoch = 7, .seq = UINT64_MAX, .u.text = "" },
	[READ] = { .type = SPAN_CHAN_IO_REQ, .seq = 3, .u.io = { 9, 63, 0, 2, 0xffff, 0 } },
	[READ_REP] = { .type = SPAN_CHAN_IO_REP, .seq = 3, .u.io = { 9, 63, 0, 2, 0xffff, 0xffff } },
	[WRITE] = { .type = SPAN_CHAN_IO_REQ, .seq = 3, .u.io = {
		UINT32_MAX, 0, 3, 8, UINT64_MAX - 7, UINT64_MAX } },
	[WRITE_REP] = { .type = SPAN_CHAN_IO_REP, .seq = 3, .u.io = { 1, 0, 3, 8, 0xfee00000, 0 } },
	[EOI] = { .type = SPAN_CHAN_EOI, .seq = 3, .u.vector = 255 },
	[REQUEST] = { .type = SPAN_CHAN_REQUEST, .seq = 3, .u.kind = SPAN_CHAN_POWERDOWN },
	[PING] = { .type = SPAN_CHAN_PING, .seq = 3, .u.cookie = UINT64_MAX },
};

typedef SpanChanFrame Frame;
#define CALL(name) span_chan_##name
#define CONST(name) SPAN_CHAN_##name
#define FIRST SPAN_CHAN_HELLO
#define LAST SPAN_CHAN_PONG
#define ROOM 4096		/* no sample is as long */
#define OTHER_MAGIC 0x574e5053	/* the port's protocol */

static void moved(Frame *frame, const uint8_t *to, const uint8_t *from)
{
	if (frame->data)
		frame->data = to + (frame->data - from);
}

#include "codec.h"

static bool round_trip(void)
{
	uint8_t buf[ROOM];
	Frame out;
	size_t i, len;

	for (i = 0; i < SAMPLES; i++) {
		len = span_chan_encode(&samples[i], buf);
		EXPECT(len >= SPAN_CHAN_HEADER && len == span_chan_size(&samples[i]));
		EXPECT(decode(buf, len, samples[i].seq, &out) == SPAN_CHAN_OK);
		EXPECT(out.type == samples[i].type);
		EXPECT(out.epoch == samples[i].epoch);
		EXPECT(out.seq == samples[i].seq);
		EXPECT(!memcmp(&out.u, &samples[i].u, sizeof(out.u)));
		EXPECT(out.data_len == samples[i].data_len);
		EXPECT(!out.data_len || !memcmp(out.data, samples[i].data, out.data_len));
	}
	return true;
}

/* Each type that is only a set of vCPUs. */
static bool sets(void)
{
	static const uint16_t types[] = {
		SPAN_CHAN_READY, SPAN_CHAN_LOADED, SPAN_CHAN_RUN, SPAN_CHAN_RUNNING, SPAN_CHAN_THAW,
		SPAN_CHAN_FORGET, SPAN_CHAN_CANCEL, SPAN_CHAN_DONE,
	};
	SpanChanFrame in = { .seq = 1 }, out;
	uint8_t buf[ROOM];
	size_t i, len;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		in.type = types[i];
		in.u.vcpus = 0x8000000000000001;
		len = span_chan_encode(&in, buf);
		EXPECT(decode(buf, len, 1, &out) == SPAN_CHAN_OK);
		EXPECT(out.u.vcpus == in.u.vcpus && out.type == in.type);
		in.u.vcpus = 0;
		len = span_chan_encode(&in, buf);
		EXPECT(decode(buf, len, 1, &out) == SPAN_CHAN_E_PAYLOAD);
	}
	return true;
}

/* The bytes themselves, so that both ends of different builds agree. */
static bool known_bytes(void)
{
	static const uint8_t prepare[] = {
		'S', 'P', 'N', 'C', 1, 0, 4, 0, 16, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0,
	};
	static const uint8_t request[] = {
		'S', 'P', 'N', 'C', 1, 0, 17, 0, 24, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
		9, 0, 0, 0, 63, 0, 0, 2, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	};
	uint8_t buf[ROOM];

	EXPECT(span_chan_encode(&samples[PREPARE], buf) == sizeof(prepare));
	EXPECT(!memcmp(buf, prepare, sizeof(prepare)));
	EXPECT(span_chan_encode(&samples[READ], buf) == sizeof(request));
	EXPECT(!memcmp(buf, request, sizeof(request)));
	return true;
}

static bool has_more(const SpanChanFrame *frame)
{
	return frame->type == SPAN_CHAN_HELLO || frame->type == SPAN_CHAN_SECTION;
}

static bool bad_length(void)
{
	static const uint32_t lengths[] = {
		0, 1, 7, 9, 15, 17, 23, 25, 255, 257, SPAN_CHAN_PAYLOAD_MAX + 1, INT32_MAX, 1u << 31, UINT32_MAX,
	};
	uint8_t buf[ROOM];
	size_t i, j, fixed;
	int want;

	for (i = 0; i < SAMPLES; i++) {
		fixed = span_chan_encode(&samples[i], buf) - SPAN_CHAN_HEADER - samples[i].data_len;
		for (j = 0; j < sizeof(lengths) / sizeof(lengths[0]); j++) {
			put_le(buf + 8, lengths[j], 4);
			want = span_chan_want(buf, SPAN_CHAN_HEADER);
			if (has_more(&samples[i]) && lengths[j] >= fixed && lengths[j] <= SPAN_CHAN_PAYLOAD_MAX)
				EXPECT(want == (int)lengths[j]);
			else
				EXPECT(want == SPAN_CHAN_E_LEN);
		}
	}
	return true;
}

static bool bad_numbers(void)
{
	return payload_case(HELLO, 0, 4, 2) &&		/* unknown flags */
	       payload_case(HELLO, 0, 4, 1u << 31) &&
	       payload_case(HELLO, 4, 4, 1) &&		/* padding */
	       payload_case(WELCOME, 0, 4, 0) &&	/* no vCPUs, too many */
	       payload_case(WELCOME, 0, 4, 65) &&
	       payload_case(WELCOME, 4, 4, 1) &&
	       payload_case(PREPARE, 0, 8, 0) &&	/* nothing to prepare */
	       payload_case(PREPARE, 8, 4, 0) &&	/* no time */
	       payload_case(PREPARE, 12, 4, 1) &&
	       payload_case(READY, 0, 8, 0) &&
	       payload_case(STATE_END, 0, 8, 0) &&
	       payload_case(STATE_END, 12, 4, 1) &&
	       payload_case(STATE_END, 56, 4, 2) &&	/* a boolean */
	       payload_case(STATE_END, 60, 4, 1) &&
	       payload_case(STATE_END, 40, 8, 1ull << 63) &&	/* time before time */
	       payload_case(NO_CLOCK, 48, 8, 1) &&	/* no clock with a value */
	       payload_case(EOI, 0, 4, 256) &&
	       payload_case(EOI, 4, 4, 1) &&
	       payload_case(REQUEST, 0, 4, 0) &&
	       payload_case(REQUEST, 0, 4, 5) &&
	       payload_case(REQUEST, 4, 4, 1);
}

static bool bad_io(void)
{
	static const uint8_t lengths[] = { 0, 3, 5, 6, 7, 9, 16, 255 };
	size_t i, sample;

	for (sample = READ; sample <= WRITE_REP; sample++) {
		for (i = 0; i < sizeof(lengths); i++) {
			if (!payload_case(sample, 7, 1, lengths[i]))
				return false;
		}
		if (!payload_case(sample, 4, 2, 64) ||		/* vCPU */
		    !payload_case(sample, 4, 2, 0xffff) ||
		    !payload_case(sample, 6, 1, 4 | samples[sample].u.io.flags) ||
		    !payload_case(sample, 6, 1, 0x80 | samples[sample].u.io.flags))
			return false;
	}
	return payload_case(READ, 7, 1, 8) &&			/* 8 bytes from a port */
	       payload_case(READ, 8, 8, 0x10000) &&		/* no such port */
	       payload_case(READ, 8, 8, 1ull << 32) &&
	       payload_case(READ, 16, 8, 1) &&			/* a value to read */
	       payload_case(READ_REP, 16, 8, 0x10000) &&	/* more than was read */
	       payload_case(WRITE, 8, 8, UINT64_MAX - 6) &&	/* over the end of memory */
	       payload_case(WRITE_REP, 16, 8, 1);
}

static bool bad_texts(void)
{
	return text_case(SECTION, 8, SPAN_CHAN_NAME, 0x20, false) &&
	       text_case(REFUSE, 0, SPAN_CHAN_TEXT, 0x20, true);
}

/* The longest data that there can be, and what does not fit. */
static bool limits(void)
{
	SpanChanFrame in = { .type = SPAN_CHAN_SECTION, .seq = 1, .u.section.name = "x" }, out;
	uint8_t *data = calloc(1, SPAN_CHAN_PAYLOAD_MAX), *buf = malloc(SPAN_CHAN_MAX);
	size_t fixed = span_chan_size(&in) - SPAN_CHAN_HEADER;

	memset(data, 0x5a, SPAN_CHAN_PAYLOAD_MAX);
	in.data = data;
	in.data_len = SPAN_CHAN_PAYLOAD_MAX - fixed;
	EXPECT(span_chan_encode(&in, buf) == SPAN_CHAN_MAX);
	EXPECT(span_chan_want(buf, SPAN_CHAN_HEADER) == SPAN_CHAN_PAYLOAD_MAX);
	EXPECT(decode(buf, SPAN_CHAN_MAX, 1, &out) == SPAN_CHAN_OK);
	EXPECT(out.data_len == in.data_len && !memcmp(out.data, data, in.data_len));
	in.data_len++;
	EXPECT(span_chan_size(&in) == 0 && span_chan_encode(&in, buf) == 0);
	in.data_len = UINT32_MAX;
	EXPECT(span_chan_size(&in) == 0 && span_chan_encode(&in, buf) == 0);
	/* what has no data does not get any */
	in.type = SPAN_CHAN_PING;
	EXPECT(span_chan_encode(&in, buf) == SPAN_CHAN_HEADER + 8);
	in.type = 99;
	EXPECT(span_chan_encode(&in, buf) == 0);
	free(data);
	free(buf);
	return true;
}

/* A text that is too long is cut, and still ends. */
static bool encode_cuts(void)
{
	SpanChanFrame frame = { .type = SPAN_CHAN_FAILED, .seq = 1 }, out;
	uint8_t buf[ROOM];
	size_t len;

	memset(frame.u.text, 'y', sizeof(frame.u.text));
	len = span_chan_encode(&frame, buf);
	EXPECT(decode(buf, len, 1, &out) == SPAN_CHAN_OK);
	EXPECT(strlen(out.u.text) == SPAN_CHAN_TEXT - 1);
	return true;
}

static bool sums(void)
{
	SpanChanFrame a = samples[SECTION], b = a;
	uint8_t other[sizeof(state)];
	uint64_t sum = span_chan_sum(0, &a);

	memcpy(other, state, sizeof(state));
	other[3] ^= 1;
	EXPECT(sum && sum == span_chan_sum(0, &b));
	b.data = other;
	EXPECT(sum != span_chan_sum(0, &b));
	EXPECT(span_chan_sum(sum, &b) != span_chan_sum(span_chan_sum(0, &b), &a));	/* the order */
	b = a;
	b.data_len--;
	EXPECT(sum != span_chan_sum(0, &b));
	b = a;
	b.u.section.instance++;
	EXPECT(sum != span_chan_sum(0, &b));
	b = a;
	b.u.section.version++;
	EXPECT(sum != span_chan_sum(0, &b));
	b = a;
	b.u.section.name[0]++;
	EXPECT(sum != span_chan_sum(0, &b));
	return true;
}

static const struct codec_case cases[] = {
	{ round_trip, "round_trip" },
	{ sets, "sets" },
	{ known_bytes, "known_bytes" },
	{ every_truncation, "every_truncation" },
	{ longer_than_it_says, "longer_than_it_says" },
	{ bad_magic, "bad_magic" },
	{ bad_version, "bad_version" },
	{ bad_type, "bad_type" },
	{ bad_length, "bad_length" },
	{ bad_sequence, "bad_sequence" },
	{ bad_numbers, "bad_numbers" },
	{ bad_io, "bad_io" },
	{ bad_texts, "bad_texts" },
	{ limits, "limits" },
	{ encode_cuts, "encode_cuts" },
	{ sums, "sums" },
	{ messages, "messages" },
	{ every_bit_flipped, "every_bit_flipped" },
};

int main(void)
{
	return run_cases(cases, sizeof(cases) / sizeof(cases[0]));
}
