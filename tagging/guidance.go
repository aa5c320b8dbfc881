package tagging

// Attach begins a migration's guidance: from now on l is told of the gate under quorum, and tasks
// with fast tags ring the port. It returns the present gate, after which l's calls follow. It
// replaces a listener attached before. Attach waits for a write in progress, so a listener must not
// call it.
func (p *Port) Attach(quorum Quorum, l Listener) GateState {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached = &attachment{quorum: quorum, listener: l}
	// A task changes its slot and then loads notify. This side stores notify and then reads the
	// slots. So it either sees a change here, or the task rings.
	p.notify(true)
	p.refresh()
	return p.table.gate(quorum)
}

// Detach ends guidance. It does not wait: a call on a vCPU's thread may still be running when
// Detach returns, and a listener whose migration is over must at once return false from it. No
// other call follows.
func (p *Port) Detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached = nil
	p.notify(false)
}

// SetState sets what the guest reads from STATE.
func (p *Port) SetState(s MigrationState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = s
}

// Gate returns the gate under the quorum of the attached listener (All without one), with the tag
// page's present slots. So it may be ahead of the listener by changes for which fast tasks have yet
// to ring. While GateClosing asks about a plain task's EXIT, the gate is still open; about a fast
// task's, it is closed.
func (p *Port) Gate() GateState {
	p.mu.Lock()
	defer p.mu.Unlock()
	quorum := All
	if p.attached != nil {
		quorum = p.attached.quorum
	}
	c, _, _ := p.peek()
	return p.table.gateAfter(quorum, &c)
}

// Moved tells the port of a destination's machine that it is about to run: the migration is
// complete, and the guest can see that by EPOCH.
func (p *Port) Moved() {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
	p.state = StateNone
	// The page has arrived as it was at the source, with notify set there.
	p.notify(p.attached != nil)
	p.refresh()
}

// Quiesce keeps the port from writing to tag pages until Resume, whatever it is asked to do: the
// machine stands still, and its RAM may have been read for the last time. No register may be
// written meanwhile.
func (p *Port) Quiesce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = true
}

// Resume must be called before the machine runs again. Nobody has changed a slot since Quiesce, so
// setting notify now is early enough.
func (p *Port) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = false
	p.device.renew()
	if p.notifyDue {
		p.notify(p.attached != nil)
	}
}

// notify tells tasks with fast tags whether to ring. mu must be held.
func (p *Port) notify(on bool) {
	p.notifyDue = p.quiet
	if p.quiet {
		return
	}
	if p.page != nil {
		p.page.setNotify(on)
	}
	for _, page := range p.device.all() {
		page.setNotify(on)
	}
}

// refresh brings the table up to date with the tag page without telling the listener. Both locks
// must be held.
func (p *Port) refresh() {
	var c change
	seen := p.look(&c)
	p.apply(&c, seen)
}

// peek returns what the tag pages have that the table does not know, and the slots, or false if one
// of them is no longer a tag page. It changes nothing. mu must be held.
func (p *Port) peek() (c change, seen slots, valid bool) {
	if p.forgotten {
		return c, p.seen, false
	}
	seen = newSlots(len(p.seen.used))
	valid = p.page == nil || p.page.read(&seen)
	for _, page := range p.device.all() {
		valid = page.read(&seen) && valid
	}
	p.compare(&seen, &c)
	return c, seen, valid
}
