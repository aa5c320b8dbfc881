package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// watchProcess calls dead once the process has ended. A connection alone would not tell: a child
// that the process forked may hold on to it.
func watchProcess(pid int, dead func()) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	raw, err := f.SyscallConn()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	go func() {
		defer f.Close()
		_ = raw.Read(func(fd uintptr) (done bool) {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(poll, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		dead()
	}()
	return nil
}

// raise gives this process the highest priority of a usual one, if it may. Threads that begin later
// have that of the thread which begins them, so it looks until there is none left to raise: one
// that was still to be raised may have begun another meanwhile.
func raise() {
	for raisedSome() {
	}
}

func raisedSome() (some bool) {
	const highest = -20
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		// The system call returns 20 minus the priority.
		is, err := unix.Getpriority(unix.PRIO_PROCESS, id)
		if err != nil || 20-is == highest {
			continue
		}
		if unix.Setpriority(unix.PRIO_PROCESS, id, highest) == nil {
			some = true
		}
	}
	return some
}

// parentOf returns the process that started another one.
func parentOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command's name is in parentheses, and may have some itself.
	_, rest, _ := strings.Cut(string(text[max(0, strings.LastIndex(string(text), ")")):]), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, fmt.Errorf("process %d has no parent", pid)
	}
	return strconv.Atoi(fields[1])
}
