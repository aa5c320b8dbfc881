package virtio

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
)

// NetBackend says what a card is connected to.
type NetBackend string

const (
	NetTAP  NetBackend = "tap"  // a TAP interface of the host
	NetUnix NetBackend = "unix" // a program that listens on a unix stream socket
)

// NetConfig says what a card is connected to: Name is an interface, or the path of a socket. With
// no MAC the card gets a random one, or the one that it had where the guest comes from.
type NetConfig struct {
	Backend NetBackend
	Name    string
	MAC     MAC
	// Queues is how many pairs of queues the card has, each with one to receive and one to send: at
	// most MaxNetPairs, and 0 means 1. A TAP interface must have as many queues.
	Queues int
}

// pairs returns how many pairs of queues the card has.
func (c NetConfig) pairs() int { return max(c.Queues, 1) }

// MAC is the address of a network card; the zero value is none.
type MAC [6]byte

// String returns the usual form, as in 02:00:00:00:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements [encoding.TextMarshaler].
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. It refuses addresses of groups.
func (m *MAC) UnmarshalText(text []byte) error {
	const groupBit = 1
	a, err := net.ParseMAC(string(text))
	if err != nil || len(a) != len(m) || strings.ContainsRune(string(text), '.') {
		return fmt.Errorf("%q is no MAC address: give six bytes, as in 02:00:00:00:00:01", text)
	}
	if a[0]&groupBit != 0 || MAC(a) == (MAC{}) {
		return fmt.Errorf("%s cannot be a card's address: its first byte must be even, "+
			"as in 02:00:00:00:00:01", text)
	}
	*m = MAC(a)
	return nil
}

// RandomMAC returns an address that no vendor has assigned.
func RandomMAC() MAC {
	var m MAC
	_, _ = rand.Read(m[:]) // it never fails
	m[0] = m[0]&^3 | 2     // one card's, assigned locally
	return m
}

// wire is what a card is connected to. Frames have a header (struct virtio_net_hdr) before them.
// A wire has as many lanes as its card has pairs of queues. Frames of one connection keep to one
// lane. Lanes can be used at the same time.
type wire interface {
	// receive waits for a frame of a lane and returns its length with the header. It returns
	// errClosed once the wire is closed. Other errors mean that there is no other end.
	receive(lane int, frame []byte) (int, error)
	// reconnect waits until there is another end again. It returns false if there will never be
	// one.
	reconnect() bool
	// send sends a frame whose parts may change meanwhile, or loses it. It does not wait while the
	// wire is held.
	send(lane int, parts [][]byte)
	// hold makes send come back at once, until release. Neither waits.
	hold()
	release()
	// offload says which features the driver agreed on.
	offload(features uint64)
	close()
}

// errClosed is returned for a wire that was closed.
var errClosed = errors.New("closed")

// Net is what a guest's network card is connected to. It is closed by its device, or by Close.
type Net struct {
	NetConfig
	features uint64 // that the card offers
	mtu      int    // largest packet that the card passes on; 0: nobody knows
	wire     wire
	log      *slog.Logger
	closed   sync.Once
}

// OpenNet connects a card. Nothing is sent or received before its device runs.
func OpenNet(c NetConfig, log *slog.Logger) (*Net, error) {
	n := &Net{NetConfig: c, features: netAlways, log: log}
	var err error
	switch {
	case c.Queues < 0 || c.Queues > MaxNetPairs:
		err = fmt.Errorf("%d pairs of queues: a card has 1 to %d", c.Queues, MaxNetPairs)
	case c.Backend == NetTAP:
		err = n.openTAP()
	case c.Backend == NetUnix && c.pairs() > 1:
		err = fmt.Errorf("%d pairs of queues: only a card on a TAP interface has more than one",
			c.Queues)
	case c.Backend == NetUnix:
		n.wire, err = openStream(c.Name)
	default:
		err = errors.New("unknown: use tap:IFNAME or unix:PATH")
	}
	if err != nil {
		return nil, n.wrap(err)
	}
	return n, nil
}

