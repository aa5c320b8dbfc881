package trial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"taskguide/bench/relay"
)

// errNoRelay is of trials whose peers a relay cannot come between.
var errNoRelay = errors.New("a round trip is for single moves over TCP")

// checkRTT refuses a round trip that the trial cannot have.
func (spec Spec) checkRTT() error {
	if spec.RTT == 0 {
		return nil
	}
	if spec.RTT < 0 || spec.RTT > relay.MaxRoundTrip {
		return fmt.Errorf("round trip %v: %w", spec.RTT, relay.ErrRoundTrip)
	}
	if spec.Moves > 0 || spec.Baseline != "" {
		return errNoRelay
	}
	return nil
}

// relayTo puts a relay before a destination's address, beside the source. It returns the address to
// migrate to, and what ends the relay. Without a round trip there is no relay.
func (site *Site) relayTo(address string, trip time.Duration) (string, func() error, error) {
	nothing := func() error { return nil }
	if trip == 0 {
		return address, nothing, nil
	}
	host, ok := strings.CutPrefix(address, "tcp:")
	if !ok {
		return "", nothing, fmt.Errorf("%w: not %s", errNoRelay, address)
	}
	near := site.Link.Source()
	var ln *net.TCPListener
	err := near.do(func() (err error) {
		ln, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		return err
	})
	if err != nil {
		return "", nothing, fmt.Errorf("listen for a relay: %w", err)
	}
	dial := func(ctx context.Context) (c *net.TCPConn, err error) {
		// An address in digits is dialled on the caller's thread, in its network namespace.
		err = near.do(func() error {
			any, err := new(net.Dialer).DialContext(ctx, "tcp", host)
			if err == nil {
				c = any.(*net.TCPConn)
			}
			return err
		})
		return c, err
	}
	r, err := relay.Start(ln, dial, trip)
	if err != nil {
		return "", nothing, errors.Join(err, ln.Close())
	}
	return "tcp:" + r.Addr().String(), r.Close, nil
}
