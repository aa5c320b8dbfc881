package tagging

import (
	"fmt"
	"testing"
)

func BenchmarkWrite(b *testing.B) {
	for _, tasks := range []uint32{1, MaxTasks} {
		b.Run(fmt.Sprintf("tasks=%d", tasks), func(b *testing.B) {
			p := NewPort(nil)
			for id := range tasks {
				register(p, id)
			}
			b.ReportAllocs()
			for b.Loop() {
				enter(p, 0)
				exit(p, 0)
			}
		})
	}
}

// A ring makes the host read all slots.
func BenchmarkRing(b *testing.B) {
	for _, used := range []int{1, PageSlots} {
		b.Run(fmt.Sprintf("slots=%d", used), func(b *testing.B) {
			r := newRAM(4)
			p := NewPort(r)
			page := newPage(b, p, r)
			for i := range used {
				page.set(i, slotUsed, uint32(i), 0)
			}
			p.Attach(All, &recorder{})
			register(p, 0)
			b.ReportAllocs()
			for b.Loop() {
				page.setDepth(0, 1)
				enter(p, 0)
				page.setDepth(0, 0)
				exit(p, 0)
			}
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	p := NewPort(nil)
	for id := range uint32(MaxTasks) {
		enter(p, id)
	}
	for b.Loop() {
		p.Snapshot()
	}
}
