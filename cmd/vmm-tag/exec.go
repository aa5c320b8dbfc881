package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
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
	caught := make(chan os.Signal, 8)
	if s := heeded(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP); len(s) > 0 {
		signal.Notify(caught, s...) // without any, it would be told of all
		defer signal.Stop(caught)
	}
	if err = cmd.Start(); err == nil {
		err = attend(cmd, caught)
	}
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

// attend waits for a command that was started. When a signal comes, this program waits on: a
// terminal sends its signals to the command, too. SIGTERM and SIGHUP are passed on, because others
// send them to this program alone.
func attend(cmd *exec.Cmd, caught <-chan os.Signal) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			return err
		case s := <-caught:
			if s == syscall.SIGTERM || s == syscall.SIGHUP {
				_ = cmd.Process.Signal(s)
			}
		}
	}
}

// heeded returns those of the signals that this program was not started to ignore. It ignores none
// itself, because a command would inherit that.
func heeded(signals ...os.Signal) []os.Signal {
	return slices.DeleteFunc(signals, signal.Ignored)
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
