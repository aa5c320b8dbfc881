package virtio

import "time"

// After a move the switches of the network still send the guest's frames to the host that it came
// from, until they see one from here. So the card makes the guest announce itself
// (VIRTIO_NET_F_GUEST_ANNOUNCE), which its driver does for each of its addresses. For a driver
// without that feature the card itself sends a frame with the guest's address: a reverse ARP
// request (RFC 903), in which switches see where it comes from, and which everybody else ignores. A
// frame may be lost, in particular while a port of a switch is just coming up, so there are several
// rounds.
const announceRounds = 5

// announceDelays are the times before each round but the first.
var announceDelays = [announceRounds - 1]time.Duration{
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond,
}

// arrive implements [actor].
func (c *card) arrive() { c.rounds = announceRounds }

// announceSoon makes the next announcement after a delay, if there is one to make; the device's
// lock is held.
func (c *card) announceSoon(delay time.Duration) {
	if c.rounds > 0 {
		c.timer = time.AfterFunc(delay, c.announce)
	}
}

// announce makes an announcement, unless the device is quiesced meanwhile. Then it is made after
// the next resume.
func (c *card) announce() {
	d := c.dev
	d.mu.Lock()
	if d.quiet || d.closed || c.rounds == 0 {
		d.mu.Unlock()
		return
	}
	c.rounds--
	if c.rounds > 0 {
		c.announceSoon(announceDelays[announceRounds-1-c.rounds])
	}
	asks := d.works() && d.driverFeatures&netAnnounce != 0
	if asks {
		c.setStatus(c.status() | netAnnounceNow)
	}
	d.mu.Unlock()
	if !asks {
		frame := [][]byte{make([]byte, netHeaderBytes), c.net.MAC.rarp()}
		d.act(func() { c.net.wire.send(0, frame) })
	}
}

// announced is the driver's answer; the device's lock is held.
func (c *card) announced() {
	if c.status()&netAnnounceNow != 0 {
		le.PutUint16(c.dev.config[netConfigStatus:], c.status()&^netAnnounceNow)
		c.dev.generation++
	}
}

// rarp returns the frame that announces an address: a broadcast that asks which protocol address
// belongs to it.
func (m MAC) rarp() []byte {
	const (
		minimum  = 60 // bytes of a frame without its checksum
		ethernet = 1
		ipv4     = 0x0800
		request  = 3
	)
	frame := make([]byte, 0, minimum)
	for range len(m) {
		frame = append(frame, 0xff)
	}
	frame = append(frame, m[:]...)
	frame = append(frame, 0x80, 0x35) // its protocol
	frame = append(frame, 0, ethernet, ipv4>>8, ipv4&0xff, byte(len(m)), 4, 0, request)
	for range 2 { // the sender's addresses and the target's
		frame = append(frame, m[:]...)
		frame = append(frame, 0, 0, 0, 0)
	}
	return append(frame, make([]byte, minimum-len(frame))...)
}
