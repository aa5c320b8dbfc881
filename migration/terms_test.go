package migration

import (
	"context"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
)

// Bits of the protocol that only a test knows.
const (
	testOptional transport.Features = 1 << 7
	testRequired transport.Features = 1 << 45
)

// TestTermsOfAMigration: both ends go by what both know, on each channel; a feature that the source
// needs and its destination does not know ends the migration at the greeting.
func TestTermsOfAMigration(t *testing.T) {
	const all = testOptional | testRequired
	for name, test := range map[string]struct {
		offers, knows transport.Features
		inForce       transport.Features
		refused       bool
	}{
		"two of this version":           {},
		"a source without features":     {knows: all},
		"a destination without them":    {offers: testOptional},
		"a newer source, optional":      {offers: testOptional | 1, knows: 1, inForce: 1},
		"both know all":                 {offers: all, knows: all, inForce: all},
		"a newer source, required":      {offers: all, knows: testOptional, refused: true},
		"the destination knows another": {offers: testRequired, knows: 1 << 46, refused: true},
		"a destination that knows more": {offers: testOptional, knows: all, inForce: testOptional},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newEndsKnowing(t, busy(0, 5), test.knows)
				defer b.close()
				b.offers = test.offers
				b.onBuild = func() { require.False(t, test.refused, "a machine was built") }
				b.m.start()
				s := b.source(Params{Channels: 3})
				r := s.Run(context.Background())
				if test.refused {
					b.checkStays(s, r)
					const why = "unknown protocol feature: the source needs bit 45, " +
						"which is not known here: use a newer program at the destination"
					require.Equal(t, "greet the destination: refused by the peer: "+why, r.Error)
					require.Contains(t, b.log.String(), why)
					require.Zero(t, r.BytesWire)
					return
				}
				b.checkMoved(s, r)
				want := transport.Terms{Version: transport.Version, Features: test.inForce}
				require.Equal(t, want, r.Protocol)
				logged := `protocol=2 features="?` + test.inForce.String() + `"?\n`
				require.Regexp(t, logged, b.log.String())
			})
		})
	}
}

// TestOldDestinationOfANewSource: an old destination answers as it always did, and does not know
// that a bit may be required. The source knows, and ends the migration.
func TestOldDestinationOfANewSource(t *testing.T) {
	for offers, refused := range map[transport.Features]bool{
		testOptional: false, testOptional | testRequired: true,
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newEnds(t, idle)
			defer b.close()
			b.offers = offers
			b.m.start()
			configured := make(chan bool, 1)
			impostor(b, func(nc net.Conn, c *transport.Conn) {
				transport.WriteWelcome(nc, transport.Terms{Version: transport.Version})
				h, err := c.Next()
				configured <- err == nil && h.Type == transport.TypeConfig
			})
			s := b.source(Params{})
			r := s.Run(context.Background())
			b.checkStays(s, r)
			require.Equal(t, refused, !<-configured)
			if refused {
				require.Contains(t, r.Error, "the destination does not know bit 45")
			}
		})
	}
}

// TestChannelsOnOtherTerms: a channel that was offered, or answered, on other terms than the first
// one is not part of the migration.
func TestChannelsOnOtherTerms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEndsKnowing(t, idle, testOptional)
		defer b.close()
		r := accepted(b, 2)
		h := r.hello
		h.Channel, h.Features = 1, testOptional
		_, err := knock(b, h)
		require.ErrorContains(t, err, "offered on other terms than its migration")
		h.Features = 0
		nc, err := knock(b, h)
		require.NoError(t, err, "and may come again as it should")
		nc.Close()
		r.main.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, idle)
		defer b.close()
		b.offers = testOptional
		b.m.start()
		dials := 0
		b.dial = func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			terms := transport.Terms{Version: transport.Version}
			if dials++; dials == 2 {
				terms.Features = testOptional
			}
			go func() {
				defer far.Close()
				if _, err := transport.ReadHello(far); err != nil {
					return
				}
				transport.WriteWelcome(far, terms)
				c := transport.NewConn(far)
				for {
					h, err := c.Next()
					if err == nil {
						_, err = c.ReadMessage(h)
					}
					if err != nil {
						return
					}
					if h.Type == transport.TypeConfig {
						c.WriteMessage(transport.TypeAccept, 0, nil)
					}
				}
			}()
			return near, nil
		}
		s := b.source(Params{Channels: 2})
		r := s.Run(context.Background())
		b.checkStays(s, r)
		require.Contains(t, r.Error, "channel 1 on other terms than channel 0")
	})
}
