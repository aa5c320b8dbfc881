package main

import (
	"time"

	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// told is what a watcher knows.
type told struct {
	migration guest.Migration
	until     time.Time // when the migration is forced
	once      bool      // it knows something
}

// deadlineShift is how far a deadline moves before watchers are told of it: it stands still while
// nothing is held back, and the operator may set it anew.
const deadlineShift = time.Second

// changed tells whether a watcher is to be told.
func (t *told) changed(m guest.Migration, now time.Time) bool {
	last := t.migration
	if !t.once || m.State != last.State || m.Epoch != last.Epoch || m.Asked != last.Asked ||
		(m.DeadlineMS == 0) != (last.DeadlineMS == 0) {
		return true
	}
	left, ok := m.Left()
	return ok && now.Add(left).Sub(t.until).Abs() > deadlineShift
}

// asks tells whether programs outside of their segments hold a migration back.
func asks(s abi.MigrationState) bool {
	return s == abi.StateWaiting || s == abi.StateSuspended
}

// migration completes what the device says for one process; mu is held.
func (r *registry) migration(pid int, m guest.Migration) guest.Migration {
	o := r.owners[pid]
	if o == nil || !asks(m.State) {
		return m
	}
	for _, t := range o.tasks {
		m.Asked = m.Asked || r.pages.depth(t.page, t.slot) == 0
	}
	return m
}

// tell tells the watchers what has changed. Who does not read is told later, of the last change.
func (r *registry) tell(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers) == 0 {
		return
	}
	state := r.pages.state()
	for s, t := range r.watchers {
		m := r.migration(s.pid, state)
		if !t.changed(m, now) || s.send(guest.Answer{Migration: &m}) != nil {
			continue
		}
		left, _ := m.Left()
		*t = told{m, now.Add(left), true}
	}
}

// send sends a packet, or fails if it would have to wait.
func (s *session) send(a guest.Answer) error {
	text, err := encode(a)
	if err != nil {
		return err
	}
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	// Control does not wait for an answer that is being written to a program that does not read.
	var errSend error
	err = raw.Control(func(fd uintptr) {
		errSend = unix.Send(int(fd), text, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	if err == nil {
		err = errSend
	}
	return err
}
