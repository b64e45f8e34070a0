// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The codec of the frames between a Span guest's controller and a port
 * (backends/span-wire.c of the QEMU series), compiled here without QEMU.
 *
 * Both ends read frames that the other end, which may be hostile, wrote. What must be
 * so with any codec is in codec.h; here is what these frames are, and random bytes.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All that the codec takes from QEMU's osdep.h are the headers above. */
#define QEMU_OSDEP_H
#include "backends/span-wire.c"

static const SpanFrame samples[] = {
	{ .type = SPAN_FRAME_OFFER, .seq = 1, .u.offer = {
		.bytes = 256ull << 20, .access = 3, .rights = 31, .guest = "span0" } },
	{ .type = SPAN_FRAME_OFFER, .seq = UINT64_MAX, .u.offer = {
		.bytes = UINT64_MAX, .access = 1,
		.guest = "0123456789abcdef0123456789abcde" } },
	{ .type = SPAN_FRAME_ACCEPT, .generation = UINT32_MAX, .seq = 2, .u.accept = {
		.bytes = 4096, .access = 1 } },
	{ .type = SPAN_FRAME_REFUSE, .seq = 3, .u.refuse = {
		.error = 16, .text = "a guest is attached already" } },
	{ .type = SPAN_FRAME_REFUSE, .seq = 4, .u.refuse = { .error = 4095, .text = "" } },
	{ .type = SPAN_FRAME_DETACH, .generation = 7, .seq = 5, .u.detach = { 2000 } },
	{ .type = SPAN_FRAME_DETACHED, .generation = 7, .seq = 6, .u.detached = { 1 } },
	{ .type = SPAN_FRAME_DETACH_REQUEST, .generation = 7, .seq = 1ull << 32 },
};

typedef SpanFrame Frame;
#define CALL(name) span_wire_##name
#define CONST(name) SPAN_WIRE_##name
#define FIRST SPAN_FRAME_OFFER
#define LAST SPAN_FRAME_DETACH_REQUEST
#define ROOM SPAN_WIRE_MAX
#define OTHER_MAGIC 0x434e5053	/* of the frames between controllers */

static void moved(Frame *frame, const uint8_t *to, const uint8_t *from)
{
}

#include "codec.h"

static bool round_trip(void)
{
	uint8_t buf[ROOM];
	Frame out;
	size_t i, len;

	for (i = 0; i < SAMPLES; i++) {
		len = span_wire_encode(&samples[i], buf);
		EXPECT(len >= SPAN_WIRE_HEADER && len <= SPAN_WIRE_MAX);
		EXPECT(decode(buf, len, samples[i].seq, &out) == SPAN_WIRE_OK);
		EXPECT(out.type == samples[i].type);
		EXPECT(out.generation == samples[i].generation);
		EXPECT(out.seq == samples[i].seq);
		EXPECT(!memcmp(&out.u, &samples[i].u, sizeof(out.u)));
	}
	return true;
}

/* The bytes themselves, so that both ends of different builds agree. */
static bool known_bytes(void)
{
	static const uint8_t detach[] = {
		'S', 'P', 'N', 'W', 1, 0, 4, 0, 8, 0, 0, 0, 7, 0, 0, 0,
		5, 0, 0, 0, 0, 0, 0, 0, 0xd0, 7, 0, 0, 0, 0, 0, 0,
	};
	uint8_t buf[ROOM];

	EXPECT(span_wire_encode(&samples[5], buf) == sizeof(detach));
	EXPECT(!memcmp(buf, detach, sizeof(detach)));
	return true;
}

static bool bad_length(void)
{
	static const uint32_t lengths[] = {
		1, 2, 47, 49, 255, 256, 257, 4096, INT32_MAX, 1u << 31, UINT32_MAX,
	};
	size_t i;

	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		if (!header_case(8, 4, lengths[i], SPAN_WIRE_E_LEN))
			return false;
	}
	return true;
}

static bool bad_numbers(void)
{
	return payload_case(0, 0, 8, 0) &&		/* offer: no memory */
	       payload_case(0, 8, 4, 0) &&		/* ... no access */
	       payload_case(0, 8, 4, 2) &&		/* ... write without read */
	       payload_case(0, 8, 4, 4) &&		/* ... unknown bits */
	       payload_case(0, 8, 4, 3 | 1u << 31) &&
	       payload_case(0, 12, 4, 32) &&		/* ... unknown rights */
	       payload_case(2, 0, 8, 0) &&		/* accept: no memory */
	       payload_case(2, 8, 4, 2) &&
	       payload_case(2, 12, 4, 1u << 31) &&
	       payload_case(3, 0, 4, 0) &&		/* refuse: no error */
	       payload_case(3, 0, 4, 4096) &&
	       payload_case(3, 4, 4, 1) &&
	       payload_case(5, 4, 4, 1) &&		/* detach: padding */
	       payload_case(6, 0, 4, 2) &&		/* detached: a boolean */
	       payload_case(6, 4, 4, 1);
}

