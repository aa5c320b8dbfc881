package guest_test

import (
	"fmt"

	"taskguide/tagging"
	"taskguide/tagging/guest"
)

// A program in a guest tags the stretches in which it writes little memory. Outside of this
// example, guest.Open finds the machine's tag port. Here, a port in this process stands for it.
func ExampleTask() {
	port := tagging.NewPort(nil)
	tags, err := guest.Over(port) // guest.Open()
	if err != nil {
		fmt.Println("no tag port, so run untagged:", err)
		return
	}
	gate := func() { fmt.Println("a migration may switch over:", port.Gate().Open) }

	task := tags.Task(1)
	gate()
	task.Segment(func() { gate() }) // wait for work
	gate()                          // do it
	task.Close()
	fmt.Println("closed:", tags.Close() == nil)
	// Output:
	// a migration may switch over: false
	// a migration may switch over: true
	// a migration may switch over: false
	// closed: true
}
