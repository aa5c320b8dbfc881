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

	// MaxNetPairs is the most pairs of queues that a card has.
	MaxNetPairs = 8

	// The first pair of queues. The others follow it, and then comes the control queue.
	queueReceive  = 0
	queueTransmit = 1
)

// Features of a network card (VIRTIO 1.2, section 5.1.3).
const (
	netChecksum      = 1 << 0
	netGuestChecksum = 1 << 1
	netMTU           = 1 << 3
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
	netMultiQueue    = 1 << 22

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
	netConfigPairs  = 8
	netConfigMTU    = 10
	netConfigBytes  = 8  // of a card that has neither of these two
	netConfigAll    = 12 // of one that has one of them

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
	controlMost        = 4 // bytes of a request that the card looks at
	controlAnnounce    = 3 // class
	controlAnnounceAck = 0 // command
	controlPairs       = 4 // class
	controlPairsSet    = 0 // command, with a number of 16 bits

	controlOK    = 0
	controlError = 1
)

// card is a network card's device.
//
// A frame from outside that finds no room in the guest is dropped, so nothing piles up here. It
// waits for a moment, so that a burst does not lose frames only because the guest is slower. It
// does so only if the frame before found room. So a guest that takes nothing holds nobody up.
//
// The guest decides how many of its pairs of queues are used. Each lane of the wire keeps to one of
// them, and several lanes share one if there are fewer of those.
type card struct {
	net       *Net
	dev       *Device
	ram       *memory.Guest
	receivers []*receiver // one a lane
	running   sync.WaitGroup

	// The device's lock guards what follows.
	used   int  // pairs of queues that the guest uses
	down   bool // the wire has no other end
	rounds int  // announcements still to be made, see announce
	timer  *time.Timer
}

// receiver passes the frames of a lane to the guest.
type receiver struct {
	*card
	lane    int
	spare   chan struct{} // there may be room for frames
	starved bool          // the last frame found no room; the goroutine's own
}

// NetKind returns the kind of the n-th card's state, counted from 0.
func NetKind(n int) state.Kind { return state.Kind{Name: fmt.Sprintf("net%d", n), Version: 1} }

// NewNet returns the n-th network card on a bus. The device closes the card.
func NewNet(host *pci.Host, n int, net *Net, log *slog.Logger) *Device {
	c := &card{net: net, used: 1}
	var sizes []uint16
	for lane := range net.pairs() {
		c.receivers = append(c.receivers, &receiver{
			card: c, lane: lane, spare: make(chan struct{}, 1),
		})
		sizes = append(sizes, netQueue, netQueue)
	}
	c.dev = newDevice(host, spec{
		name: NetKind(n).Name, slot: slotNet + n, id: idNet, class: classNet,
		features: net.features, sizes: append(sizes, netControlQueue), config: net.registers(),
	}, c, log)
	return c.dev
}

// registers returns what a driver finds in the card's own registers.
func (n *Net) registers() []byte {
	config := make([]byte, netConfigAll)
	copy(config, n.MAC[:])
	le.PutUint16(config[netConfigStatus:], netLinkUp)
	if n.features&(netMultiQueue|netMTU) == 0 {
		return config[:netConfigBytes]
	}
	le.PutUint16(config[netConfigPairs:], uint16(n.pairs()))
	if n.features&netMTU != 0 {
		le.PutUint16(config[netConfigMTU:], uint16(n.mtu))
	}
	return config
}

func (c *card) start(ram *memory.Guest) {
	c.ram = ram
	for _, r := range c.receivers {
		c.running.Go(r.receive)
	}
}

func (c *card) close() {
	c.net.Close()
	c.running.Wait()
}

// A card's queues are pairs of one to receive and one to send, and then the control queue. A driver
// that does not know of several pairs finds the control queue behind the first one, whatever the
// card could have.

// controlQueue returns the number of the control queue for a driver's features.
func (c *card) controlQueue(features uint64) int {
	if features&netMultiQueue == 0 {
		return 2
	}
	return 2 * c.net.pairs()
}

// pulls implements [actor]: frames from outside come unasked.
func (c *card) pulls(queue int) bool {
	return queue%2 == queueReceive && queue < c.controlQueue(c.dev.driverFeatures)
}

// receiveQueue returns the queue for the frames of a lane.
func (c *card) receiveQueue(lane int) int { return 2*(lane%c.used) + queueReceive }

// rung comes when there is room for frames, and when the driver has set the card up.
func (c *card) rung(int) {
	c.dev.mu.Lock()
	features := c.dev.driverFeatures
	works := c.dev.works()
	c.dev.mu.Unlock()
	if works {
		c.net.wire.offload(features)
	}
	for _, r := range c.receivers {
		select {
		case r.spare <- struct{}{}:
		default:
		}
	}
}

// receive passes frames to the guest until the card is closed.
func (c *receiver) receive() {
	frame := make([]byte, netHeaderBytes+maxFrame)
	for {
		n, err := c.net.wire.receive(c.lane, frame)
		switch {
		case err == nil:
			c.deliver(frame[:n])
		case !c.reconnect(err):
			return
		}
	}
}

