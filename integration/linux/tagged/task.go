package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"taskguide/tagging/guest"
)

// A program is inside its segment for insideTime, and outside for about outsideTime.
const (
	insideTime  = 600 * time.Millisecond
	outsideTime = 300 * time.Millisecond
	retry       = 100 * time.Millisecond
)

// program is a task with segments. Its fields after last are counts.
type program struct {
	name   string
	memory [16 << 10]uint64 // what it writes outside
	client *guest.Client    // nil: untagged
	slot   *guest.Slot
	last   uint32 // epoch at the end of the stretch before

	inside    int // moves within segments
	outside   int // moves outside: there must be none
	stretches int // outside a segment, with an epoch at both ends
}

func newProgram(name string) *program { return &program{name: name} }

// run never returns. Without a daemon the program runs untagged, and asks again and again for one.
func (p *program) run() {
	for {
		if p.slot == nil {
			p.open()
		}
		time.Sleep(insideTime/2 + rand.N(insideTime))
		p.outsideOnce()
	}
}

// open makes the program a task, inside of its segment.
func (p *program) open() {
	c, err := guest.Dial(guest.Socket)
	if err != nil {
		return
	}
	slot, err := c.Open(p.name)
	if err == nil {
		p.last, err = epoch(c) // outside of a segment, where it stays as it is
	}
	if err == nil {
		err = slot.Enter()
	}
	if err != nil {
		_ = c.Close()
		return
	}
	p.client, p.slot = c, slot
	p.say("tagged")
}

// lose makes the program untagged.
func (p *program) lose() {
	_ = p.client.Close()
	p.client, p.slot = nil, nil
	p.say("untagged")
}

// outsideOnce leaves the segment, writes memory, and enters the next one.
func (p *program) outsideOnce() {
	if p.slot == nil {
		p.work()
		return
	}
	if p.slot.Exit() != nil {
		p.work()
		p.lose()
		return
	}
	before, errBefore := epoch(p.client)
	p.work()
	after, errAfter := epoch(p.client)
	// A slot that is not this program's any more says that it was untagged for a part of that.
	if errBefore != nil || errAfter != nil || !p.slot.Alive() {
		p.lose()
		return
	}
	p.count(before, after)
	if p.slot.Enter() != nil {
		p.lose()
	}
}

// count adds a stretch, which began and ended at these epochs.
func (p *program) count(before, after uint32) {
	p.stretches++
	moved := before != p.last
	p.inside += int(before - p.last)
	if before != after {
		p.outside += int(after - before)
		p.say(fmt.Sprintf("moved outside of its segment, from epoch %d to %d,", before, after))
	}
	p.last = after
	if moved {
		p.say("moved")
	}
}

func (p *program) say(what string) {
	fmt.Printf("%s: %s epoch=%d inside=%d outside=%d stretches=%d.\n", p.name, what, p.last,
		p.inside, p.outside, p.stretches)
}

// work writes memory, and checks that what it wrote is there.
func (p *program) work() {
	for end := time.Now().Add(outsideTime); time.Now().Before(end); {
		seed := rand.Uint64()
		for i := range p.memory {
			p.memory[i] = seed + uint64(i)
		}
		for i, v := range p.memory {
			if v != seed+uint64(i) {
				fmt.Printf("%s: FAULT: word %d is %#x, not %#x\n", p.name, i, v, seed+uint64(i))
			}
		}
	}
}

// epoch returns how many times this machine has moved.
func epoch(c *guest.Client) (uint32, error) {
	a, err := c.Ask(guest.Request{Op: "status"})
	if err != nil || a.Status == nil {
		return 0, guest.ErrUntagged
	}
	return a.Status.Epoch, nil
}
