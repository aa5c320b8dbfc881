package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// execute runs a command as a task, and returns its exit status. With between, everything but its
// runs is the segment, for the parent of this program; else its run is. Without a daemon the
// command runs untagged.
func execute(socket string, between bool, command []string, stderr io.Writer) int {
	name := filepath.Base(command[0])
	end, err := beginTask(socket, between, name[:min(len(name), abi.SlotNameBytes)])
	if err != nil {
		fmt.Fprintln(stderr, "vmm-tag:", err)
	}
	defer end()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A terminal sends its signals to the command, too; this program waits for the command.
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT)
	defer signal.Reset(syscall.SIGINT, syscall.SIGQUIT)
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		fmt.Fprintln(stderr, "vmm-tag:", err)
		return 127
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// beginTask returns what ends it.
func beginTask(socket string, between bool, name string) (end func(), err error) {
	nothing := func() {}
	c, err := guest.Dial(socket)
	if err != nil {
		return nothing, err
	}
	ended := func() { _ = c.Close() }
	if between {
		if _, err := c.Ask(guest.Request{Op: "begin", Name: name}); err != nil {
			return ended, err
		}
		return func() {
			_, _ = c.Ask(guest.Request{Op: "end", Name: name})
			ended()
		}, nil
	}
	slot, err := c.Open(name)
	if err != nil {
		return ended, err
	}
	return func() {
		_ = slot.Exit()
		_ = slot.Close()
		ended()
	}, slot.Enter()
}
