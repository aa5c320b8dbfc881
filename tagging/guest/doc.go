// Package guest lets a program in a virtual machine say when it is easy to migrate.
//
// A live migration copies memory while the guest runs and stops it at the end to
// send what is still dirty. That end is short when the guest happens to write
// little. A program knows its own calm moments; it marks them as segments:
//
//	tags, err := guest.Open()
//	if errors.Is(err, guest.ErrNoPort) {
//		// not in such a machine, or not root: run untagged
//	}
//	task := tags.Task(id)
//	defer task.Close()
//	for {
//		task.Enter()
//		job := waitForJob() // writes little memory
//		task.Exit()
//		work(job) // writes a lot
//	}
//
// A task is whatever has phases of its own; its id must be unique in the machine.
// From Task to Close it takes part: by default, a migration waits until every task
// is inside a segment. A program that dies without Close leaves its tasks behind as
// they were, until the migration's patience ends.
//
// A tag leaves the machine and costs microseconds. With FastTags, tasks have slots
// in a page of memory shared with the host instead, tags cost nanoseconds, and the
// machine is left only while a migration goes on.
//
// Programs need the rights of root (CAP_SYS_RAWIO, and CAP_SYS_ADMIN for fast tags).
// The registers and the page are described in the tagging package; tag.h next to
// it is the same in C.
package guest
