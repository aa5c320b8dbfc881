// Command garbage is a Go program for a Linux guest, with a heap that is mostly garbage. When a
// migration asks, it says yes, with --giveback after it has given its garbage back. Then it says
// what its heap costs it: the time and the page faults of filling as much memory again.
package main

import (
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"taskguide/tagging/guest"
)

const (
	piece     = 1 << 20
	keepOneOf = 5
)

// heap is what the program needs: one of five pieces that it has made.
type heap struct {
	pieces [][]byte
	sum    uint32
}

func newHeap(mib int, rnd *rand.ChaCha8) *heap {
	h := &heap{}
	for i := range mib {
		p := make([]byte, piece)
		_, _ = rnd.Read(p)
		if i%keepOneOf == 0 {
			h.pieces = append(h.pieces, p)
			h.sum = crc32.Update(h.sum, crc32.IEEETable, p)
		}
	}
	return h
}

func (h *heap) intact() bool {
	sum := uint32(0)
	for _, p := range h.pieces {
		sum = crc32.Update(sum, crc32.IEEETable, p)
	}
	return sum == h.sum
}

func faults() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Minflt
}

func main() {
	mib := flag.Int("mib", 100, "size of the heap, in MiB")
	giveBack := flag.Bool("giveback", false, "give garbage back before saying yes")
	flag.Parse()
	debug.SetGCPercent(-1) // the garbage stays until somebody collects it
	h := newHeap(*mib, rand.NewChaCha8([32]byte{7}))
	done := make(chan struct{})
	stop := guest.Connect().OnMigration("garbage", func(q *guest.Question) {
		before := time.Now()
		if *giveBack {
			q.GiveBack()
		}
		prepared := time.Since(before)
		moved := q.Yes()
		runtime.GC()
		at, faulted := time.Now(), faults()
		newHeap(*mib*(keepOneOf-1)/keepOneOf, rand.NewChaCha8([32]byte{8}))
		fmt.Printf("garbage: moved=%t intact=%t prepared_ms=%d again_ms=%d faults=%d\n", moved,
			h.intact(), prepared.Milliseconds(), time.Since(at).Milliseconds(), faults()-faulted)
		close(done)
	})
	fmt.Println("garbage: ready.")
	<-done
	stop()
	fmt.Println("garbage: done.")
}
