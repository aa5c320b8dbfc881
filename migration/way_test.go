package migration

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/migration/policy"
	"taskguide/tagging"
	"taskguide/transport"
)

// TestWay: a guest goes to another host by TLS, or in plain text if that was ordered.
func TestWay(t *testing.T) {
	for _, elsewhere := range []string{"tcp:192.0.2.1:1", "tcp:[2001:db8::1]:1", "tcp:0.0.0.0:1"} {
		_, err := NewSource(nil, Params{Destination: elsewhere}, nil)
		require.ErrorAs(t, err, new(*transport.PlainError), elsewhere)
		require.NoError(t, Params{Destination: elsewhere, Insecure: true}.CheckWay())
		require.NoError(t, Params{Destination: elsewhere, TLSDir: "/d"}.CheckWay())
	}
	for _, here := range []string{"tcp:127.0.0.1:1", "tcp:[::1]:1", "unix:/s", "tcp:web2:1"} {
		require.NoError(t, Params{Destination: here}.CheckWay(), here)
	}
	for _, none := range []Params{{Destination: "web2"}, {Destination: "web2", TLSDir: "/d"}} {
		require.ErrorIs(t, none.CheckWay(), transport.ErrAddress)
	}
	_, err := Params{Destination: "unix:/s", Insecure: true, TLSDir: "/d"}.WithDefaults()
	require.ErrorContains(t, err, "use one of them")
}

// TestWayToAName: a name is resolved and judged when the source connects.
func TestWayToAName(t *testing.T) {
	namesLeadTo(t, netip.MustParseAddr("192.0.2.1"))
	m := newFakeMachine(t, nil)
	s, err := NewSource(m, Params{Destination: "tcp:web2.example.:1"}, nil)
	require.NoError(t, err, "it is not known yet")
	r := s.Run(t.Context())
	require.Equal(t, StatusFailed, r.Status)
	require.Contains(t, r.Error, "plain text at 192.0.2.1")
}

// namesLeadTo makes host names resolve to an IPv4 address, by a DNS answer (RFC 1035, 4).
func namesLeadTo(t *testing.T, ip netip.Addr) {
	t.Helper()
	const header, answers, typeA = 12, 7, 1
	before := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = before })
	answer := func(nc net.Conn) {
		defer nc.Close()
		length := make([]byte, 2)
		if _, err := io.ReadFull(nc, length); err != nil {
			return
		}
		m := make([]byte, binary.BigEndian.Uint16(length))
		if _, err := io.ReadFull(nc, m); err != nil {
			return
		}
		end := header // of the question: a name that ends with a byte of 0, type and class
		for m[end] != 0 {
			end += 1 + int(m[end])
		}
		end += 5
		m = m[:end]
		copy(m[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // an answer without an error
		if binary.BigEndian.Uint16(m[end-4:]) == typeA {
			m[answers] = 1
			m = append(m, 0xc0, header, 0, typeA, 0, 1, 0, 0, 0, 1, 0, 4)
			m = append(m, ip.AsSlice()...)
		}
		_, _ = nc.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	}
	net.DefaultResolver = &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go answer(far)
			return near, nil
		},
	}
}

// TestNotDeferredAtAll: with a limit of no time nothing is held back; a migration that would be is
// forced or ended.
func TestNotDeferredAtAll(t *testing.T) {
	closed := func(g *guest) {
		if g.step == 0 {
			g.m.port.Write(tagging.RegRegister, 4, 1)
		}
	}
	for _, mode := range []Guidance{GuidanceStart, GuidanceSuspend, GuidanceSwitchover} {
		for _, then := range []OnTimeout{TimeoutForce, TimeoutCancel} {
			synctest.Test(t, func(t *testing.T) {
				b := newEnds(t, closed)
				defer b.close()
				b.m.touch(100)
				b.m.start()
				time.Sleep(10 * time.Millisecond) // its task is there
				s := b.source(Params{Guidance: mode, MaxDefer: NoTime, OnTimeout: then})
				r := s.Run(context.Background())
				require.Zero(t, r.WaitedMS+r.SuspendedMS+r.DeferredMS, "%s %s", mode, then)
				require.Zero(t, r.Suspensions)
				if then == TimeoutCancel {
					require.Equal(t, StatusCancelled, r.Status)
					require.Contains(t, r.Error, "held back by the gate for too long: 0s")
					b.checkStays(s, r)
					return
				}
				require.True(t, r.Forced)
				b.checkMoved(s, r)
			})
		}
	}
}

// TestNoDowntime: a downtime limit of no time is satisfied when nothing is dirty, and not before.
func TestNoDowntime(t *testing.T) {
	for _, p := range []Params{{DowntimeLimit: NoTime}, {Rule: "downtime:limit=0s"}} {
		p.Destination = "unix:/d"
		p, err := p.WithDefaults()
		require.NoError(t, err)
		require.Equal(t, NoTime, p.DowntimeLimit)
		choice, err := p.choice()
		require.NoError(t, err)
		rule, err := p.policy(choice)
		require.NoError(t, err)
		round := policy.Event{
			Kind: policy.KindRound, Completed: 1, RAM: 1 << 20, BytesPerS: 1e12, WirePerS: 1e12,
		}
		round.Dirty, round.Remaining = 1, 1
		require.Equal(t, policy.Continue, rule.Step(time.Second, round).Verb)
		round.Dirty, round.Remaining, round.Sent = 0, 0, 1<<20
		require.Equal(t, policy.Switchover, rule.Step(time.Second, round).Verb)
	}
}

// TestSuspensionWithoutTime: a gate that closes during pre-copy ends a migration that may not be
// held back, where that is what was asked for.
func TestSuspensionWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newEnds(t, func(g *guest) {
			g.writeRange(0, 90)
			switch g.step {
			case 0:
				g.enter(1)
			case 100:
				g.exit(1)
			}
		})
		defer b.close()
		b.m.touch(900)
		b.m.start()
		time.Sleep(10 * time.Millisecond)
		p := guided(RuleDowntime, GuidanceSuspend)
		p.DowntimeLimit, p.MaxDefer, p.OnTimeout = NoTime, NoTime, TimeoutCancel
		off := false
		p.SwitchAtExit = &off
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s := b.source(p)
		r := s.Run(ctx)
		require.Equal(t, StatusCancelled, r.Status)
		require.Contains(t, r.Error, "held back by the gate for too long: 0s")
		require.Zero(t, r.Suspensions)
		b.checkStays(s, r)
	})
}