func (n *Net) openTAP() error {
	t, err := openTAP(n.Name, n.pairs(), n.lost)
	if err != nil {
		return err
	}
	n.wire, n.mtu = t, t.mtu
	n.features |= netOffloads
	if n.pairs() > 1 {
		n.features |= netMultiQueue
	}
	// A driver assumes the usual size if nobody tells it another one. So a card with the usual one
	// does not have the feature, which programs that know nothing of it would refuse.
	if n.mtu != usualMTU && n.mtu >= leastMTU {
		n.features |= netMTU
	}
	return nil
}

const (
	usualMTU = 1500
	leastMTU = 68 // that the standard lets a card have
)

func (n *Net) name() string { return fmt.Sprintf("network card %s:%s", n.Backend, n.Name) }

func (n *Net) wrap(err error) error { return fmt.Errorf("%s: %w", n.name(), err) }

// lost tells the log that frames are lost.
func (n *Net) lost(err error) {
	n.log.Warn(n.name()+": what the guest sends is lost", "error", err)
}

// Close disconnects the card.
func (n *Net) Close() { n.closed.Do(n.wire.close) }

// NetIdentity is what a destination must know of a card to have the same one.
type NetIdentity struct {
	MAC MAC `json:"mac"`
	// Features are those that the card offers to its driver, by the numbers of the standard.
	Features uint64 `json:"features"`
	Queue    int    `json:"queue"` // entries of a queue
	Pairs    int    `json:"pairs"` // queues for receiving, and as many for sending
	// MTU is the largest packet that the card tells its driver to send; 0: it tells none.
	MTU int `json:"mtu,omitempty"`
}

// Identity returns what a destination must know of the card.
func (n *Net) Identity() NetIdentity {
	i := NetIdentity{MAC: n.MAC, Features: n.features, Queue: netQueue, Pairs: n.pairs()}
	if n.features&netMTU != 0 {
		i.MTU = n.mtu
	}
	return i
}

// Offloads tells whether the card offers its driver features that not every backend has.
func (i NetIdentity) Offloads() bool { return i.Features&netOffloads != 0 }

// Become makes the card the one that a guest had at its source. It returns an error if it cannot be
// that.
func (n *Net) Become(theirs NetIdentity) error {
	ours := n.Identity()
	missing := theirs.Features &^ (ours.Features | netMTU)
	takes, sends := mtuOr(n.mtu), mtuOr(theirs.MTU)
	var err error
	switch {
	case n.MAC != (MAC{}) && n.MAC != theirs.MAC:
		err = fmt.Errorf("its address is to be %s, and the source's has %s: "+
			"give that, or no mac=", n.MAC, theirs.MAC)
	case theirs.MAC == (MAC{}):
		err = errors.New("the source's has no address")
	case theirs.Queue != ours.Queue:
		err = fmt.Errorf("it has queues of %d entries, and the source's of %d", ours.Queue,
			theirs.Queue)
	case theirs.Pairs != ours.Pairs:
		err = fmt.Errorf("it has %d pairs of queues, and the source's %d: give queues=%d",
			ours.Pairs, theirs.Pairs, theirs.Pairs)
	case missing&netOffloads != 0 && missing&^netOffloads == 0:
		err = errors.New("the source's is a TAP interface, whose offloads this cannot do: " +
			"use tap:IFNAME")
	case missing != 0 || theirs.Features&netAlways != netAlways || !theirs.adds():
		err = fmt.Errorf("the source's offers features %#x, and this can have %#x",
			theirs.Features, ours.Features)
	case sends > takes:
		err = fmt.Errorf("it takes packets of %d bytes (MTU), and the source's of %d: "+
			"use ip link set dev %s mtu %[2]d", takes, sends, n.Name)
	}
	if err != nil {
		return n.wrap(err)
	}
	n.MAC, n.features, n.mtu = theirs.MAC, theirs.Features, theirs.MTU
	return nil
}

// mtuOr returns the size of packets where nobody may have told another one.
func mtuOr(mtu int) int {
	if mtu == 0 {
		return usualMTU
	}
	return mtu
}

// adds tells whether the features are those of a card with these queues and this MTU.
func (i NetIdentity) adds() bool {
	return (i.Features&netMultiQueue != 0) == (i.Pairs > 1) &&
		(i.Features&netMTU != 0) == (i.MTU != 0) &&
		(i.MTU == 0 || i.MTU >= leastMTU && i.MTU <= math.MaxUint16)
}
