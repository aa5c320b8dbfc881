// Command batch is a program for a Linux guest. It works in batches, and tags the wait between
// them. It also runs where there is no tag port, on any machine.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"taskguide/tagging/guest"
)

func main() {
	batches := flag.Int("batches", 3, "how many, 0 for ever")
	flag.Parse()
	tags, err := guest.Open()
	if err != nil {
		fmt.Fprintln(os.Stderr, "batch: not tagged:", err)
		run(*batches, wait)
		return
	}
	task := tags.Task(1) // an id that no other task of this machine has
	run(*batches, func() { task.Segment(wait) })
	task.Close()
	if err := tags.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "batch:", err)
		os.Exit(1)
	}
}

// run works and waits in turn.
func run(batches int, wait func()) {
	memory := make([]byte, 16<<20)
	for n := 1; batches == 0 || n <= batches; n++ {
		for i := range memory {
			memory[i]++ // busy: every page is written
		}
		fmt.Println("batch", n, "done")
		wait()
	}
}

// wait is the calm stretch: it writes hardly any memory, so a migration can stop the machine here.
func wait() { time.Sleep(100 * time.Millisecond) }