static bool bad_texts(void)
{
	return text_case(0, 16, SPAN_WIRE_NAME, 0x21, false) &&
	       text_case(3, 8, SPAN_WIRE_TEXT, 0x20, true);
}

static bool names(void)
{
	EXPECT(span_wire_name_valid("a"));
	EXPECT(span_wire_name_valid("L1a"));
	EXPECT(span_wire_name_valid("0123456789abcdef0123456789abcde"));
	EXPECT(!span_wire_name_valid("0123456789abcdef0123456789abcdef"));
	EXPECT(!span_wire_name_valid(""));
	EXPECT(!span_wire_name_valid("a b"));
	EXPECT(!span_wire_name_valid("a\n"));
	EXPECT(!span_wire_name_valid("\x7f"));
	EXPECT(!span_wire_name_valid("\xc3\xa4"));
	return true;
}

/* A text that is too long is cut, and still ends. */
static bool encode_cuts(void)
{
	SpanFrame frame = { .type = SPAN_FRAME_REFUSE, .seq = 1, .u.refuse.error = 5 };
	uint8_t *buf = malloc(SPAN_WIRE_MAX);
	Frame out;
	size_t len;

	memset(frame.u.refuse.text, 'y', sizeof(frame.u.refuse.text));
	len = span_wire_encode(&frame, buf);
	EXPECT(decode(buf, len, 1, &out) == SPAN_WIRE_OK);
	EXPECT(strlen(out.u.refuse.text) == SPAN_WIRE_TEXT - 1);
	frame.type = 99;
	EXPECT(span_wire_encode(&frame, buf) == 0);
	free(buf);
	return true;
}

static uint32_t rnd(void)
{
	static uint64_t state = 0x5350414e;

	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return state >> 33;
}

/* A stream of frames, mutated, read as both ends read: by what is wanted. */
static bool random_streams(void)
{
	uint8_t stream[4 * SPAN_WIRE_MAX], buf[SPAN_WIRE_MAX];
	size_t len, pos, have, flips;
	uint64_t decoded = 0;
	Frame out;
	int round, want;

	for (round = 0; round < 50000; round++) {
		for (len = 0; len < 3 * SPAN_WIRE_MAX;)
			len += span_wire_encode(&samples[rnd() % SAMPLES], stream + len);
		for (flips = rnd() % 4; flips; flips--)
			stream[rnd() % len] ^= 1 << rnd() % 8;
		for (pos = 0;;) {
			for (have = 0; (want = span_wire_want(buf, have)) > 0;) {
				EXPECT(have + want <= sizeof(buf));
				want = 1 + rnd() % want;
				if (pos + want > len)
					goto next;
				memcpy(buf + have, stream + pos, want);
				have += want;
				pos += want;
			}
			if (want < 0)
				break;
			if (decode(buf, have, get_le64(buf + 16), &out) < 0)
				break;
			EXPECT(is_canonical(buf, have, &out));
			decoded++;
		}
next:;
	}
	EXPECT(decoded > 50000);
	return true;
}

static bool random_bytes(void)
{
	uint8_t buf[SPAN_WIRE_MAX + 8];
	Frame out;
	size_t len, i;
	int round;

	for (round = 0; round < 200000; round++) {
		len = rnd() % sizeof(buf);
		for (i = 0; i < len; i++)
			buf[i] = rnd();
		/* half of them with a header that is right so far */
		if (round & 1 && len >= SPAN_WIRE_HEADER) {
			put_le(buf, SPAN_WIRE_MAGIC, 4);
			put_le(buf + 4, SPAN_WIRE_VERSION, 2);
			put_le(buf + 6, 1 + rnd() % 6, 2);
			put_le(buf + 8, len - SPAN_WIRE_HEADER, 4);
		}
		if (decode(buf, len, get_le64(buf + 16), &out) == SPAN_WIRE_OK)
			EXPECT(is_canonical(buf, len, &out));
	}
	return true;
}

static const struct codec_case cases[] = {
	{ round_trip, "round_trip" },
	{ known_bytes, "known_bytes" },
	{ every_truncation, "every_truncation" },
	{ longer_than_it_says, "longer_than_it_says" },
	{ bad_magic, "bad_magic" },
	{ bad_version, "bad_version" },
	{ bad_type, "bad_type" },
	{ bad_length, "bad_length" },
	{ bad_sequence, "bad_sequence" },
	{ bad_numbers, "bad_numbers" },
	{ bad_texts, "bad_texts" },
	{ names, "names" },
	{ encode_cuts, "encode_cuts" },
	{ messages, "messages" },
	{ every_bit_flipped, "every_bit_flipped" },
	{ random_streams, "random_streams" },
	{ random_bytes, "random_bytes" },
};

int main(void)
{
	return run_cases(cases, sizeof(cases) / sizeof(cases[0]));
}
