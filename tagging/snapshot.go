package tagging

import (
	"cmp"
	"math/bits"
	"slices"
	"time"
)

// Snapshot returns the port as it is now, for people.
func (p *Port) Snapshot() Info {
	info := p.describe()
	for _, r := range p.Declared() {
		info.DeclaredRanges++
		info.DeclaredBytes += r.Pages * PageSize
	}
	// Sort without the lock, so that vCPUs do not wait.
	slices.SortFunc(info.Tasks, func(a, b TaskInfo) int { return cmp.Compare(a.ID, b.ID) })
	return info
}

// describe is Snapshot with unsorted tasks.
func (p *Port) describe() Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, seen, valid := p.peek()
	if valid && p.attached == nil && !p.asking {
		// No listener is attached, so this look may count. It is how the times of fast tasks
		// advance without a migration.
		p.apply(&c, seen)
		c = change{}
	}
	info := Info{
		Epoch:       p.epoch,
		State:       p.state,
		GateAll:     p.table.gateAfter(All, &c).Open,
		GateAny:     p.table.gateAfter(Any, &c).Open,
		Page:        p.pageGPA(),
		DevicePages: bits.OnesCount32(p.device.committed),
		LapsedPages: p.device.lapsed,
		MaxTasks:    MaxTasks,
		Tasks:       p.table.infos(&c, p.now()),
		Counters:    p.counters,
		GuestErrors: p.errors,
	}
	p.addNames(info.Tasks)
	return info
}

// addNames adds the names in the tag pages. mu must be held.
func (p *Port) addNames(tasks []TaskInfo) {
	names := make(map[uint32]string)
	add := func(page *tagPage) {
		page.each(func(at int) {
			id := page.load(at + slotTaskAt)
			if _, named := names[id]; !named { // of two slots for one task, the first counts
				names[id] = page.name(at)
			}
		})
	}
	if p.page != nil {
		add(p.page)
	}
	for _, page := range p.device.all() {
		add(page)
	}
	for i := range tasks {
		if tasks[i].Fast {
			tasks[i].Name = names[tasks[i].ID]
		}
	}
}

// infos describes all tasks as they will be once c is applied.
func (tb *table) infos(c *change, now time.Time) []TaskInfo {
	infos := make([]TaskInfo, 0, len(tb.tasks)+len(c.edits))
	for id, t := range tb.tasks {
		e := c.find(id)
		if e == nil {
			infos = append(infos, t.info(id, now))
			continue
		}
		if e.event != Unregistered {
			infos = append(infos, t.edited(e, now).info(id, now))
		}
	}
	for i := range c.edits {
		e := &c.edits[i]
		if _, known := tb.tasks[e.id]; !known && e.event != Unregistered {
			infos = append(infos,
				task{depth: e.depth, fast: e.fast, since: now, marked: now}.info(e.id, now))
		}
	}
	return infos
}

// edited returns the task after e.
func (t task) edited(e *edit, now time.Time) task {
	t.sumUp(now)
	if (t.depth > 0) != (e.depth > 0) {
		t.since = now
	}
	t.depth, t.fast = e.depth, e.fast
	return t
}

func (t task) info(id uint32, now time.Time) TaskInfo {
	t.sumUp(now)
	return TaskInfo{
		ID:        id,
		Depth:     t.depth,
		Inside:    t.depth > 0,
		Fast:      t.fast,
		Since:     t.since,
		InsideMS:  ms(t.inside),
		OutsideMS: ms(t.outside),
		Segments:  t.segments,
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
