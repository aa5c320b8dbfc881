package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tagged:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "task":
		newProgram(args[1]).run()
		return nil
	case len(args) == 2 && args[0] == "pattern":
		return pattern(args[1])
	case len(args) == 2 && args[0] == "kills":
		seed, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		return kills(ctx, seed)
	case len(args) == 1 && args[0] == "clients":
		return clients()
	case len(args) == 1 && args[0] == "bench":
		return benchQuiet()
	case len(args) == 1 && args[0] == "ringing":
		return benchRinging()
	}
	return fmt.Errorf("unknown command %q", args)
}
