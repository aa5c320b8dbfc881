package tagging

// Attach begins a migration's guidance: from now on l is told of the gate under
// policy, and tasks with fast tags ring the port. It returns the gate as it is, after
// which l's calls follow. A listener attached before is replaced. Attach waits for
// a write in progress, so it must not be called from a listener.
func (p *Port) Attach(policy Policy, l Listener) GateState {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attached = &attachment{policy: policy, listener: l}
	// A task changes its slot, then loads notify; this stores notify, then reads
	// the slots. So a change is either seen here or rung.
	p.notify(true)
	p.refresh()
	return p.table.gate(policy)
}

// Detach ends guidance. It does not wait: a call that a vCPU is making may still be
// running when Detach returns, and a listener whose migration is over must answer it
// without delay, false. No other call follows.
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

// Gate returns the gate under the policy of the attached listener (All without
// one), with the tag page's slots as they are now. So it may be ahead of the
// listener by what fast tasks are about to ring for: while GateClosing asks about a
// plain task's EXIT the gate is still open, about a fast task's it is closed.
func (p *Port) Gate() GateState {
	p.mu.Lock()
	defer p.mu.Unlock()
	policy := All
	if p.attached != nil {
		policy = p.attached.policy
	}
	c, _, _ := p.peek()
	return p.table.gateAfter(policy, &c)
}

// Moved tells the port of a destination's machine that it is about to run: the
// migration is complete, and the guest can see that from EPOCH.
func (p *Port) Moved() {
	p.order.Lock()
	defer p.order.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
	p.state = StateNone
	// The page has arrived as it was at the source, with notify set.
	p.notify(p.attached != nil)
	p.refresh()
}

// notify tells tasks with fast tags whether to ring. Called with mu held.
func (p *Port) notify(on bool) {
	if p.page != nil {
		p.page.setNotify(p.mem, on)
	}
}

// refresh brings the table up to date with the tag page, past the listener. Called
// with both locks held.
func (p *Port) refresh() {
	var c change
	seen := p.look(&c)
	p.apply(&c, seen)
}

// peek returns what the tag page says that the table does not know, and the slots;
// false if the page is no tag page any more. Nothing changes. Called with mu held.
func (p *Port) peek() (c change, seen slots, valid bool) {
	valid = p.page == nil || p.page.read(&seen)
	p.compare(&seen, &c)
	return c, seen, valid
}
