// Command vmm-tag lets the programs of a Linux guest take part in task guidance, without rights of
// their own.
//
//	vmm-tag daemon                            owns the tag device
//	vmm-tag exec [--while|--between] -- CMD   runs a command as a task
//	vmm-tag enter|exit TASK                   from a shell script
//	vmm-tag status|watch [--json] [TASK]
//
// The daemon runs as root and opens the device: its registers (BAR 0) and its RAM (BAR 2). Programs
// connect to the daemon's socket, and get a slot and the RAM's descriptor. From then on a tag is a
// store, a fence and a load. Package tagging/guest has their side and the protocol.
//
//	main.go      the command line
//	show.go      status and watch
//	exec.go      a command as a task
//	daemon.go    the daemon's life: its socket, its wake-ups
//	session.go   a connection, and what is asked on it
//	tasks.go     tasks and who owns them
//	watchers.go  who is told of migrations
//	pages.go     pages and slots of the device's RAM
//	process.go   how a process's death is noticed
//	share/       the manual page, and completions for shells
package main