// reconnect takes the link down until the wire has another end again. It returns false if it never
// will. All lanes lose the other end at once, and one of them waits for it.
func (c *card) reconnect(err error) bool {
	if errors.Is(err, errClosed) || !c.setDown(true) {
		return false
	}
	c.net.log.Warn(c.net.name()+": the guest's link is down", "error", err)
	if !c.net.wire.reconnect() {
		return false
	}
	c.net.log.Info(c.net.name() + ": the guest's link is up again")
	c.setDown(false)
	return true
}

// deliver passes a frame to the guest, or drops it.
func (c *receiver) deliver(frame []byte) {
	w := want{
		queue: func() int { return c.receiveQueue(c.lane) },
		bytes: len(frame), needs: unfinished(frame), merge: netMerge,
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

func (c *receiver) awaitRoom(w want) (room, error) {
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
	switch control := c.controlQueue(r.features); {
	case r.queue == control:
		c.control(r)
	case r.queue > control:
		r.done(0, broken("a request on a queue that its features do not have"))
	default:
		r.done(0, c.transmit(r))
	}
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
		c.net.wire.send(r.queue/2, parts)
	}
	return nil
}

func (c *card) control(r request) {
	if r.readBytes < controlHeader || r.writeBytes < 1 {
		r.done(0, broken("a control request without header or room for an answer"))
		return
	}
	first, _ := cut(r.readable, min(r.readBytes, controlMost))
	answer := byte(controlError)
	if c.command(r, gather(c.ram, first)) {
		answer = controlOK
	}
	_, last := cut(r.writable, r.writeBytes-1)
	scatter(c.ram, last, []byte{answer})
	r.done(uint32(r.writeBytes), nil)
}

// command carries out a request of the control queue, which begins with b. It returns false for one
// that makes no sense, or that a reset has overtaken.
func (c *card) command(r request, b []byte) bool {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	data := b[controlHeader:]
	switch {
	case r.life != c.dev.life:
	case b[0] == controlAnnounce && b[1] == controlAnnounceAck:
		c.announced()
		return true
	case b[0] == controlPairs && b[1] == controlPairsSet && len(data) >= 2:
		if c.use(int(le.Uint16(data)), r.features) {
			c.awaitFrames(r.life)
			return true
		}
	}
	return false
}

// awaitFrames waits for frames that were on their way to queues that are not used any more: they
// must not come after the answer. mu is held, and given up meanwhile. No frame waits once it is on
// its way.
func (c *card) awaitFrames(life uint64) {
	for c.dev.life == life && c.dev.works() && c.framesBeyond() {
		c.dev.given.Wait()
	}
}

// framesBeyond tells whether frames are on their way to queues that are not used.
func (c *card) framesBeyond() bool {
	for pair := c.used; pair < c.net.pairs(); pair++ {
		if q := c.dev.queues[2*pair+queueReceive]; q.taken != q.given {
			return true
		}
	}
	return false
}

// use makes the card use so many pairs of queues, if its driver knows of several. mu is held.
func (c *card) use(pairs int, features uint64) bool {
	if features&netMultiQueue == 0 || pairs < 1 || pairs > c.net.pairs() {
		return false
	}
	c.used = pairs
	return true
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

// setDown takes the link down or up, and tells whether it was not that already. A quiesced device
// shows it to its driver once it is resumed.
func (c *card) setDown(down bool) (changed bool) {
	c.dev.mu.Lock()
	defer c.dev.mu.Unlock()
	changed = c.down != down
	c.down = down
	if changed && !c.dev.quiet && !c.dev.closed {
		c.showLink()
	}
	return changed
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

// The card's own state is the status and the generation of the registers. A card that can use
// several pairs of queues also has how many it uses.
const (
	netSavedBytes = 3
	netSavedUsed  = 2
)

func (c *card) save() []byte {
	return append(append(le.AppendUint16(nil, c.status()), c.dev.generation), c.relied()...)
}

// relied implements [reliable]: which queues have frames is no register.
func (c *card) relied() []byte {
	if c.net.features&netMultiQueue == 0 {
		return nil
	}
	return le.AppendUint16(nil, uint16(c.used))
}

func (c *card) load(b []byte) error {
	want := netSavedBytes
	if c.net.features&netMultiQueue != 0 {
		want += netSavedUsed
	}
	if len(b) != want {
		return fmt.Errorf("%d bytes of a network card, want %d", len(b), want)
	}
	status := le.Uint16(b)
	if status&^(netLinkUp|netAnnounceNow) != 0 {
		return fmt.Errorf("status %#x of a network card", status)
	}
	used := 1
	if want > netSavedBytes {
		used = int(le.Uint16(b[netSavedBytes:]))
	}
	if used != 1 && !c.use(used, c.dev.driverFeatures) {
		return fmt.Errorf("a network card uses %d pairs of queues", used)
	}
	le.PutUint16(c.dev.config[netConfigStatus:], status)
	c.dev.generation = b[2]
	return nil
}

func (c *card) stay() {}

func (c *card) reset() {
	c.used = 1
	if c.dev != nil {
		le.PutUint16(c.dev.config[netConfigStatus:], c.status()&^netAnnounceNow)
	}
}
