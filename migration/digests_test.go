package migration

import (
	"context"
	"encoding/binary"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
	"taskguide/transport"
)

// TestVerifyNamesWhatDiffers: with two ends that both compare part by part, and with one that does
// not.
func TestVerifyNamesWhatDiffers(t *testing.T) {
	const page = 2*memory.DigestChunk/memory.PageSize + 3 // of the third chunk
	for name, c := range map[string]struct {
		spoil func(in *fakeIncoming)
		parts string // the error; "": they are the same
		sums  string
	}{
		"nothing": {func(*fakeIncoming) {}, "", ""},
		"RAM": {
			func(in *fakeIncoming) { in.ram.Page(page)[17], in.ram.Page(page + 2)[0] = 1, 1 },
			"verification failed: RAM at the destination differs in 1 of 4 chunks of 4 MiB, " +
				"in the first of them in 2 pages, the first at 0x803000, 0x805000",
			"verification failed: RAM at the destination differs",
		},
		"much RAM": {
			func(in *fakeIncoming) {
				for page := range in.ram.Pages() {
					in.ram.Page(page)[5] = 9
				}
			},
			"in 4 of 4 chunks of 4 MiB, in the first of them in 1024 pages, " +
				"the first at 0x0, 0x1000, 0x2000, 0x3000",
			"RAM at the destination differs",
		},
		"state": {
			func(in *fakeIncoming) { in.wrong = 1 },
			"verification failed: 00000000[0-9a-f]{8} at the source, " +
				"01000000[0-9a-f]{8} at the destination",
			"verification failed: device state at the destination differs",
		},
	} {
		for _, offers := range []transport.Features{0, transport.FeatureParts} {
			want := map[transport.Features]string{
				0: c.sums, transport.FeatureParts: c.parts,
			}[offers]
			t.Run(name+", "+offers.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newEnds(t, func(*guest) {})
					defer b.close()
					b.offers = offers
					c.spoil(b.in)
					b.m.start()
					s := b.source(Params{Verify: true})
					r := s.Run(context.Background())
					if want == "" {
						b.checkMoved(s, r)
						require.True(t, *r.Verified)
						return
					}
					b.checkStays(s, r)
					require.Regexp(t, want, r.Error)
					require.False(t, *r.Verified)
				})
			})
		}
	}
}

// verifying is a rogue whose destination waits for its word about RAM.
func verifying(b *ends) rogue {
	r := newRogueOffering(b, 1, transport.FeatureParts).accepted()
	r.extents()
	r.flush(0)
	err := r.main.WriteMessage(transport.TypeState, stateVerify, r.state())
	require.NoError(b.t, err)
	ofRAM := transport.Header{Type: transport.TypeDigests, Length: 4 * 8, Arg: digestRAM}
	require.Equal(b.t, ofRAM, r.next())
	return r
}

// ofRAM returns what the source sends if RAM is equal.
func (r rogue) ofRAM() []byte {
	chunks, err := r.b.in.ram.ChunkDigests(nil)
	require.NoError(r.b.t, err)
	return packDigests([]uint64{memory.DigestOf(chunks)})
}

// TestQuestionsAboutRAM: the destination answers valid questions, up to a limit.
func TestQuestionsAboutRAM(t *testing.T) {
	chunk := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	for why, ask := range map[string]func(r rogue){
		"a question of 3 bytes": func(r rogue) { r.sums(digestPages, make([]byte, 3)) },
		"chunk 4 of 4":          func(r rogue) { r.sums(digestPages, chunk(4)) },
		"chunk 4294967295 of 4": func(r rogue) { r.sums(digestPages, chunk(^uint32(0))) },
		"digests of 0 before":   func(r rogue) { r.sums(digestAll, nil) },
		"digests of 9 before":   func(r rogue) { r.sums(9, nil) },
		"RAM at the source":     func(r rogue) { r.sums(digestRAM, make([]byte, 8)) },
		"more than 16":          askTooMuch,
		"digests of 1 where 0 were due": func(r rogue) {
			r.sums(digestRAM, r.ofRAM())
			require.Equal(r.b.t, digestAll, r.next().Arg)
			r.sums(digestRAM, r.ofRAM())
		},
		"at the destination": func(r rogue) { // the fingerprint
			r.sums(digestRAM, r.ofRAM())
			require.Equal(r.b.t, digestAll, r.next().Arg)
			r.sums(digestAll, []byte("another"))
		},
	} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, idle)
				defer b.close()
				b.m.start()
				r := verifying(b)
				ask(r)
				r.requireDiscarded(0, why)
			})
		})
	}
}

func (r rogue) sums(of uint32, payload []byte) {
	r.b.t.Helper()
	require.NoError(r.b.t, r.main.WriteMessage(transport.TypeDigests, of, payload))
}

func askTooMuch(r rogue) {
	for range maxQuestions {
		r.sums(digestPages, []byte{3, 0, 0, 0})
		answer := r.next()
		require.Equal(r.b.t, transport.Header{
			Type: transport.TypeDigests, Length: 1024 * 8, Arg: digestPages,
		}, answer)
	}
}

// TestAnswersAboutRAM: a destination that answers with something else is not believed.
func TestAnswersAboutRAM(t *testing.T) {
	for why, answers := range map[string][]digestsFrame{
		"24 bytes of digests":            {{digestRAM, 24}},
		"digests of 0 where 1 were due":  {{digestAll, 32}},
		"8191 bytes of digests":          {{digestRAM, 32}, {digestPages, 8191}},
		"digests of 1 where 2 were due":  {{digestRAM, 32}, {digestRAM, 8192}},
		"RAM at the destination differs": {{digestRAM, 32}, {digestPages, 8192}},
	} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, func(*guest) {}) // an idle guest, so no page is sent
				defer b.close()
				b.offers = transport.FeatureParts
				b.m.start()
				impostor(b, func(nc net.Conn, c *transport.Conn) {
					transport.WriteWelcome(nc, transport.Terms{
						Version: transport.Version, Features: transport.FeatureParts,
					})
					answer(c, answers)
				})
				s := b.source(Params{Verify: true, Channels: 1})
				r := s.Run(context.Background())
				b.checkStays(s, r)
				require.Contains(t, r.Error, why)
			})
		})
	}
}

// digestsFrame is a digests frame with a number of zero bytes.
type digestsFrame struct {
	of    uint32
	bytes int
}

// answer plays a destination that takes everything, and answers digests as it was told.
func answer(c *transport.Conn, digests []digestsFrame) {
	say := func() {
		if len(digests) > 0 {
			c.WriteMessage(transport.TypeDigests, digests[0].of, make([]byte, digests[0].bytes))
			digests = digests[1:]
		}
	}
	for {
		h, err := c.Next()
		if err == nil {
			_, err = c.ReadMessage(h)
		}
		if err != nil {
			return
		}
		switch h.Type {
		case transport.TypeConfig:
			c.WriteMessage(transport.TypeAccept, 0, nil)
		case transport.TypeFlush:
			c.WriteMessage(transport.TypeFlush, h.Arg, nil)
		case transport.TypeState, transport.TypeDigests:
			say()
		}
	}
}
