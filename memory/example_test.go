package memory_test

import (
	"fmt"

	"taskguide/memory"
)

// A round of a migration sends the pages that are dirty, run by run, while the pages that the guest
// writes meanwhile are collected in a second set. Then the two make the next round.
func ExampleBitmap() {
	const pages = 1 << 18 // a guest of 1 GiB
	pending, next := memory.NewBitmap(pages), memory.NewBitmap(pages)
	pending.SetRange(100, 3)
	pending.Set(200000)

	for at := 0; ; {
		first, count := pending.NextRun(at, 16)
		if count == 0 {
			break
		}
		fmt.Printf("send %d pages from %d on\n", count, first)
		pending.ClearRange(first, count)
		at = first + count
	}

	next.Set(101) // the guest wrote here
	dirtied, _ := pending.Take(next)
	fmt.Println("next round:", dirtied, "page")
	// Output:
	// send 3 pages from 100 on
	// send 1 pages from 200000 on
	// next round: 1 page
}
