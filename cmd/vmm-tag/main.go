package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"taskguide/tagging/guest"
)

const usage = `usage: vmm-tag daemon [--group NAME] [--device FOLDER] [--wake 200ms] [--lease 20]
       vmm-tag exec [--while|--between] [--] COMMAND...
       vmm-tag enter|exit TASK
       vmm-tag status [--json] [TASK]
       vmm-tag watch [--json] [TASK]
All take --socket FILE.`

func main() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	// The others end by a signal as programs do: a daemon that hangs must not keep them, and exec
	// sees to itself.
	lasts := len(os.Args) > 1 && (os.Args[1] == "daemon" || os.Args[1] == "watch")
	if s := heeded(syscall.SIGTERM, syscall.SIGINT); lasts && len(s) > 0 {
		ctx, stop = signal.NotifyContext(ctx, s...)
		defer stop()
	}
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		raise() // programs that keep the guest busy must not keep it from renewing their leases
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// errUsage is returned for a command line that is not understood.
var errUsage = errors.New("usage")

// run carries out a command line, and returns the exit status: 2 for usage, 1 for other errors.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	status, err := command(ctx, args, stdout, stderr)
	if err == nil {
		return status
	}
	if errors.Is(err, errUsage) || errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	fmt.Fprintln(stderr, "vmm-tag:", err)
	return max(status, 1)
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	if len(args) == 0 {
		return 2, errUsage
	}
	c := config{}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.socket, "socket", guest.Socket, "")
	between, while := false, false
	out := display{to: stdout}
	switch args[0] {
	case "daemon":
		flags.StringVar(&c.group, "group", "", "")
		flags.StringVar(&c.device, "device", "", "")
		flags.DurationVar(&c.wake, "wake", 200*time.Millisecond, "")
		flags.IntVar(&c.leases, "lease", 20, "")
	case "exec":
		flags.BoolVar(&between, "between", false, "")
		flags.BoolVar(&while, "while", false, "")
	case "status", "watch":
		flags.BoolVar(&out.json, "json", false, "")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2, errUsage
	}
	rest := flags.Args()
	switch {
	case args[0] == "daemon" && len(rest) == 0:
		if err := c.check(); err != nil {
			return 2, err
		}
		return 0, serve(ctx, c, slog.New(slog.NewTextHandler(stderr, nil)))
	case args[0] == "exec" && len(rest) > 0 && !(between && while):
		return execute(c.socket, between, rest, stderr), nil
	case (args[0] == "enter" || args[0] == "exit") && len(rest) == 1:
		return 0, tagScript(c.socket, args[0], rest[0], stderr)
	case args[0] == "status" && len(rest) <= 1:
		out.task = strings.Join(rest, "")
		return 0, showStatus(c.socket, out)
	case args[0] == "watch" && len(rest) <= 1:
		out.task = strings.Join(rest, "")
		return 0, watch(ctx, c.socket, out)
	}
	return 2, errUsage
}

// tagScript tags for a shell script. Without a daemon the script goes on untagged.
func tagScript(socket, op, name string, stderr io.Writer) error {
	c, err := guest.Dial(socket)
	if err != nil {
		fmt.Fprintln(stderr, "vmm-tag:", err)
		return nil
	}
	defer c.Close()
	_, err = c.Ask(guest.Request{Op: op, Name: name})
	return err
}
