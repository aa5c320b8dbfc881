package virtio

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"taskguide/memory"
	"taskguide/vmm/device/pci"
	"taskguide/vmm/state"
)

// MaxNets is the most network cards that a machine has.
const MaxNets = 8

const (
	slotNet         = 24 // of the first card
	idNet           = 1
	classNet        = 0x020000 // Ethernet
	netQueue        = 256
	netControlQueue = 64

	queueReceive  = 0
	queueTransmit = 1
	queueControl  = 2
)

// Features of a network card (VIRTIO 1.2, section 5.1.3).
const (
	netChecksum      = 1 << 0
	netGuestChecksum = 1 << 1
	netMAC           = 1 << 5
	netGuestTSO4     = 1 << 7
	netGuestTSO6     = 1 << 8
	netGuestECN      = 1 << 9
	netHostTSO4      = 1 << 11
	netHostTSO6      = 1 << 12
	netHostECN       = 1 << 13
	netMerge         = 1 << 15
	netStatus        = 1 << 16
	netControl       = 1 << 17
	netAnnounce      = 1 << 21

	// netAlways are the features that need nothing of the host.
	netAlways = netMAC | netMerge | netStatus | netControl | netAnnounce
	// netOffloads are those with which unfinished packets cross between guest and host: their
	// checksums are missing, or they are still to be cut into segments.
	netOffloads = netChecksum | netGuestChecksum | netGuestTSO4 | netGuestTSO6 | netGuestECN |
		netHostTSO4 | netHostTSO6 | netHostECN
)

// The card's own registers, struct virtio_net_config.
const (
	netConfigStatus = 6
	netConfigBytes  = 8

	netLinkUp      = 1 << 0 // in the status
	netAnnounceNow = 1 << 1
)

// Before each frame comes struct virtio_net_hdr, which says what is unfinished in it.
const (
	netHeaderFlags   = 0
	netHeaderGSO     = 1
	netHeaderBuffers = 10 // in how many chains the frame is
	netHeaderBytes   = 12

	netNeedsChecksum = 1 << 0 // in the flags
	netGSONone       = 0
	netGSOTCP4       = 1
	netGSOTCP6       = 4
	netGSOECN        = 0x80

	minFrame = 14           // an Ethernet header
	maxFrame = 64<<10 + 128 // a packet that is to be cut into segments
)

// Requests on the control queue: a class, a command, data, and a byte for the answer.
const (
	controlHeader      = 2
	controlAnnounce    = 3 // class
	controlAnnounceAck = 0 // command

	controlOK    = 0
	controlError = 1
)

// card is a network card's device.
//
// A frame from outside that finds no room in the guest is dropped, so nothing piles up here. It
// waits for a moment, so that a burst does not lose frames only because the guest is slower. It
// does so only if the frame before found room. So a guest that takes nothing holds nobody up.
type card struct {
	net      *Net
	dev      *Device
	ram      *memory.Guest
	spare    chan struct{} // there may be room for frames
	receiver sync.WaitGroup
	starved  bool // the last frame found no room; the receiver's own

	// The device's lock guards what follows.
	down   bool // the wire has no other end
	rounds int  // announcements still to be made, see announce
	timer  *time.Timer
}

// NetKind returns the kind of the n-th card's state, counted from 0.
func NetKind(n int) state.Kind { return state.Kind{Name: fmt.Sprintf("net%d", n), Version: 1} }

// NewNet returns the n-th network card on a bus. The device closes the card.
func NewNet(host *pci.Host, n int, net *Net, log *slog.Logger) *Device {
	c := &card{net: net, spare: make(chan struct{}, 1)}
	config := make([]byte, netConfigBytes)
	copy(config, net.MAC[:])
	le.PutUint16(config[netConfigStatus:], netLinkUp)
	c.dev = newDevice(host, spec{
		name: NetKind(n).Name, slot: slotNet + n, id: idNet, class: classNet,
		features: net.features, sizes: []uint16{netQueue, netQueue, netControlQueue},
		config: config,
	}, c, log)
	return c.dev
}

func (c *card) start(ram *memory.Guest) {
	c.ram = ram
	c.receiver.Go(c.receive)
}

func (c *card) close() {
	c.net.Close()
	c.receiver.Wait()
}

// pulls implements [actor]: frames from outside come unasked.
func (c *card) pulls(queue int) bool { return queue == queueReceive }

// rung comes when there is room for frames, and when the driver has set the card up.
func (c *card) rung(int) {
	c.dev.mu.Lock()
	features := c.dev.driverFeatures
	works := c.dev.works()
	c.dev.mu.Unlock()
	if works {
		c.net.wire.offload(features)
	}
	select {
	case c.spare <- struct{}{}:
	default:
	}
}

// receive passes frames to the guest until the card is closed.
func (c *card) receive() {
	frame := make([]byte, netHeaderBytes+maxFrame)
	for {
		n, err := c.net.wire.receive(frame)
		switch {
		case err == nil:
			c.deliver(frame[:n])
		case !c.reconnect(err):
			return
		}
	}
}

// reconnect takes the link down until the wire has another end again. It returns false if it never
// will.
func (c *card) reconnect(err error) bool {
	if errors.Is(err, errClosed) {
		return false
	}
	c.net.log.Warn(c.net.name()+": the guest's link is down", "error", err)
	c.setDown(true)
	if !c.net.wire.reconnect() {
		return false
	}
	c.net.log.Info(c.net.name() + ": the guest's link is up again")
	c.setDown(false)
	return true
}

