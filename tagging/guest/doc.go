// Package guest lets a program in a virtual machine say when it is easy to migrate.
//
// A live migration copies memory while the guest runs, and stops it at the end to send what is
// still dirty. If the guest writes little then, that end is short. A program knows its own calm
// moments, and marks them as segments:
//
//	tags, err := guest.Open()
//	if errors.Is(err, guest.ErrNoPort) {
//		// the machine has no tag port, or this is not root: run untagged
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
// A task is anything with phases of its own. Its id must be unique in the machine. It takes part
// from Task to Close: by default, a migration waits until every task is inside a segment. A program
// that dies without Close leaves its tasks in their last state, and migrations wait for them as
// long as their patience lasts.
//
// A tag leaves the machine and costs microseconds. With FastTags, tasks have slots in a page of
// memory shared with the host instead. Tags then cost nanoseconds, and leave the machine only
// during a migration.
//
// # Without rights
//
// Where the daemon of vmm-tag runs, a program needs no rights. [Connect] finds it, and
// [Program.Task] opens a task, whose slot is in the RAM of the tag device:
//
//	tags := guest.Connect() // daemon; else, as root, the device; else untagged
//	task := tags.Task("worker")
//	task.Segment(func() { job = waitForJob() })
//
// Nothing of this fails: an untagged program runs on, and one line says so. A program that dies is
// unregistered, and names of tasks are shown to the operator. [Program.OnMigration] has a program
// asked when a migration waits for it. [Dial] and [Client] are what that is made of.
//
// # With the rights of root
//
// [Open] works without a daemon. It needs the rights of root (CAP_SYS_RAWIO, and CAP_SYS_ADMIN for
// fast tags). Package tagging describes the registers and the page; its include/tag.h is the same
// in C.
package guest
