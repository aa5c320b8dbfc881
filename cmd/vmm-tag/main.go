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
	"text/tabwriter"
	"time"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

const usage = `usage: vmm-tag daemon [--group NAME] [--device FOLDER] [--wake 200ms] [--lease 20]
       vmm-tag exec [--while|--between] [--] COMMAND...
       vmm-tag enter|exit TASK
       vmm-tag status
       vmm-tag watch
All take --socket FILE.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
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
	return 1
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
	switch args[0] {
	case "daemon":
		flags.StringVar(&c.group, "group", "", "")
		flags.StringVar(&c.device, "device", "", "")
		flags.DurationVar(&c.wake, "wake", 200*time.Millisecond, "")
		flags.IntVar(&c.leases, "lease", 20, "")
	case "exec":
		flags.BoolVar(&between, "between", false, "")
		flags.BoolVar(&while, "while", false, "")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2, errUsage
	}
	rest := flags.Args()
	switch {
	case args[0] == "daemon" && len(rest) == 0 && c.wake > 0 && c.leases >= 10:
		return 0, serve(ctx, c, slog.New(slog.NewTextHandler(stderr, nil)))
	case args[0] == "exec" && len(rest) > 0 && !(between && while):
		return execute(c.socket, between, rest, stderr), nil
	case (args[0] == "enter" || args[0] == "exit") && len(rest) == 1:
		return 0, tagScript(c.socket, args[0], rest[0], stderr)
	case args[0] == "status" && len(rest) == 0:
		return 0, showStatus(c.socket, stdout)
	case args[0] == "watch" && len(rest) == 0:
		return 0, watch(ctx, c.socket, stdout)
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

// states are what STATE says, for people.
var states = map[abi.MigrationState]string{
	abi.StateNone:          "no migration",
	abi.StateWaiting:       "migration requested",
	abi.StatePreCopy:       "memory is being copied",
	abi.StateSuspended:     "migration suspended",
	abi.StateSwitchingOver: "switching over",
}

// describe returns the state in words.
func describe(s *guest.Status) string {
	text := states[s.State]
	if s.DeadlineMS > 0 {
		text += fmt.Sprintf(", %.1f s left to say yes", float64(s.DeadlineMS)/1000)
	}
	return text
}

func ask(c *guest.Client) (*guest.Status, error) {
	a, err := c.Ask(guest.Request{Op: "status"})
	if err == nil && a.Status == nil {
		err = errors.New("the tag daemon does not answer")
	}
	return a.Status, err
}

func showStatus(socket string, stdout io.Writer) error {
	c, err := guest.Dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := ask(c)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s; epoch %d\n", describe(s), s.Epoch)
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	if len(s.Tasks) > 0 {
		fmt.Fprintln(table, "TASK\tSEGMENT\tDEPTH\tPID\tNAME")
	}
	for _, t := range s.Tasks {
		side := "outside"
		if t.Depth > 0 {
			side = "inside"
		}
		fmt.Fprintf(table, "%d\t%s\t%d\t%d\t%s\n", t.ID, side, t.Depth, t.PID, printable(t.Name))
	}
	return table.Flush()
}

// printable returns a name as a terminal can show it: a program chose it.
func printable(name string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, name)
}

// watchPace is how often watch asks.
const watchPace = 200 * time.Millisecond

// watch prints the state when it changes, and once a second while a deadline runs.
func watch(ctx context.Context, socket string, stdout io.Writer) error {
	c, err := guest.Dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	var last guest.Status
	first := true
	for {
		s, err := ask(c)
		if err != nil {
			return err
		}
		if first || s.State != last.State || s.DeadlineMS/1000 != last.DeadlineMS/1000 {
			fmt.Fprintln(stdout, describe(s))
		}
		if !first && s.Epoch != last.Epoch {
			fmt.Fprintf(stdout, "moved; epoch %d\n", s.Epoch)
		}
		last, first = *s, false
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPace):
		}
	}
}