// deliver passes a frame to the guest, or drops it.
func (c *card) deliver(frame []byte) {
	w := want{
		queue: queueReceive, bytes: len(frame), needs: unfinished(frame), merge: netMerge,
	}
	r, err := c.dev.takeRoom(w)
	if errors.Is(err, errNoRoom) && !c.starved {
		r, err = c.awaitRoom(w)
	}
	c.starved = errors.Is(err, errNoRoom)
	if err != nil {
		return
	}
	if r.features&netGuestChecksum == 0 {
		frame[netHeaderFlags] = 0
	}
	le.PutUint16(frame[netHeaderBuffers:], uint16(len(r.chains)))
	written := make([]uint32, len(r.chains))
	for i, chain := range r.chains {
		n := min(chain.writeBytes, len(frame))
		scatter(c.ram, chain.writable, frame[:n])
		written[i], frame = uint32(n), frame[n:]
	}
	c.dev.giveRoom(r, written)
}

// roomPatience is how long a frame waits for room.
const roomPatience = 10 * time.Millisecond

func (c *card) awaitRoom(w want) (room, error) {
	timer := time.NewTimer(roomPatience)
	defer timer.Stop()
	for {
		select {
		case <-c.spare:
		case <-timer.C:
			return room{}, errNoRoom
		}
		if r, err := c.dev.takeRoom(w); !errors.Is(err, errNoRoom) {
			return r, err
		}
	}
}

// unfinished returns the features that a driver needs for a frame. Between the time when a driver
// goes and when the wire learns what the next one agreed on, frames may come that it cannot take.
func unfinished(frame []byte) uint64 {
	var needs uint64
	if frame[netHeaderFlags]&netNeedsChecksum != 0 {
		needs |= netGuestChecksum
	}
	gso := frame[netHeaderGSO]
	if gso&netGSOECN != 0 {
		needs |= netGuestECN
	}
	switch gso &^ netGSOECN {
	case netGSONone:
	case netGSOTCP4:
		needs |= netGuestTSO4
	case netGSOTCP6:
		needs |= netGuestTSO6
	default:
		needs |= 1 << 63 // which no driver has
	}
	return needs
}

// serve sends a frame, or carries out a request of the control queue.
func (c *card) serve(r request) {
	if r.queue == queueControl {
		c.control(r)
		return
	}
	r.done(0, c.transmit(r))
}

func (c *card) transmit(r request) error {
	switch {
	case r.writeBytes > 0:
		return broken("a frame to be sent with room for an answer")
	case r.readBytes < netHeaderBytes:
		return broken("a frame to be sent without header")
	case r.readBytes < netHeaderBytes+minFrame || r.readBytes > netHeaderBytes+maxFrame:
		return nil // dropped
	}
	if parts, ok := c.ram.Slices(r.readable); ok {
		c.net.wire.send(parts)
	}
	return nil
}

func (c *card) control(r request) {
	if r.readBytes < controlHeader || r.writeBytes < 1 {
		r.done(0, broken("a control request without header or room for an answer"))
		return
	}
	first, _ := cut(r.readable, controlHeader)
	header := gather(c.ram, first)
	answer := byte(controlError)
	if header[0] == controlAnnounce && header[1] == controlAnnounceAck {
		c.announced()
		answer = controlOK
	}
	_, last := cut(r.writable, r.writeBytes-1)
	scatter(c.ram, last, []byte{answer})
	r.done(uint32(r.writeBytes), nil)
}

// status returns the register that says whether there is a link; the device's lock is held in all
// that follows.
func (c *card) status() uint16 { return le.Uint16(c.dev.config[netConfigStatus:]) }

func (c *card) setStatus(status uint16) {
	c.dev.changeConfig(netStatus, func(config []byte) {
		le.PutUint16(config[netConfigStatus:], status)
	})
}

// showLink makes the status say whether the wire has another end.
func (c *card) showLink() {
	status := c.status() | netLinkUp
	if c.down {
		status &^= netLinkUp
	}
	if status != c.status() {
		c.setStatus(status)
	}
}

// setDown takes the link down or up. A quiesced device shows it to its driver once it is resumed.
func (c *card) setDown(down bool) {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	c.down = down
	if !c.dev.quiet && !c.dev.closed {
		c.showLink()
	}
}

func (c *card) quiesce() {
	c.net.wire.hold()
	if c.timer != nil {
		c.timer.Stop()
	}
}

func (c *card) resume() {
	c.net.wire.release()
	c.showLink()
	c.announceSoon(0)
}

// netSavedBytes is the length of the card's own state: the status, and the generation of the
// registers.
const netSavedBytes = 3

func (c *card) save() []byte { return append(le.AppendUint16(nil, c.status()), c.dev.generation) }

func (c *card) load(b []byte) error {
	if len(b) != netSavedBytes {
		return fmt.Errorf("%d bytes of a network card, want %d", len(b), netSavedBytes)
	}
	status := le.Uint16(b)
	if status&^(netLinkUp|netAnnounceNow) != 0 {
		return fmt.Errorf("status %#x of a network card", status)
	}
	le.PutUint16(c.dev.config[netConfigStatus:], status)
	c.dev.generation = b[2]
	return nil
}

func (c *card) stay() {}

func (c *card) reset() {
	if c.dev != nil {
		le.PutUint16(c.dev.config[netConfigStatus:], c.status()&^netAnnounceNow)
	}
}
